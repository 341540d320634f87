// From a spec and its images to a world that is ready to run: machine, hypervisor, domains, back
// ends of dom0. Everything that a real toolstack does before it unpauses a guest.
import { assert, UsageError } from '../base/assert.ts';
import { MachineMemory } from '../machine/memory.ts';
import { createCpu } from '../x86/create.ts';
import type { Cpu, CpuOptions } from '../x86/cpu.ts';
import { ConsoleBackend } from '../dom0/console.ts';
import { writeDomainEntries } from '../dom0/domain-entries.ts';
import type { ConsolePort, RingPort, SharedPage } from '../dom0/ports.ts';
import { StoreRing } from '../dom0/store-ring.ts';
import { Xenstored } from '../dom0/xenstored.ts';
import { buildDomain, type BuiltDomain } from '../hypervisor/build/build-domain.ts';
import type { KernelImage } from '../hypervisor/build/kernel-image.ts';
import { pvCpuid, pvCpuid64 } from '../hypervisor/cpuid.ts';
import { connectBackend, notifyFromBackend } from '../hypervisor/event-channels.ts';
import { hypercallRows } from '../hypervisor/hypercall-rows.ts';
import { createHypervisor } from '../hypervisor/hypervisor.ts';
import { XEN_BUILDS } from '../hypervisor/personality.ts';
import type { Choices } from './choices.ts';
import type { InputSource } from './input.ts';
import type { WorldSpec } from './spec.ts';
import { World, type EventSink, type Observers, type Service } from './world.ts';

/** The files of one domain, ready to load. */
export interface DomainImages {
  readonly kernel: KernelImage;
  readonly ramdisk: Uint8Array | undefined;
}

export interface WorldOptions {
  readonly spec: WorldSpec;
  /** In the order of spec.domains. */
  readonly images: readonly DomainImages[];
  readonly choices: Choices;
  readonly input: (domIdOf: (name: string) => number | undefined) => InputSource;
  readonly observers?: Observers;
  /** Made before the first event happens. */
  readonly sink?: (world: World) => EventSink | undefined;
  readonly tier?: NonNullable<CpuOptions['tier']>;
  /** Milliseconds, for the profile only. */
  readonly clock?: () => number;
}

const FIRST_DOMID = 1;
const FRAMES_PER_MIB = 256;
/** Low memory, Xen's tables and what a domain costs besides its memory. */
const XEN_FRAMES = 1024;

/** Throws UsageError when the spec cannot be had (memory, kernel that does not fit). */
export function buildWorld(options: WorldOptions): World {
  const { spec } = options;
  if (spec.domains.length === 0) throw new UsageError('a world needs at least one domain');
  const guestFrames = spec.domains.reduce((sum, domain) => sum + domain.memoryMib * FRAMES_PER_MIB, 0);
  // The machine-to-phys tables take 12 bytes a frame.
  const frameCount = guestFrames + XEN_FRAMES + Math.ceil((guestFrames * 12) / 4096) + spec.domains.length * 64;
  const machine = new MachineMemory({ frameCount, arenaBytes: arenaBytes(frameCount, spec.domains.length) });
  const domIdOf = (name: string): number | undefined => {
    const index = spec.domains.findIndex((domain) => domain.name === name);
    return index < 0 ? undefined : FIRST_DOMID + index;
  };
  const world = new World(spec, machine, options.choices, options.input(domIdOf), options.observers ?? {});
  world.hv = createHypervisor({ machine, world, build: XEN_BUILDS[spec.xenBuild], hypercallRows });
  world.sink = options.sink?.(world);
  if (options.clock !== undefined) world.profile = { clock: options.clock, processorMs: 0, hypervisorMs: 0 };
  const stores: Stores = { store: new Xenstored(), rings: [] };
  spec.domains.forEach((domain, index) => addDomain(world, stores, options, FIRST_DOMID + index, index, domain.name));
  return world;
}

/** Per-frame tables, and a processor's state, TLB and jump cache. */
function arenaBytes(frameCount: number, cpus: number): number {
  const WASM_PAGE = 65536;
  return Math.ceil((frameCount * 40 + cpus * 2 * 1024 * 1024 + 8 * 1024 * 1024) / WASM_PAGE) * WASM_PAGE;
}

function addDomain(world: World, stores: Stores, options: WorldOptions, domId: number, index: number, name: string): void {
  const spec = options.spec.domains[index];
  const images = options.images[index];
  assert(spec !== undefined && images !== undefined, `domain ${name} has no spec or no images`);
  // Long mode is not in the processor model yet: better no world than one that crashes at once.
  const wide = images.kernel.wordBits === 64;
  if (wide) throw new UsageError(`${spec.kernel.name} is a 64-bit kernel; this version runs 32-bit PV kernels only`);
  const cpu = createCpu(world.machine, {
    exceptions: 'exit',
    cpuid: wide ? pvCpuid64 : pvCpuid,
    pdpteCached: images.kernel.abi.startsWith('xen3'),
    tier: options.tier ?? 'auto',
    clock: options.clock,
  });
  const built = buildDomain(world.hv, {
    domId, name, image: images.kernel, memoryMib: spec.memoryMib, cmdline: spec.cmdline, cpus: [cpu as Cpu],
    ...(images.ramdisk === undefined ? {} : { ramdisk: images.ramdisk }),
  });
  if ('problem' in built) throw new UsageError(`${spec.kernel.name} ${built.problem}`);
  connectServices(world, stores, built, spec.memoryMib);
  world.vcpuRunnable(domId, 0, true);
}

function connectServices(world: World, stores: Stores, built: BuiltDomain, memoryMib: number): void {
  const { domain } = built;
  const { store } = stores;
  const { domId } = domain;
  connectBackend(world.hv, domId, built.storePort);
  connectBackend(world.hv, domId, built.consolePort);
  writeDomainEntries(store, {
    domId, name: domain.name, memoryKib: memoryMib * 1024, vcpus: domain.vcpus.length,
    storeMfn: built.storeMfn, storePort: built.storePort, consoleMfn: built.consoleMfn, consolePort: built.consolePort,
  });
  const storeRing = new StoreRing(store, domId, ringPort(world, domId, 'xenstore', built.storeMfn, built.storePort));
  storeRing.connect();
  stores.rings.push(storeRing);
  world.addService(domId, storeService(stores, storeRing), [built.storePort]);
  const consolePort: ConsolePort = { ...ringPort(world, domId, 'console', built.consoleMfn, built.consolePort), output: (bytes) => world.consoleOut(domId, bytes) };
  const console = new ConsoleBackend(consolePort);
  console.connect();
  world.addService(domId, { name: 'console', run: () => console.run(), input: (bytes) => console.input(bytes), save: () => console.save(), restore: (state) => console.restore(state) }, [built.consolePort]);
}

/** One xenstored serves all domains. */
interface Stores {
  readonly store: Xenstored;
  readonly rings: StoreRing[];
}

/** A request of one domain may leave events for others. The first domain's service carries the daemon's own state. */
function storeService({ store, rings }: Stores, ring: StoreRing): Service {
  const carriesStore = rings[0] === ring;
  return {
    name: 'xenstore',
    run: () => {
      ring.run();
      for (const other of rings) if (other !== ring && other.hasOutput()) other.run();
    },
    save: () => ({ ring: ring.save(), store: carriesStore ? store.save() : null }),
    restore: (state) => {
      const saved = state as { ring: unknown; store: unknown };
      ring.restore(saved.ring);
      if (carriesStore) store.restore(saved.store);
    },
  };
}

function ringPort(world: World, domId: number, service: string, mfn: number, port: number): RingPort {
  return {
    page: sharedPage(world.machine, mfn),
    notify: () => notifyFromBackend(world.hv, domId, port),
    scheduleRun: (delayNs) => world.schedule(domId, service, delayNs),
    emit: (kind, values, bytes) => world.emit(kind, domId, 0, values, bytes),
  };
}

function sharedPage(machine: MachineMemory, mfn: number): SharedPage {
  const base = mfn * 4096;
  return {
    readU8: (at) => machine.readU8(base + at),
    readU32: (at) => machine.readU32(base + at),
    readBytes: (at, sizeBytes) => machine.readBytes(base + at, sizeBytes),
    writeU8: (at, value) => machine.writeU8(base + at, value),
    writeU32: (at, value) => machine.writeU32(base + at, value),
    writeBytes: (at, bytes) => machine.writeBytes(base + at, bytes),
  };
}
