// From a spec and its images to a world that is ready to run: machine, hypervisor, domains, back
// ends of dom0. Everything that a real toolstack does before it unpauses a guest.
import { assert, UsageError } from '../base/assert.ts';
import { MachineMemory } from '../machine/memory.ts';
import type { MemoryPool } from '../machine/memory-pool.ts';
import { createCpu } from '../x86/create.ts';
import type { Cpu, CpuOptions } from '../x86/cpu.ts';
import type { ImageReader } from '../dom0/ports.ts';
import { buildDomain } from '../hypervisor/build/build-domain.ts';
import type { KernelImage } from '../hypervisor/build/kernel-image.ts';
import { pvCpuid, pvCpuid64 } from '../hypervisor/cpuid.ts';
import { introduceDom0 } from '../hypervisor/foreign-domain.ts';
import { hypercallRows } from '../hypervisor/hypercall-rows.ts';
import { createHypervisor } from '../hypervisor/hypervisor.ts';
import { XEN_BUILDS } from '../hypervisor/personality.ts';
import type { Choices } from './choices.ts';
import { Dom0 } from './dom0.ts';
import type { InputSource } from './input.ts';
import { createModelGuest } from '../guest/index.ts';
import { ModelProcessor } from './model/model-processor.ts';
import { buildShadowDomain, isShadowGuest, POOL_FRAMES } from './shadow-domain.ts';
import { FIRST_DOMID, type DomainSpec, type WorldSpec } from './spec.ts';
import { World, type EventSink, type Observers } from './world.ts';

/** The files of one domain, ready to load. */
export interface DomainImages {
  readonly kernel: KernelImage;
  readonly ramdisk: Uint8Array | undefined;
  /** The disks' content, in the order of the domain's spec. */
  readonly disks?: readonly ImageReader[];
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
  /** Where the machine's memory comes from; whoever gives it gives it back. */
  readonly pool?: MemoryPool;
}

const FRAMES_PER_MIB = 256;
/** Low memory, Xen's tables and what a domain costs besides its memory. */
const XEN_FRAMES = 1024;

/** Throws UsageError when the spec cannot be had (memory, kernel that does not fit). */
export function buildWorld(options: WorldOptions): World {
  const { spec } = options;
  if (spec.domains.length === 0) throw new UsageError('a world needs at least one domain');
  const guestFrames = spec.domains.reduce((sum, domain) => sum + (domain.maxMemoryMib ?? domain.memoryMib) * FRAMES_PER_MIB, 0);
  // The machine-to-phys tables take 12 bytes a frame.
  const frameCount = guestFrames + XEN_FRAMES + Math.ceil((guestFrames * 12) / 4096) + spec.domains.reduce((sum, { model }) => sum + (isShadowGuest(model) ? POOL_FRAMES : 64), 0);
  const machine = new MachineMemory({ frameCount, arenaBytes: arenaBytes(frameCount, spec.domains.length), ...(options.pool === undefined ? {} : { pool: options.pool }) });
  const domIdOf = (name: string): number | undefined => {
    const index = spec.domains.findIndex((domain) => domain.name === name);
    return index < 0 ? undefined : FIRST_DOMID + index;
  };
  const world = new World(spec, machine, options.choices, options.input(domIdOf), options.observers ?? {});
  world.hv = createHypervisor({ machine, world, build: XEN_BUILDS[spec.xenBuild], hypercallRows });
  introduceDom0(world.hv);
  world.sink = options.sink?.(world);
  if (options.clock !== undefined) world.profile = { clock: options.clock, processorMs: 0, hypervisorMs: 0, running: false };
  const dom0 = new Dom0(world);
  spec.domains.forEach((domain, index) => addDomain(world, dom0, options, FIRST_DOMID + index, index, domain.name));
  return world;
}

/** Per-frame tables, and a processor's state, TLB, jump cache and block programs. What is not used costs nothing. */
function arenaBytes(frameCount: number, cpus: number): number {
  const WASM_PAGE = 65536;
  return Math.ceil((frameCount * 40 + cpus * 30 * 1024 * 1024 + 8 * 1024 * 1024) / WASM_PAGE) * WASM_PAGE;
}

function addDomain(world: World, dom0: Dom0, options: WorldOptions, domId: number, index: number, name: string): void {
  const spec = options.spec.domains[index];
  const images = options.images[index];
  assert(spec !== undefined && images !== undefined, `domain ${name} has no spec or no images`);
  if (isShadowGuest(spec.model)) {
    buildShadowDomain(world, { domId, spec, model: spec.model });
    return;
  }
  const cpu = processorFor(world, spec, {
    exceptions: 'exit',
    cpuid: images.kernel.wordBits === 64 ? pvCpuid64 : pvCpuid,
    pdpteCached: images.kernel.abi.startsWith('xen3'),
    tier: options.tier ?? 'auto',
    clock: options.clock,
  });
  const built = buildDomain(world.hv, {
    domId, name, image: images.kernel, memoryMib: spec.memoryMib, cmdline: spec.cmdline, cpus: [cpu],
    ...(spec.maxMemoryMib === undefined ? {} : { maxMemoryMib: spec.maxMemoryMib }),
    ...(spec.maxEventChannels === undefined ? {} : { maxEventChannels: spec.maxEventChannels }),
    ...(images.ramdisk === undefined ? {} : { ramdisk: images.ramdisk }),
  });
  if ('problem' in built) throw new UsageError(`${spec.kernel.name} ${built.problem}`);
  dom0.addDomain(built, spec, images.disks ?? []);
  world.vcpuRunnable(domId, 0, true);
}

/** A real processor, or one that runs a guest of this program's own. */
function processorFor(world: World, spec: DomainSpec, options: CpuOptions): Cpu {
  if (spec.model === undefined) return createCpu(world.machine, options);
  const cpu = new ModelProcessor(world.machine, options);
  cpu.setCode(createModelGuest(spec.model, cpu.port, world.spec.bug));
  return cpu;
}
