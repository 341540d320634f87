// What `--set key=value` can change in a world's spec: one row a key.
import { FAULT_NAMES, isFaultName, type FaultSpec } from '../abi/faults.ts';
import { isPlantedBug, PLANTED_BUGS } from '../abi/planted.ts';
import { UsageError } from '../base/assert.ts';
import { MOST_VIRTUAL_SEC, type DomainSpec, type WorldSpec } from './spec.ts';

interface Setting {
  readonly about: string;
  /** Returns the changed spec, or a sentence that says what the value must be. */
  readonly apply: (spec: WorldSpec, value: string) => WorldSpec | string;
}

const integer = (value: string, least: number, most: number): number | undefined => {
  if (!/^[0-9_]+$/.test(value)) return undefined;
  const parsed = Number(value.replaceAll('_', ''));
  return Number.isSafeInteger(parsed) && parsed >= least && parsed <= most ? parsed : undefined;
};

const onFirstDomain = (spec: WorldSpec, change: (domain: DomainSpec) => DomainSpec): WorldSpec => ({
  ...spec,
  domains: spec.domains.map((domain, index) => (index === 0 ? change(domain) : domain)),
});

const number = (about: string, least: number, most: number, change: (spec: WorldSpec, value: number) => WorldSpec): Setting => ({
  about,
  apply: (spec, value) => {
    const parsed = integer(value, least, most);
    return parsed === undefined ? `a whole number from ${least} to ${most}` : change(spec, parsed);
  },
});

export const SETTINGS: Readonly<Record<string, Setting>> = {
  memory: number('MiB of memory of the first domain', 4, 3500, (spec, memoryMib) => onFirstDomain(spec, (domain) => ({ ...domain, memoryMib }))),
  cmdline: { about: "the first domain's command line", apply: (spec, cmdline) => onFirstDomain(spec, (domain) => ({ ...domain, cmdline })) },
  'max-instructions': number('instruction limit of the whole run', 1, Number.MAX_SAFE_INTEGER, (spec, maxInstructions) => ({ ...spec, maxInstructions })),
  'max-time': number('limit of the virtual time, seconds', 1, MOST_VIRTUAL_SEC, (spec, maxVirtualSec) => ({ ...spec, maxVirtualSec })),
  timeslice: number('instructions between two looks of the scheduler', 1_000, 1_000_000_000, (spec, timesliceInsns) => ({ ...spec, timesliceInsns })),
  'digest-every': number('instructions between two state digests, 0 for none', 0, Number.MAX_SAFE_INTEGER, (spec, digestEveryInsns) => ({ ...spec, digestEveryInsns })),
  'wall-clock': number('seconds since 1970 at virtual time zero', 0, 0xffff_ffff, (spec, wallClockAtZeroSec) => ({ ...spec, wallClockAtZeroSec })),
  'ns-per-insn': {
    about: 'virtual nanoseconds per instruction, N or N/D',
    apply: (spec, value) => {
      const [num, den] = value.split('/').map((part) => integer(part, 1, 1_000_000));
      if (num === undefined || (value.includes('/') && den === undefined)) return 'a whole number or a fraction such as 1/2';
      return { ...spec, nsPerInsn: { num, den: den ?? 1 } };
    },
  },
  faults: {
    about: 'what may go wrong: NAME:N,... for one in N cases, NAME:N:M for at most M times, NAME:N:M:MS (M may be left out) not before so many ms of virtual time',
    apply: (spec, value) => {
      const faults = value.split(',').map((part): FaultSpec | undefined => {
        const [name = '', oneInText = '', mostText, fromText] = part.split(':');
        const oneIn = integer(oneInText, 1, 1_000_000);
        const most = mostText === undefined || (mostText === '' && fromText !== undefined) ? Infinity : integer(mostText, 0, Number.MAX_SAFE_INTEGER);
        const fromMs = fromText === undefined ? 0 : integer(fromText, 0, 1_000_000_000);
        if (!isFaultName(name) || oneIn === undefined || most === undefined || fromMs === undefined) return undefined;
        return { fault: name, oneIn, ...(most === Infinity ? {} : { most }), ...(fromMs === 0 ? {} : { fromNs: fromMs * 1_000_000 }) };
      });
      if (faults.some((fault) => fault === undefined)) return `a list such as upcall.delay:10,block.error:100:1, of these faults: ${FAULT_NAMES.join(', ')}`;
      return { ...spec, faults: [...(spec.faults ?? []), ...(faults as FaultSpec[])] };
    },
  },
  bug: {
    about: 'a mistake planted in the paravirt_ops guest or in the back ends, to be found',
    apply: (spec, value) => (isPlantedBug(value) ? { ...spec, bug: value } : `one of ${PLANTED_BUGS.join(', ')}`),
  },
  conduct: {
    about: 'whether the run ends where a guest or a back end does not behave towards the other',
    apply: (spec, value) => (value === 'on' || value === 'off' ? { ...spec, conduct: value === 'on' } : 'on or off'),
  },
  'xen-build': {
    about: 'release or debug build of Xen',
    apply: (spec, value) => (value === 'release' || value === 'debug' ? { ...spec, xenBuild: value } : 'release or debug'),
  },
};

/** Applies `key=value` texts in order. Throws UsageError with the known keys. */
export function applySettings(spec: WorldSpec, assignments: readonly string[]): WorldSpec {
  let changed = spec;
  for (const assignment of assignments) {
    const equals = assignment.indexOf('=');
    if (equals <= 0) throw new UsageError(`--set ${assignment}: write it as key=value; the keys are ${Object.keys(SETTINGS).join(', ')}`);
    const key = assignment.slice(0, equals);
    const value = assignment.slice(equals + 1);
    changed = applySetting(changed, key, value, `--set ${assignment}`);
  }
  return changed;
}

/** `said`: the words by which the user asked for it. Throws UsageError. */
export function applySetting(spec: WorldSpec, key: string, value: string, said: string): WorldSpec {
  const row = Object.hasOwn(SETTINGS, key) ? SETTINGS[key] : undefined;
  if (row === undefined) throw new UsageError(`${said}: there is no setting ${key}; the keys are ${Object.keys(SETTINGS).join(', ')}`);
  const result = row.apply(spec, value);
  if (typeof result === 'string') throw new UsageError(`${said}: ${key} (${row.about}) must be ${result}`);
  return result;
}
