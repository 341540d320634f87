// Operations of the memory-management family (FORMAT section 5), and the guest's own memory accesses.
import type { Store } from '../hypervisor/page-fault.ts';
import { emulateTableStore } from '../hypervisor/page-fault.ts';
import { translateGuest } from '../hypervisor/guest-access.ts';
import { commandOf, type ConformCall, type ConformContext, type ConformFamily, type ConformOp, type ScriptOp, type Word } from './conform-op.ts';

const MMU_CMD: Record<string, number> = { n: 0, m: 1, p: 2, bad: 3 };
const EXT_CMD: Record<string, number> = {
  pin_l1: 0, pin_l2: 1, pin_l3: 2, pin_l4: 3, unpin: 4, new_baseptr: 5, tlb_flush_local: 6, invlpg_local: 7, tlb_flush_multi: 8, invlpg_multi: 9,
  tlb_flush_all: 10, invlpg_all: 11, flush_cache: 12, set_ldt: 13, bad_14: 14, new_user_baseptr: 15, clear_page: 16, copy_page: 17,
  flush_cache_global: 18, mark_super: 19, unmark_super: 20, bad_99: 99,
};
const MEM_CMD: Record<string, number> = { increase: 0, decrease: 1, max_ram_page: 2, current: 3, maximum: 4 };
const ASSIST_CMD: Record<string, number> = { enable: 0, disable: 1, bad: 9 };
/** What the counter of a batch holds until Xen writes it. */
const UNTOUCHED = 0xdead_5a5a;

const str = (op: ScriptOp, field: string): string => op[field] as string;
const num = (op: ScriptOp, field: string): number => op[field] as number;

// -- argument structures --------------------------------------------------------------------------

function put32(context: ConformContext, vaddr: number, value: number): void {
  context.hv.machine.writeU32(context.scratchMaddr(vaddr), value >>> 0);
}
function putWord(context: ConformContext, vaddr: number, value: number): void {
  put32(context, vaddr, value);
  if (context.wide) put32(context, vaddr + 4, Math.floor(value / 0x1_0000_0000));
}
function put64(context: ConformContext, vaddr: number, { lo, hi }: Word): void {
  put32(context, vaddr, lo);
  put32(context, vaddr + 4, hi);
}
/** A batch: the counter and how to read it back. */
function counter(context: ConformContext): { pdone: number; finish: (rc: number) => unknown } {
  const pdone = context.scratch(4);
  put32(context, pdone, UNTOUCHED);
  return {
    pdone,
    finish: (rc) => {
      const value = context.hv.machine.readU32(context.scratchMaddr(pdone));
      return [rc, value === UNTOUCHED ? null : value];
    },
  };
}

// -- hypercalls -----------------------------------------------------------------------------------

const uvm: ConformCall = (context, op) => {
  const entry = context.word(str(op, 'val'));
  const vaddr = context.vaddr(str(op, 'va'));
  const dom = op['dom'] === undefined ? [] : [context.domId(str(op, 'dom'))];
  const number = dom.length === 0 ? 14 : 22;
  const args = context.wide ? [vaddr, entry, num(op, 'fl'), ...dom] : [vaddr, entry.lo, entry.hi, num(op, 'fl'), ...dom];
  return { number, args, finish: (rc) => rc };
};

const mmu: ConformCall = (context, op) => {
  const requests = op['req'] as readonly (readonly [string, string, string])[];
  const list = context.scratch(Math.max(requests.length, 1) * 16);
  requests.forEach(([cmd, ptr, value], i) => {
    const at = context.maddr(ptr);
    put64(context, list + i * 16, { lo: (at.lo | commandOf(MMU_CMD, cmd)) >>> 0, hi: at.hi });
    put64(context, list + i * 16 + 8, context.word(value));
  });
  const { pdone, finish } = counter(context);
  const fd = context.domId((op['fd'] as string | undefined) ?? 'self');
  const pt = op['pt'] === undefined ? 0 : ((context.domId(str(op, 'pt')) + 1) & 0xffff) * 0x1_0000;
  return { number: 1, args: [list, requests.length, pdone, fd + pt], finish };
};

const ext: ConformCall = (context, op) => {
  const requests = op['req'] as readonly (readonly [string, ...(string | number)[]])[];
  const word = context.wide ? 8 : 4;
  const size = 3 * word;
  const list = context.scratch(Math.max(requests.length, 1) * size);
  requests.forEach(([name, ...args], i) => {
    const [arg1, arg2] = extArgs(context, name, args);
    put32(context, list + i * size, commandOf(EXT_CMD, name));
    putWord(context, list + i * size + word, arg1);
    putWord(context, list + i * size + 2 * word, arg2);
  });
  const { pdone, finish } = counter(context);
  return { number: 26, args: [list, requests.length, pdone, context.domId((op['fd'] as string | undefined) ?? 'self')], finish };
};

function extArgs(context: ConformContext, name: string, args: readonly (string | number)[]): [number, number] {
  const mask = (value: string | number | undefined): number => {
    const at = context.scratch(8);
    putWord(context, at, Number(value ?? 0));
    return at;
  };
  const [first, second] = args;
  if (name === 'set_ldt') return [context.vaddr(String(first)), Number(second)];
  if (name === 'invlpg_local' || name === 'invlpg_all') return [context.vaddr(String(first)), 0];
  if (name === 'invlpg_multi') return [context.vaddr(String(first)), mask(second)];
  if (name === 'tlb_flush_multi') return [0, mask(first)];
  return [first === undefined ? 0 : context.frame(String(first)), second === undefined ? 0 : context.frame(String(second))];
}

const assist: ConformCall = (_context, op) => ({ number: 21, args: [commandOf(ASSIST_CMD, str(op, 'cmd')), num(op, 'type')], finish: (rc) => rc });

const setGdt: ConformCall = (context, op) => {
  const frames = op['frames'] as readonly string[];
  const word = context.wide ? 8 : 4;
  const list = context.scratch(Math.max(frames.length, 16) * word);
  frames.forEach((name, i) => putWord(context, list + i * word, context.frame(name)));
  return { number: 2, args: [list, num(op, 'ents')], finish: (rc) => rc };
};

const updateDescriptor: ConformCall = (context, op) => {
  const at = context.maddr(str(op, 'ptr'));
  const value = BigInt(`0x${str(op, 'desc')}`);
  const desc = { lo: Number(value & 0xffff_ffffn), hi: Number(value >> 32n) };
  return { number: 10, args: context.wide ? [at, desc] : [at.lo, at.hi, desc.lo, desc.hi], finish: (rc) => rc };
};

const mem: ConformCall = (context, op) => {
  const command = str(op, 'cmd');
  const dom = context.domId((op['dom'] as string | undefined) ?? 'self');
  if (command !== 'increase' && command !== 'decrease') {
    const at = context.scratch(8);
    put32(context, at, dom);
    return { number: 12, args: [commandOf(MEM_CMD, command), at], finish: (rc) => (rc > 0 ? 'pages' : rc) };
  }
  const frames = (op['frames'] as readonly string[] | undefined) ?? [];
  const word = context.wide ? 8 : 4;
  const list = context.scratch(Math.max(frames.length, 1) * word);
  if (command === 'decrease') frames.forEach((name, i) => putWord(context, list + i * word, context.frame(name)));
  const at = context.scratch(32);
  putWord(context, at, list);
  putWord(context, at + word, frames.length);
  put32(context, at + 2 * word + 8, dom);
  return {
    number: 12, args: [commandOf(MEM_CMD, command), at],
    finish: (rc) => {
      if (command === 'increase') {
        frames.slice(0, Math.max(rc, 0)).forEach((name, i) => {
          const mfn = context.hv.machine.readU32(context.scratchMaddr(list + i * word));
          context.mfns.set(name, mfn);
          context.names.set(mfn, name);
        });
      }
      if (command === 'decrease') for (const name of frames.slice(0, Math.max(rc, 0))) context.returned.add(name);
      return rc;
    },
  };
};

const rawCall: ConformCall = (context, op) => {
  const args = ((op['args'] as readonly (string | number)[] | undefined) ?? []).map((arg) => (typeof arg === 'number' ? arg : context.vaddr(arg)));
  return { number: num(op, 'nr'), args, finish: (rc) => rc };
};

// -- the guest's own accesses ---------------------------------------------------------------------

/** A fault as the guest kernel sees it: Xen clears USER for a 64-bit guest's kernel mode. */
const faultText = (context: ConformContext, walked: number): string => `pf:${((-1 - walked) & (context.wide ? ~4 : ~0)).toString(16)}`;
const PF_WRITE_PRESENT = 3;
function translate(context: ConformContext, vaddr: number, write: boolean): number {
  return translateGuest(context.hv.machine, context.vcpu, vaddr, write ? 'write' : 'read', context.wide);
}
const nonCanonical = (context: ConformContext, vaddr: number): boolean => context.wide && (vaddr >= 0x8000_0000_0000 || vaddr < -0x8000_0000_0000);

/** Performs a store as processor and Xen do: straight, or emulated when it hits a page table. */
function store(context: ConformContext, access: Store): string | { found: Word } {
  const { hv, vcpu } = context;
  if (nonCanonical(context, access.vaddr)) return 'gp:0';
  const maddr = translate(context, access.vaddr, true);
  if (maddr >= 0) {
    if (access.expected !== undefined) {
      const now = { lo: hv.machine.readU32(maddr), hi: hv.machine.readU32(maddr + 4) };
      if (now.lo !== access.expected.lo || now.hi !== access.expected.hi) return { found: now };
    }
    hv.machine.writeU32(maddr, access.lo);
    if (access.sizeBytes === 8) hv.machine.writeU32(maddr + 4, access.hi);
    return 'ok';
  }
  if (((-1 - maddr) & PF_WRITE_PRESENT) === PF_WRITE_PRESENT) {
    hv.current = vcpu;
    const outcome = emulateTableStore(hv, vcpu, access);
    hv.current = undefined;
    if (outcome.kind === 'done') return 'ok';
    if (outcome.kind === 'differs') return { found: { lo: outcome.lo, hi: outcome.hi } };
  }
  return faultText(context, maddr);
}

const wr: ConformOp = (context, op) => {
  const { lo, hi } = context.word(str(op, 'val'));
  const vaddr = context.vaddr(str(op, 'va'));
  if (op['size'] === 4) return store(context, { vaddr, sizeBytes: 4, lo: op['part'] === 'hi' ? hi : lo, hi: 0 });
  if (context.wide) return store(context, { vaddr, sizeBytes: 8, lo, hi });
  const high = store(context, { vaddr: vaddr + 4, sizeBytes: 4, lo: hi, hi: 0 });
  return high === 'ok' ? store(context, { vaddr, sizeBytes: 4, lo, hi: 0 }) : high;
};

const rd: ConformOp = (context, op) => {
  const vaddr = context.vaddr(str(op, 'va'));
  if (nonCanonical(context, vaddr)) return 'gp:0';
  const maddr = translate(context, vaddr, false);
  if (maddr < 0) return faultText(context, maddr);
  const { machine } = context.hv;
  if (!machine.contains(maddr, 8)) return '0';
  return context.text({ lo: machine.readU32(maddr), hi: machine.readU32(maddr + 4) });
};

const cx: ConformOp = (context, op) => {
  const value = context.word(str(op, 'val'));
  const expected = context.word(str(op, 'old'));
  const result = store(context, { vaddr: context.vaddr(str(op, 'va')), sizeBytes: 8, lo: value.lo, hi: value.hi, expected });
  if (result === 'ok') return context.text(expected);
  return typeof result === 'string' ? result : context.text(result.found);
};

/** The initial pseudo-physical number of a frame counts as "unchanged". */
const m2p: ConformOp = (context, op) => {
  const mfn = context.frame(str(op, 'frame'));
  const { frames, machine } = context.hv;
  // Past the table's end Xen keeps "no such frame".
  if (!frames.has(mfn)) return context.wide ? 'ffffffffffffffff' : 'ffffffff';
  const lo = machine.readU32(context.wide ? frames.m2p64Mfn * 4096 + mfn * 8 : frames.m2p32Mfn * 4096 + mfn * 4);
  const hi = context.wide ? machine.readU32(frames.m2p64Mfn * 4096 + mfn * 8 + 4) : 0;
  const before = (context.notes.get('m2p') as Map<number, number>).get(mfn);
  if (hi === 0 && lo === before) return 'pfn';
  return ((BigInt(hi) << 32n) | BigInt(lo)).toString(16);
};

export const mmFamily: ConformFamily = {
  calls: { uvm, mmu, ext, assist, set_gdt: setGdt, upd_desc: updateDescriptor, mem, hc: rawCall },
  ops: { wr, rd, cx, m2p },
  setup: (context) => context.notes.set('m2p', new Map([...context.mfns.values()].filter((mfn) => context.hv.frames.has(mfn)).map((mfn) => [mfn, context.hv.frames.getM2p(mfn)]))),
};
