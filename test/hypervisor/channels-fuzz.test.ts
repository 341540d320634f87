// Nothing a guest passes to event channels, grant tables, vCPU and other calls breaks the records that
// hang together: bindings have two ends, pins equal mappings, every reference has a holder; and when
// the domain ends, nothing is left. Programs mix these calls with page-table updates of the same frames.
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { destroyDomain } from '../../src/hypervisor/destroy-domain.ts';
import type { Domain } from '../../src/hypervisor/domain.ts';
import type { Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { putOldTable } from '../../src/hypervisor/page-types.ts';
import { XEN_BUILDS } from '../../src/hypervisor/personality.ts';
import { ConformRunner, type Script } from '../../src/replay/conform.ts';
import type { ScriptOp } from '../../src/replay/conform-op.ts';
import { recount, type ExtraHold } from './recount.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const PROGRAMS = LONG ? 100_000 : 1200;
const OPS = 50;
const ABIS = ['pv64', 'pv32pae', 'xen3-pae', 'xen3-nopae'] as const;
/** Hypercalls that are given random words too. */
const CALLS = [0, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 18, 19, 20, 24, 25, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 48, 60];

/** Their command 2 stops the domain. */
const STOPPERS = [6, 24, 29];

function program(prng: PrngStream): ScriptOp[] {
  const pick = <T>(items: readonly T[]): T => items[prng.below(items.length)] as T;
  const frame = (): string => (prng.below(5) > 0 ? `f${prng.below(6)}` : pick(['gnttab', 'shared_info', 'foreign', 'foreign1', 'scratch_l1', 'root', 'xen', 'hole', 'vga', 'beyond', 'gdt']));
  const dom = (): string => pick(['self', 'd1', 'd1', 'd2', 'd2', 'd3', 'd99', 'io', 'd0']);
  const port = (): number => pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 1023, 1024, 4096, 0xffff_ffff]);
  const gref = (): number => pick([1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 511, 512, 600]);
  const at = (): string => (prng.below(5) === 0 ? `pte:${pick(['scratch_l1', 'live_l1', 'f0', 'root'])}[${pick([16, 17, 20, 40])}]${prng.below(6) === 0 ? '+4' : ''}` : prng.below(12) === 0 ? pick(['null', 'kernel', 'va:ffff800000000000', 'v2']) : `w${prng.below(6)}`);
  const handle = (): string | number => (prng.below(10) === 0 ? pick([0, 1, 255, 256, 0xffff_ffff]) : `h${prng.below(6)}`);
  const many = <T>(make: () => T): T[] => Array.from({ length: 1 + prng.below(3) }, make);
  const side = (): Record<string, unknown> => (prng.below(2) === 0 ? { ref: gref(), dom: dom(), off: pick([0, 8, 100, 4088, 4095, 4096]) } : { frame: frame(), dom: dom(), off: pick([0, 8, 100, 4088, 4096, 65535]) });
  const evt = (): ScriptOp => {
    const cmd = pick(['alloc_unbound', 'bind_interdomain', 'bind_interdomain', 'bind_virq', 'bind_ipi', 'bind_pirq', 'close', 'send', 'status', 'unmask', 'bind_vcpu', 'reset', 'init_control', 'expand_array', 'set_priority', 'bad']);
    return { op: 'evt', cmd, dom: dom(), remote: dom(), rport: port(), port: port(), virq: pick([0, 1, 2, 7, 11, 13, 23, 24, 99]), vcpu: pick([0, 0, 0, 1, 99]), pirq: 3, frame: frame(), offset: pick([0, 8, 4, 4024, 4032, 4096]), prio: pick([0, 7, 15, 16]) };
  };
  const one = (): ScriptOp => {
    switch (prng.below(20)) {
      case 0: case 1: case 2: return evt();
      case 3: return { op: 'shset', field: pick(['mask', 'pend']), port: prng.below(16), val: prng.below(2) };
      case 4: case 5: return { op: 'gset', ref: 1 + prng.below(5), flags: pick(['1', '1', '1', '5', '2', '0', '3', '101', '8001', '19']), dom: pick(['d1', 'd1', 'd2', 'd3']), frame: frame() };
      case 6: case 7: case 8: return { op: 'gmap', req: many(() => ({ at: at(), flags: pick(['2', '2', '6', '3', '7', '1', '5', '12', '16', 'a', 'f0002', '0']), ref: gref(), dom: pick(['d1', 'd1', 'd2', 'd99', 'self']) })) };
      case 9: case 10: case 11: return { op: 'gunmap', req: many(() => ({ at: at(), h: handle(), ...(prng.below(2) === 0 ? { dev: `${frame()}:${pick(['0', '0', '8'])}` } : {}) })) };
      case 12: return { op: 'greplace', req: many(() => ({ at: at(), new: pick(['w0', 'w1', 'v3', 'v4', 'null', 'va:123456789000']), h: handle() })) };
      case 13: return { op: 'gcopy', req: many(() => ({ src: side(), dst: side(), len: pick([0, 8, 100, 4088, 4096, 65535]), ...(prng.below(4) === 0 ? { flags: prng.below(4) } : {}) })) };
      case 14: return prng.below(3) === 0 ? { op: 'gxfer', frame: frame(), dom: pick(['d1', 'd2', 'self', 'd3']), ref: gref() } : { op: 'gflag', ref: gref() % 512, flags: pick(['0', '1', '19', '5']) };
      case 15: return pick<ScriptOp>([{ op: 'gsetver', v: pick([1, 2, 2, 3]) }, { op: 'gsetup', dom: pick(['self', 'd2']), nr: pick([0, 1, 2, 5, 64, 65]) }, { op: 'gswap', a: gref(), b: gref() }, { op: 'gstatusf', nr: pick([0, 1, 2]), dom: 'self' }, { op: 'ggetver', dom: dom() }, { op: 'gqsize', dom: dom() }]);
      case 16: return { op: 'uvm', va: pick(['w0', 'w1', 'w2', 'v0', 'v1', 'v2']), val: pick(['0', `${frame()}:63`, `${frame()}:61`, `${frame()}:67`]), fl: 2 };
      case 17: return { op: 'ext', req: [[pick(['pin_l1', 'pin_l2', 'unpin']), frame()]] };
      case 18: return prng.below(2) === 0 ? { op: 'mem', cmd: 'increase', frames: [`n${prng.below(3)}`] } : { op: 'mem', cmd: 'decrease', frames: [frame()] };
      default: {
        const nr = pick(CALLS);
        const args = Array.from({ length: 5 }, () => pick<number | string>([0, 1, 2, 3, 5, 6, 7, 9, 10, 13, 0x7ff0, 0x8000_0000, 0xffff_ffff, 'kernel', 'kernel', 'null', 'v0', 'w0', prng.u32() >>> 0]));
        // Shutting down ends a program early: not too often.
        if (STOPPERS.includes(nr) && args[0] === 2 && prng.below(50) > 0) args[0] = 3;
        return { op: 'hc', nr, args };
      }
    }
  };
  const ops: ScriptOp[] = Array.from({ length: 6 }, (_, i) => ({ op: 'wr', va: `kernel+${(i * 8).toString(16)}`, val: `raw:${(prng.u32() >>> 0).toString(16)}` }));
  for (let i = 0; i < OPS; i++) ops.push(one());
  return ops;
}

// ---- what must hold --------------------------------------------------------------------------------

const FLAG = { device: 1, host: 2, readOnly: 4 } as const;

/** Uses of d's frames that no page table shows. */
function holdsOf(hv: Hypervisor, domain: Domain): ExtraHold[] {
  const holds: ExtraHold[] = [];
  const writable = (mfn: number): void => void holds.push({ mfn, typed: 'rw' });
  for (const vcpu of domain.vcpus) if (vcpu.vcpuInfoMfn !== 0) writable(vcpu.vcpuInfoMfn);
  if (domain.pirqEoiMfn !== undefined) writable(domain.pirqEoiMfn);
  const { fifo } = domain.events;
  for (const mfn of fifo?.arrayMfns ?? []) writable(mfn);
  for (const { controlMaddr } of fifo?.vcpus ?? []) if (controlMaddr !== 0) writable(Math.floor(controlMaddr / 4096));
  for (const mapper of hv.domains.values()) {
    for (const { flags, domId, gref } of mapper.grants.maptrack) {
      if (domId === domain.domId && (flags & FLAG.device) !== 0) holds.push({ mfn: domain.grants.active[gref]?.mfn ?? -1, typed: (flags & FLAG.readOnly) !== 0 ? undefined : 'rw' });
    }
  }
  return holds;
}

function channelProblems(hv: Hypervisor): string[] {
  const wrong: string[] = [];
  for (const domain of hv.domains.values()) {
    domain.events.ports.forEach(({ binding, notifyVcpuId }, port) => {
      const name = `d${domain.domId} port ${port}`;
      if (domain.vcpus[notifyVcpuId] === undefined) wrong.push(`${name} notifies no vCPU`);
      if (binding.kind === 'interdomain') {
        const far = hv.domain(binding.remoteDomId)?.events.ports[binding.remotePort]?.binding;
        const back = far?.kind === 'interdomain' && far.remoteDomId === domain.domId && far.remotePort === port;
        if (!back) wrong.push(`${name} is bound one way: ${JSON.stringify(far)}`);
      }
      if (binding.kind === 'virq' && domain.events.virqPorts[notifyVcpuId]?.[binding.virq] !== port) wrong.push(`${name} is no VIRQ's port`);
    });
    domain.events.virqPorts.forEach((ports, vcpuId) => ports.forEach((port, virq) => {
      const binding = port === 0 ? undefined : domain.events.ports[port]?.binding;
      if (port !== 0 && (binding?.kind !== 'virq' || binding.virq !== virq)) wrong.push(`VIRQ ${virq} of vCPU ${vcpuId} names port ${port}`);
    }));
  }
  return wrong;
}

function grantProblems(hv: Hypervisor): string[] {
  const wrong: string[] = [];
  for (const granter of hv.domains.values()) {
    const pins = new Map<number, number[]>();
    for (const mapper of hv.domains.values()) {
      for (const { flags, domId, gref } of mapper.grants.maptrack) {
        if (domId !== granter.domId || flags === 0) continue;
        const counts = pins.get(gref) ?? [0, 0, 0, 0];
        const ro = (flags & FLAG.readOnly) !== 0 ? 1 : 0;
        if ((flags & FLAG.host) !== 0) counts[ro] = (counts[ro] as number) + 1;
        if ((flags & FLAG.device) !== 0) counts[2 + ro] = (counts[2 + ro] as number) + 1;
        pins.set(gref, counts);
      }
    }
    const shown = Object.entries(granter.grants.active).map(([gref, { pin }]) => `${gref}:${[pin.hostWrite, pin.hostRead, pin.devWrite, pin.devRead]}`).sort();
    const found = [...pins].map(([gref, counts]) => `${gref}:${counts}`).sort();
    if (JSON.stringify(shown) !== JSON.stringify(found)) wrong.push(`pins of d${granter.domId}: ${JSON.stringify(shown)}, mappings: ${JSON.stringify(found)}`);
    const free = new Set(granter.grants.freeHandles);
    if (free.size !== granter.grants.freeHandles.length) wrong.push(`d${granter.domId} has a handle twice on its free list`);
    granter.grants.maptrack.forEach(({ flags }, handle) => {
      if ((flags === 0) !== free.has(handle)) wrong.push(`d${granter.domId} handle ${handle} is ${flags === 0 ? 'lost' : 'free and in use'}`);
    });
  }
  return wrong;
}

/** Frames that d2 has before a program begins. */
let d2HadFrames: ReadonlySet<number> = new Set();
const framesOfD2 = (abi: Script['abi']): ReadonlySet<number> => {
  const found = new Set<number>();
  const afterScript = ({ hv, d2 }: { hv: Hypervisor; d2: Domain }): void => {
    for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) if (hv.frames.owner[mfn] === d2.domId) found.add(mfn);
  };
  new ConformRunner({ preempt: () => false, build: XEN_BUILDS.release, afterScript }).run({ id: 'none', abi, family: 'evtchn', sub: 'fuzz', ops: [], results: [] });
  return found;
};

const problems: string[] = [];
let finished = 0;
let turn = 0;
const newRunner = (preempt: () => boolean): ConformRunner => new ConformRunner({
  preempt, build: XEN_BUILDS.release,
  afterScript: ({ hv, d1, d2, vcpu }) => {
    finished++;
    putOldTable(hv, vcpu);
    problems.push(...channelProblems(hv), ...grantProblems(hv), ...recount(hv, d1, holdsOf(hv, d1)));
    destroyDomain(hv, d1);
    for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) if (hv.frames.owner[mfn] === d1.domId) problems.push(`left: ${hv.frames.describe(mfn)}`);
    if (Object.keys(d2.grants.active).length > 0) problems.push(`d2's grants are still in use: ${JSON.stringify(d2.grants.active)}`);
    // d2's frames: its own writable mapping (which the test's world stands for) and nothing else. What d1 gave it has none.
    for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) {
      if (hv.frames.owner[mfn] !== d2.domId || (hv.frames.flags[mfn] as number) !== 0x11) continue;
      const mappings = d2HadFrames.has(mfn) ? 1 : 0;
      if (hv.frames.refCount[mfn] !== 1 + mappings || hv.frames.typeCount[mfn] !== mappings) problems.push(`d2: ${hv.frames.describe(mfn)}`);
    }
  },
});
const runners: Record<string, ConformRunner[]> = Object.fromEntries(ABIS.map((abi) => [abi, [newRunner(() => false), newRunner(() => ++turn % 7 === 0)]]));

describe('hostile programs of events, grants and small calls', () => {
  for (const abi of ABIS) {
    test(`leave records that agree, and nothing after the domain's end (${abi})`, { timeout: 3_600_000 }, () => {
      finished = 0;
      d2HadFrames = framesOfD2(abi as Script['abi']);
      expect(d2HadFrames.size).toBeGreaterThan(0);
      for (let n = 0; n < PROGRAMS / ABIS.length; n++) {
        const seed = `${abi}:${n}`;
        const prng = new PrngStream(seed, 'channels-fuzz');
        const ops = program(prng);
        const runner = runners[abi]?.[prng.below(2)] as ConformRunner;
        problems.length = 0;
        runner.run({ id: seed, abi: abi as Script['abi'], family: 'evtchn', sub: 'fuzz', ops, results: [] });
        expect(problems, `seed ${seed}: ${JSON.stringify(ops)}`).toEqual([]);
      }
      expect(finished).toBeGreaterThan(PROGRAMS / ABIS.length / 2);
    });
  }
});
