// The properties of the paravirt_ops guest's drivers: random plans of faults, of what is to be done with a
// disk and a network, and of what a person with `xl` does meanwhile (driver-play.ts judges).
//
// Events of dom0 that never arrive (upcall.drop) are no part of it: Xen loses none, and no driver of any
// system waits for that with a clock.
import fc from 'fast-check';
import { FAULT_NAMES, type FaultName, type FaultSpec } from '../abi/faults.ts';
import type { DiskStep, NetStep } from '../guest/drivers/plan.ts';
import { MemoryPool } from '../machine/memory-pool.ts';
import { DISK_PAGES, DRIVER_JUDGES, driverProblems, type DriverCommand, type DriverJudge, type DriverProgram } from './driver-play.ts';
import { runProperty, type PropertyRun } from './property-run.ts';

export interface DriverProperty {
  readonly name: string;
  readonly claim: string;
  readonly judges: readonly DriverJudge[];
}

export const DRIVER_PROPERTIES: readonly DriverProperty[] = [
  { name: 'drivers', claim: 'under every fault plan no acknowledged write is lost or torn, no frame reaches a socket twice, and the guest recovers or stops and says why', judges: DRIVER_JUDGES },
  { name: 'driver-writes', claim: 'what a disk has acknowledged is on it, whole, whatever fails meanwhile', judges: ['writes'] },
  { name: 'driver-frames', claim: 'no frame reaches the guest\'s network more often than dom0 has delivered it', judges: ['frames'] },
  { name: 'driver-recovery', claim: 'whatever fails, the guest gives everything back and powers off, or stops and says why; it never waits for ever', judges: ['recovery'] },
];
export const driverPropertyByName = (name: string): DriverProperty | undefined => DRIVER_PROPERTIES.find((property) => property.name === name);

const NEVER: ReadonlySet<FaultName> = new Set(['upcall.drop']);
const faults = fc.uniqueArray(
  fc.record({ fault: fc.constantFrom(...FAULT_NAMES.filter((name) => !NEVER.has(name))), oneIn: fc.constantFrom(1, 2, 3, 5, 10, 30, 100), most: fc.constantFrom(1, 3, 20, 1000) }),
  { maxLength: 4, selector: ({ fault }) => fault },
) as fc.Arbitrary<FaultSpec[]>;

const range = fc.tuple(fc.nat({ max: DISK_PAGES - 1 }), fc.integer({ min: 1, max: 30 })).map(([page, pages]) => ({ page, pages: Math.min(pages, DISK_PAGES - page) }));
const value = fc.integer({ min: 1, max: 99 });
const diskStep: fc.Arbitrary<DiskStep> = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(range, value, fc.boolean()).map(([at, of, barrier]): DiskStep => ({ do: 'write', ...at, value: of, ...(barrier ? { barrier } : {}) })) },
  { weight: 1, arbitrary: fc.constant<DiskStep>({ do: 'flush' }) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 500_000 }).map((ns): DiskStep => ({ do: 'sleep', ns })) },
);
const netStep: fc.Arbitrary<NetStep> = fc.record({ do: fc.constantFrom('ping' as const, 'udp' as const), to: fc.constant('10.77.0.1'), times: fc.integer({ min: 1, max: 4 }) });

const device = fc.constantFrom('xvda', 'vif0');
const delayNs = fc.oneof(fc.integer({ min: 1, max: 300_000 }), fc.integer({ min: 1, max: 5_000_000 }));
const command: fc.Arbitrary<DriverCommand['command']> = fc.oneof(
  { weight: 3, arbitrary: fc.constant({ do: 'save-restore' as const }) },
  { weight: 2, arbitrary: device.map((name) => ({ do: 'detach' as const, device: name })) },
  { weight: 2, arbitrary: device.map((name) => ({ do: 'attach' as const, device: name })) },
  { weight: 1, arbitrary: device.map((name) => ({ do: 'detach' as const, device: name, force: true })) },
  { weight: 1, arbitrary: fc.constantFrom('poweroff' as const, 'reboot' as const).map((how) => ({ do: 'shutdown' as const, how })) },
);

export const driverPrograms = (): fc.Arbitrary<DriverProgram> => fc.record({
  paging: fc.constantFrom('pae' as const, 'nopae' as const), seed: fc.nat({ max: 0xffff }), disk: fc.array(diskStep, { maxLength: 5 }), net: fc.array(netStep, { maxLength: 2 }), faults,
  commands: fc.array(fc.record({ delayNs, command }), { maxLength: 3 }),
});

export interface DriverPropertyResult {
  readonly property: string;
  readonly seed: number;
  readonly runs: number;
  readonly failure?: { readonly program: DriverProgram; readonly problems: readonly string[] };
}

export interface CheckDriverOptions {
  readonly runs?: number;
  readonly seed?: number;
  readonly problemsOf?: typeof driverProblems;
}

export function driverPropertyRun({ name, judges }: DriverProperty, { runs = 100, seed = 1, problemsOf = driverProblems }: CheckDriverOptions = {}): PropertyRun<DriverProgram, DriverPropertyResult> {
  const pool = new MemoryPool();
  return {
    programs: driverPrograms(),
    holds: (program) => problemsOf(program, judges, undefined, pool).length === 0,
    parameters: { numRuns: runs, seed },
    result: ({ failed, counterexample, numRuns }) => {
      if (!failed || counterexample === null) return { property: name, seed, runs: numRuns };
      const [program] = counterexample;
      return { property: name, seed, runs: numRuns, failure: { program, problems: problemsOf(program, judges) } };
    },
  };
}

/** Plays random programs until one fails, and makes that one small. */
export const checkDriverProperty = (property: DriverProperty, options: CheckDriverOptions = {}): DriverPropertyResult => runProperty(driverPropertyRun(property, options));

/** For tests: throws an error that holds the smallest program. */
export function assertDriverProperty(name: string, options: { readonly runs?: number; readonly seed?: number } = {}): void {
  const property = driverPropertyByName(name);
  if (property === undefined) throw new Error(`no property is called ${name}; there are ${DRIVER_PROPERTIES.map((each) => each.name).join(', ')}`);
  const { failure, runs, seed } = checkDriverProperty(property, options);
  if (failure !== undefined) throw new Error([`${name}: BROKEN by program ${runs} of seed ${seed}; the smallest found:`, JSON.stringify(failure.program), ...failure.problems.slice(0, 5)].join('\n'));
}
