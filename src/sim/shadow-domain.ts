// A guest on shadow page tables in a world: a domain that owns frames and a vCPU, of which the
// hypervisor knows no more than that; everything else is its host's (../shadow). Such a guest has the
// devices of a bare machine and nothing of dom0's.
import { UsageError } from '../base/assert.ts';
import { EVENT } from '../abi/events.ts';
import { HOST_WORDS, type ShadowBackend } from '../guest/shadow/index.ts';
import { createModelGuest, type ModelGuest } from '../guest/index.ts';
import { SHAPES } from '../guest/pte.ts';
import { placeFrames } from '../hypervisor/build/place-frames.ts';
import { newEventChannels } from '../hypervisor/event-channels.ts';
import { newGrantTable } from '../hypervisor/grant-table.ts';
import { createDomain, createVcpu, takeFreeFrame } from '../hypervisor/hypervisor.ts';
import { ABIS } from '../hypervisor/personality.ts';
import { ShadowHost, type HostWorld } from '../shadow/host.ts';
import { ShadowPager } from '../shadow/pager.ts';
import { PAE, TWO_LEVEL } from '../shadow/shape.ts';
import { BOOT_CR0, bootCr4, LEAST_PAGES, loadKernel } from './model/load-kernel.ts';
import { ModelProcessor } from './model/model-processor.ts';
import { HOST_TRAPS } from './model/pending.ts';
import type { DomainSpec } from './spec.ts';
import type { World } from './world.ts';

const FRAMES_PER_MIB = 256;
/** Frames for shadows: what a guest has mapped needs fewer; others make room. */
export const POOL_FRAMES = 256;
/** lguest keeps four roots; the others a few more. */
const MOST_ROOTS: Readonly<Record<ShadowBackend, number>> = { lguest: 4, vmi: 8, kvm: 8 };
const CRASH = 3;

export const isShadowGuest = (model: ModelGuest | undefined): model is ModelGuest & { backend: ShadowBackend } => model !== undefined && model.backend in MOST_ROOTS;

export interface ShadowDomainOptions {
  readonly domId: number;
  readonly spec: DomainSpec;
  readonly model: ModelGuest & { readonly backend: ShadowBackend };
  /** For tests: fewer frames for shadows. */
  readonly poolFrames?: number;
}

/** Builds the domain, ready to run. Throws UsageError for what such a guest cannot have. */
export function buildShadowDomain(world: World, { domId, spec, model, poolFrames = POOL_FRAMES }: ShadowDomainOptions): ShadowHost {
  const { hv } = world;
  if (world.spec.domains.length > 1) throw new UsageError(`${spec.name} runs on ${model.backend}: such a guest has a world to itself`);
  if ((spec.disks ?? []).length > 0 || (spec.vifs ?? []).length > 0 || model.drivers !== undefined) throw new UsageError(`${spec.name} runs on ${model.backend}, which has no disks and no network here`);
  const pages = spec.memoryMib * FRAMES_PER_MIB;
  if (pages < LEAST_PAGES) throw new UsageError(`${spec.name} needs at least ${LEAST_PAGES / FRAMES_PER_MIB} MiB`);
  const shape = model.paging === 'pae' ? PAE : TWO_LEVEL;
  const domain = createDomain(hv, { domId, name: spec.name, abi: ABIS[model.paging === 'pae' ? 'xen3-pae' : 'xen3-nopae'], privileged: false, maxPages: pages, events: newEventChannels(), grants: newGrantTable() });
  const cpu = new ModelProcessor(world.machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0], pdpteCached: false }, HOST_TRAPS);
  cpu.setCode(createModelGuest(model, cpu.port));
  const vcpu = createVcpu(domain);
  vcpu.cpu = cpu;
  vcpu.initialised = vcpu.online = true;
  const p2m = placeFrames(hv, domain, pages);
  const pool: number[] = [];
  for (let i = 0; i < poolFrames; i++) {
    const mfn = takeFreeFrame(hv);
    if (mfn === undefined) throw new UsageError(`${spec.name}: there is no memory for its shadow page tables`);
    hv.frames.makeXenFrame(mfn);
    pool.push(mfn);
  }
  const pager = new ShadowPager({ machine: world.machine, cpu, shape, p2m, pool, mostRoots: MOST_ROOTS[model.backend], protects: model.backend === 'kvm' });
  const memory = {
    writeU32: (at: number, value: number) => world.machine.writeU32(pager.maddrOf(at) as number, value),
    writeBytes: (at: number, bytes: Uint8Array) => world.machine.writeBytes(pager.maddrOf(at) as number, bytes),
  };
  const { rootGpa, wordsGpa } = loadKernel(memory, cpu, SHAPES[model.paging], pages, (root) => pager.load(root));
  memory.writeU32(wordsGpa + HOST_WORDS.tscKhz, world.tscKhz());
  memory.writeU32(wordsGpa + HOST_WORDS.wallClockSec, world.wallClockAtZeroSec());
  const host = new ShadowHost(model.backend, cpu, pager, hostWorld(world, domId), { 0: BOOT_CR0, 3: rootGpa, 4: bootCr4(SHAPES[model.paging]) });
  world.hosts.set(domId, host);
  world.emit(EVENT.domainCreated, domId, 0, [pages, 1, shape.levels], ascii(spec.name));
  world.vcpuRunnable(domId, 0, true);
  return host;
}

const ascii = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0) & 0x7f);

function hostWorld(world: World, domId: number): HostWorld {
  return {
    emit: (kind, values, bytes) => world.emit(kind, domId, 0, values, bytes),
    setTimer: (deadlineNs) => world.setTimer(domId, 0, 'singleshot', deadlineNs),
    consoleOut: (bytes) => world.consoleOut(domId, bytes),
    runnable: (is) => world.vcpuRunnable(domId, 0, is),
    stopped(reason, text) {
      const domain = world.hv.domain(domId);
      if (domain !== undefined) domain.life = { kind: 'shutdown', reason };
      world.vcpuRunnable(domId, 0, false);
      if (reason === CRASH) world.emit(EVENT.domainCrashed, domId, 0, [world.hv.vcpu(domId, 0)?.cpu?.eip() ?? 0], ascii(text));
      else world.emit(EVENT.domainShutdown, domId, 0, [reason], ascii(text));
      world.domainShutdown(domId, reason, text);
    },
  };
}
