// The paging unit's common case in WebAssembly, for dispatchers of long mode: what lookup() of ../paging.ts does when the
// tables are in RAM and every accessed bit (and, for a store, the dirty bit) is set already.
//
//    find(vaddr: i64, access: i32) -> linear address, or 0: TypeScript's turn, which sets bits, faults, or finds no RAM
//
// 0 comes before any effect; else the effects are lookup's: the slot's translation and tags, the frame's dirty flag. Which
// of the two answers is therefore seen by nobody. What the bits mean is written in paging.ts. No breakpoint is armed
// while translated code runs.
import { FRAME_FLAG } from '../../machine/memory.ts';
import { CR0, CR4, EFER } from '../core.ts';
import { ARCH, LARGE_PAGE_RESERVED, PTE, RESERVED_HI } from '../paging.ts';
import { STATE } from '../state-layout.ts';
import { FILLED, NO_TAG, TLB, TLB_ENTRIES, TLB_VPN_BYTES } from '../tlb-layout.ts';
import { CodeBuffer, OP, TYPE } from './code-buffer.ts';

export const FIND = { read: 0, write: 1, fetch: 2 } as const;

export interface WalkerPlaces {
  readonly stateBase: number;
  /** Of the set of translations that the dispatcher is for. */
  readonly tlbBase: number;
  readonly tlbVpnBase: number;
  readonly tlbFilledBase: number;
  readonly ramBase: number;
  readonly ramBytes: number;
  readonly frameFlagsBase: number;
}

type Code = () => void;
const L = { vaddr: 0, access: 1, user: 2, entry: 3, vpnAt: 4, arch: 5, table: 6, low: 7, high: 8, rights: 9, nx: 10, wp: 11, maddr: 12, frame: 13, page: 14, none: 15 } as const;
type Local = keyof typeof L;
const [I32_LOCALS, I64_LOCALS] = [12, 2] as const;

/** The function's body: (i64, i32) -> i32. */
export function walkerBody(p: WalkerPlaces): Uint8Array {
  const c = new CodeBuffer(4096);
  const get = (local: Local): Code => () => c.get(L[local]);
  const k = (value: number): Code => () => c.const32(value);
  const k64 = (value: bigint): Code => () => c.const64(value);
  const op = (code: number, ...operands: Code[]): Code => () => {
    for (const operand of operands) operand();
    c.byte(code);
  };
  const load = (code: number, at: Code, base: number): Code => () => {
    at();
    c.memory(code, base);
  };
  const and = (a: Code, mask: number): Code => op(OP.i32_and, a, k(mask));
  const or = (...all: Code[]): Code => all.reduce((a, b) => op(OP.i32_or, a, b));
  const low32 = (a: Code): Code => op(OP.i32_wrap_i64, a);
  const state = (at: number): Code => load(OP.i32_load, k(p.stateBase), at);
  const is = (access: keyof typeof FIND): Code => op(OP.i32_eq, get('access'), k(FIND[access]));
  const not = (a: Code): Code => op(OP.i32_eqz, a);
  /** 1 if any bit is set: conditions are joined bit by bit. */
  const some = (a: Code): Code => op(OP.i32_ne, a, k(0));
  /** `bit` of a moved to where `to` is. */
  const moved = (a: Code, bit: number, to: number): Code => (to > bit ? op(OP.i32_mul, and(a, bit), k(to / bit)) : op(OP.i32_shr_u, and(a, bit), k(Math.log2(bit / to))));

  const set = (local: Local, value: Code): void => {
    value();
    c.set(L[local]);
  };
  const store = (code: number, at: Code, base: number, value: Code): void => {
    at();
    value();
    c.memory(code, base);
  };
  const when = (cond: Code, then: Code): void => {
    cond();
    c.open(OP.if);
    then();
    c.end();
  };
  const refuseIf = (cond: Code): void =>
    when(cond, () => {
      c.const32(0);
      c.byte(OP.return);
    });

  /** Reads the entry that the address's bits from `shift` choose in the table. */
  const entry = (shift: number): void => {
    const offset = and(low32(op(OP.i64_shr_u, get('vaddr'), k64(BigInt(shift - 3)))), 0x1ff * 8);
    set('table', op(OP.i32_add, get('table'), offset));
    refuseIf(op(OP.i32_ge_u, get('table'), k(p.ramBytes)));
    set('low', load(OP.i32_load, get('table'), p.ramBase));
    set('high', load(OP.i32_load, get('table'), p.ramBase + 4));
    refuseIf(op(OP.i32_ne, and(get('low'), PTE.P | PTE.A), k(PTE.P | PTE.A)));
    // Reserved bits; and beyond 4 GiB, of which bits 0 to 7 speak, is no RAM. NX without EFER.NXE is reserved.
    refuseIf(and(get('high'), RESERVED_HI.hosted | 0xff));
    set('nx', or(get('nx'), get('high')));
    set('rights', op(OP.i32_and, get('rights'), get('low')));
  };
  const walk = (): void => {
    set('table', and(state(STATE.cr3), ~0xfff));
    set('rights', k(PTE.RW | PTE.US));
    set('nx', k(0));
    set('wp', moved(state(STATE.cr0), CR0.WP, ARCH.wp));
    c.open(OP.block); // $leaf
    for (const shift of [39, 30]) {
      entry(shift);
      refuseIf(and(get('low'), PTE.PS));
      set('table', and(get('low'), ~0xfff));
    }
    entry(21);
    when(and(get('low'), PTE.PS), () => {
      refuseIf(and(get('low'), LARGE_PAGE_RESERVED));
      set('maddr', or(and(get('low'), ~0x1fffff), and(low32(get('vaddr')), 0x1ff000)));
      c.br(1);
    });
    set('table', and(get('low'), ~0xfff));
    entry(12);
    set('maddr', and(get('low'), ~0xfff));
    c.end();
    refuseIf(op(OP.i32_and, op(OP.i32_lt_s, get('nx'), k(0)), or(is('fetch'), not(and(state(STATE.efer), EFER.NXE)))));
    refuseIf(op(OP.i32_and, get('user'), not(and(get('rights'), PTE.US))));
    when(is('write'), () => {
      refuseIf(not(and(get('low'), PTE.D)));
      refuseIf(op(OP.i32_and, not(and(get('rights'), PTE.RW)), or(get('user'), some(get('wp')))));
    });
    refuseIf(op(OP.i32_ge_u, get('maddr'), k(p.ramBytes)));
  };
  const fill = (): void => {
    when(not(and(get('arch'), ARCH.valid)), () => {
      set('table', load(OP.i32_load, k(p.tlbFilledBase), FILLED.count));
      when(op(OP.i32_lt_u, get('table'), k(FILLED.max)), () => store(OP.i32_store16, op(OP.i32_mul, get('table'), k(2)), p.tlbFilledBase + FILLED.slots, op(OP.i32_shr_u, get('entry'), k(6))));
      when(op(OP.i32_le_u, get('table'), k(FILLED.max)), () => store(OP.i32_store, k(p.tlbFilledBase), FILLED.count, op(OP.i32_add, get('table'), k(1))));
    });
    const executable = op(OP.i32_mul, op(OP.i32_ge_s, get('nx'), k(0)), k(ARCH.executable));
    const global = op(OP.i32_mul, op(OP.i32_and, some(and(get('low'), PTE.G)), some(and(state(STATE.cr4), CR4.PGE))), k(ARCH.global));
    set('arch', or(k(ARCH.valid), get('wp'), moved(get('rights'), PTE.US, ARCH.user), moved(get('rights'), PTE.RW, ARCH.writable), moved(get('low'), PTE.D, ARCH.dirty), executable, global));
    store(OP.i64_store, get('vpnAt'), p.tlbVpnBase, op(OP.i64_shr_u, get('vaddr'), k64(12n)));
    store(OP.i32_store, get('entry'), p.tlbBase + TLB.arch, get('arch'));
    store(OP.i32_store, get('entry'), p.tlbBase + TLB.maddr, get('maddr'));
    store(OP.i32_store, get('entry'), p.tlbBase + TLB.addend, op(OP.i32_sub, op(OP.i32_add, get('maddr'), k(p.ramBase)), and(low32(get('vaddr')), ~0xfff)));
  };
  /** A store needs its frame's flag, and TypeScript if there is code in it. */
  const frame = (): void => {
    set('frame', load(OP.i32_load8_u, op(OP.i32_shr_u, get('maddr'), k(12)), p.frameFlagsBase));
    refuseIf(op(OP.i32_and, is('write'), some(and(get('frame'), FRAME_FLAG.code))));
  };
  const tags = (): void => {
    when(is('write'), () => {
      set('frame', or(get('frame'), k(FRAME_FLAG.dirty)));
      store(OP.i32_store8, op(OP.i32_shr_u, get('maddr'), k(12)), p.frameFlagsBase, get('frame'));
    });
    set('page', op(OP.i64_and, get('vaddr'), k64(-4096n)));
    set('none', op(OP.i64_or, op(OP.i64_and, get('vaddr'), k64(-0x1_0000_0000n)), k64(BigInt(NO_TAG))));
    const may = (bits: number): Code => op(OP.i32_eq, and(get('arch'), bits), k(bits));
    const writes = op(OP.i32_and, may(ARCH.dirty), op(OP.i32_eq, and(get('frame'), FRAME_FLAG.dirty | FRAME_FLAG.code), k(FRAME_FLAG.dirty)));
    const tag = (at: number, allowed: Code): void => store(OP.i64_store, get('entry'), p.tlbBase + at, op(OP.select, get('page'), get('none'), allowed));
    store(OP.i64_store, get('entry'), p.tlbBase + TLB.readSup, get('page'));
    tag(TLB.writeSup, op(OP.i32_and, writes, or(may(ARCH.writable), not(may(ARCH.wp)))));
    tag(TLB.execSup, may(ARCH.executable));
    tag(TLB.readUser, may(ARCH.user));
    tag(TLB.writeUser, op(OP.i32_and, writes, may(ARCH.user | ARCH.writable)));
    tag(TLB.execUser, may(ARCH.user | ARCH.executable));
  };

  c.u32(2);
  c.u32(I32_LOCALS);
  c.byte(TYPE.i32);
  c.u32(I64_LOCALS);
  c.byte(TYPE.i64);
  // Canonical?
  refuseIf(op(OP.i64_ne, op(OP.i64_shr_s, op(OP.i64_shl, get('vaddr'), k64(16n)), k64(16n)), get('vaddr')));
  set('user', op(OP.i32_eq, state(STATE.cpl), k(3)));
  set('entry', and(low32(op(OP.i64_shr_u, get('vaddr'), k64(6n))), (TLB_ENTRIES - 1) << 6));
  set('vpnAt', op(OP.i32_mul, op(OP.i32_shr_u, get('entry'), k(6)), k(TLB_VPN_BYTES)));
  set('arch', load(OP.i32_load, get('entry'), p.tlbBase + TLB.arch));
  c.open(OP.block); // $found
  c.open(OP.block); // $walk
  // A cached translation that allows the access is used, however stale it is.
  const miss = (cond: Code): void => {
    cond();
    c.brIf(0);
  };
  miss(not(and(get('arch'), ARCH.valid)));
  miss(op(OP.i64_ne, load(OP.i64_load, get('vpnAt'), p.tlbVpnBase), op(OP.i64_shr_u, get('vaddr'), k64(12n))));
  miss(op(OP.i32_and, get('user'), not(and(get('arch'), ARCH.user))));
  miss(op(OP.i32_and, is('fetch'), not(and(get('arch'), ARCH.executable))));
  const readOnly = op(OP.i32_and, not(and(get('arch'), ARCH.writable)), or(get('user'), some(and(get('arch'), ARCH.wp))));
  miss(op(OP.i32_and, is('write'), or(not(and(get('arch'), ARCH.dirty)), readOnly)));
  refuseIf(and(get('arch'), ARCH.noRam));
  set('maddr', load(OP.i32_load, get('entry'), p.tlbBase + TLB.maddr));
  frame();
  c.br(1);
  c.end();
  walk();
  frame();
  fill();
  c.end();
  tags();
  op(OP.i32_add, op(OP.i32_add, get('maddr'), k(p.ramBase)), and(low32(get('vaddr')), 0xfff))();
  c.end();
  return c.written().slice();
}
