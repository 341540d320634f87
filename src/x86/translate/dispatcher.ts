// The dispatcher: one small WebAssembly module per processor. It holds the only loop that calls through the
// dispatch table, and the helpers that regions import.
//
//    run(execTag, modeNumber):
//      loop: rip on another page than the current fetch page? look the page up in the TLB (law 1), in long mode walk
//            the tables on a miss (page-walker.ts), else                                        miss -> return
//            rip in the jump cache for this machine page and mode?                              miss -> return
//            slot 0: a block program, for the interpreter (../interpret/); it says what it ended with
//            the entry's hops are used up -> return 2
//            call the region; it says stop -> return 1, else again
//
// Why regions return to a loop instead of tail-calling each other through the table: V8 (11.3) gives every
// instance that imports a table its own copy of it: 4.7 ms and 1.5 MB per module at 70,000 slots were measured,
// against 16 µs per function and about 5 ns per hop for this shape.
import { FLAG_BIT, FLAG_ROWS, flagOpCode, STATUS_FLAGS } from '../flags.ts';
import type { Expr, Width } from '../ir.ts';
import { interpreterBody } from '../interpret/interpreter.ts';
import { ENDED } from '../interpret/operations.ts';
import { STATE } from '../state-layout.ts';
import { TLB, TLB_ENTRIES } from '../tlb-layout.ts';
import { CodeBuffer, OP, TYPE } from './code-buffer.ts';
import { emitJumpCacheOffset } from './emit-region.ts';
import { emitExpr, type Reads } from './expression.ts';
import { JUMP_CACHE } from './jump-cache.ts';
import { FIND, walkerBody, type WalkerPlaces } from './page-walker.ts';
import { moduleBytes, type Signature } from './wasm-module.ts';
import { x87Body } from './x87-unit.ts';

export interface DispatcherPlaces extends WalkerPlaces {
  readonly jumpCacheBase: number;
  readonly memoryPages: number;
  readonly long: boolean;
  /** Of 64-bit code: the interpreter's counter. Without it, there are no block programs. */
  readonly counter?: number | undefined;
}

/** What run() returns. */
export const LEFT = { miss: 0, stop: 1, hops: 2, warm: ENDED.warm, short: ENDED.short } as const;

const { i32, i64 } = TYPE;
/** Function indices: two imports, then these. The last two are of long mode. */
const FUNCTION = { slowRead: 2, slowWrite: 3, statusImage: 4, x87: 5, run: 6, find: 7, interpret: 8 } as const;
/** Signature numbers shared with the region modules, and the last, which is the dispatcher's. */
export const SIGNATURE = { region: 0, slow: 1, image: 2, run: 3, hostSlow: 4 } as const;

export function signatures(long: boolean): Signature[] {
  const word = long ? i64 : i32;
  return [
    { params: [i32], results: [i32] },
    // Address and size.
    { params: [word, i32], results: [i32] },
    { params: [i32, word, word, word], results: [i32] },
    { params: [i32, i32], results: [i32] },
  ];
}

/** Names under which regions import the helpers, in the order of HELPER. */
export const HELPER_IMPORTS = [
  { name: 'slowRead', signature: SIGNATURE.slow },
  { name: 'slowWrite', signature: SIGNATURE.slow },
  { name: 'statusImage', signature: SIGNATURE.image },
  { name: 'x87', signature: SIGNATURE.run },
] as const;

/** The module; it imports slowRead and slowWrite and exports them again together with statusImage and run. */
export function dispatcherModule(places: DispatcherPlaces): Uint8Array {
  const { stateBase, tlbBase, counter, long } = places;
  const { slowRead, slowWrite, statusImage } = FUNCTION;
  const walker = long ? [{ signature: SIGNATURE.slow, body: walkerBody(places) }] : [];
  const interpreter = counter === undefined ? [] : [{ signature: SIGNATURE.run, body: interpreterBody({ stateBase, tlbBase, counter, slowRead, slowWrite, statusImage }) }];
  return moduleBytes({
    // To TypeScript the addresses of long mode go by halves.
    signatures: [...signatures(long), { params: long ? [i32, i32, i32] : [i32, i32], results: [i32] }],
    imports: [HELPER_IMPORTS[0], HELPER_IMPORTS[1]].map(({ name }) => ({ name, signature: SIGNATURE.hostSlow })),
    memoryPages: places.memoryPages,
    table: true,
    functions: [
      { signature: SIGNATURE.slow, body: slowBody(0, long ? FIND.read : undefined), exportName: 'slowRead' },
      { signature: SIGNATURE.slow, body: slowBody(1, long ? FIND.write : undefined), exportName: 'slowWrite' },
      { signature: SIGNATURE.image, body: statusImageBody(long), exportName: 'statusImage' },
      { signature: SIGNATURE.run, body: x87Body(stateBase), exportName: 'x87' },
      { signature: SIGNATURE.run, body: runBody(places), exportName: 'run' },
      ...walker,
      ...interpreter,
    ],
  });
}

/** slowRead and slowWrite: the walker's answer if it has one and the access stays in its page, else TypeScript's. */
function slowBody(host: number, access: number | undefined): Uint8Array {
  const c = new CodeBuffer(96);
  const [at, sizeBytes, found] = [0, 1, 2];
  if (access === undefined) {
    c.u32(0);
    c.get(at);
    c.get(sizeBytes);
  } else {
    c.u32(1);
    c.u32(1);
    c.byte(i32);
    c.get(at);
    c.byte(OP.i32_wrap_i64);
    c.const32(0xfff);
    c.byte(OP.i32_and);
    c.get(sizeBytes);
    c.byte(OP.i32_add);
    c.const32(4096);
    c.byte(OP.i32_gt_u);
    c.open(OP.if);
    c.const32(0);
    c.byte(OP.return);
    c.end();
    c.get(at);
    c.const32(access);
    c.index(OP.call, FUNCTION.find);
    c.tee(found);
    c.open(OP.if);
    c.get(found);
    c.byte(OP.return);
    c.end();
    c.get(at);
    c.byte(OP.i32_wrap_i64);
    c.get(at);
    c.const64(32n);
    c.byte(OP.i64_shr_u);
    c.byte(OP.i32_wrap_i64);
    c.get(sizeBytes);
  }
  c.index(OP.call, host);
  c.end();
  return c.written().slice();
}

function runBody({ stateBase, tlbBase, jumpCacheBase, long, counter }: DispatcherPlaces): Uint8Array {
  const c = new CodeBuffer(256);
  const [execTag, mode, rip, entry, left] = [0, 1, 2, 3, 4];
  // A word is an i64 in long mode.
  const word = long ? { load: OP.i64_load, store: OP.i64_store, shr: OP.i64_shr_u, and: OP.i64_and, ne: OP.i64_ne } : { load: OP.i32_load, store: OP.i32_store, shr: OP.i32_shr_u, and: OP.i32_and, ne: OP.i32_ne };
  const constant = (value: number): void => (long ? c.const64(BigInt(value)) : c.const32(value));
  const state = (at: number, load: number = OP.i32_load): void => {
    c.const32(stateBase);
    c.memory(load, at);
  };
  c.u32(2);
  c.u32(1);
  c.byte(long ? i64 : i32);
  c.u32(2);
  c.byte(i32);
  c.open(OP.block); // $miss
  c.open(OP.loop);
  // 1. Without budget nothing is fetched. Else the fetch page.
  state(STATE.budget);
  c.byte(OP.i32_eqz);
  c.brIf(1);
  state(STATE.rip, word.load);
  c.tee(rip);
  constant(12);
  c.byte(word.shr);
  state(STATE.fetchVpn, word.load);
  c.byte(word.ne);
  c.open(OP.if);
  c.get(rip);
  constant(6);
  c.byte(word.shr);
  if (long) c.byte(OP.i32_wrap_i64);
  c.const32((TLB_ENTRIES - 1) << 6);
  c.byte(OP.i32_and);
  c.tee(entry);
  c.get(execTag);
  c.byte(OP.i32_add);
  c.memory(word.load, tlbBase);
  c.get(rip);
  constant(-4096);
  c.byte(word.and);
  c.byte(word.ne);
  if (long) {
    c.open(OP.if);
    c.get(rip);
    c.const32(FIND.fetch);
    c.index(OP.call, FUNCTION.find);
    c.byte(OP.i32_eqz);
    c.brIf(3);
    c.end();
  } else c.brIf(2);
  c.const32(stateBase);
  c.get(rip);
  constant(12);
  c.byte(word.shr);
  c.memory(word.store, STATE.fetchVpn);
  c.const32(stateBase);
  c.get(entry);
  c.memory(OP.i32_load, tlbBase + TLB.maddr);
  c.memory(OP.i32_store, STATE.fetchMaddr);
  c.end();
  // 2. The jump cache.
  emitJumpCacheOffset(c, rip, long);
  c.tee(entry);
  c.memory(word.load, jumpCacheBase + JUMP_CACHE.rip);
  c.get(rip);
  c.byte(word.ne);
  c.brIf(1);
  c.get(entry);
  c.memory(OP.i32_load, jumpCacheBase + JUMP_CACHE.key);
  state(STATE.fetchMaddr);
  c.get(mode);
  c.byte(OP.i32_or);
  c.byte(OP.i32_ne);
  c.brIf(1);
  // 3. Block programs.
  if (counter !== undefined) {
    c.get(entry);
    c.memory(OP.i32_load, jumpCacheBase + JUMP_CACHE.slot);
    c.byte(OP.i32_eqz);
    c.open(OP.if);
    c.get(entry);
    c.memory(OP.i32_load, jumpCacheBase + JUMP_CACHE.label);
    c.get(execTag);
    c.index(OP.call, FUNCTION.interpret);
    c.tee(left);
    c.byte(OP.i32_eqz);
    c.brIf(1);
    c.get(left);
    c.byte(OP.return);
    c.end();
  }
  // 4. Entries that are used much.
  c.get(entry);
  c.get(entry);
  c.memory(OP.i32_load, jumpCacheBase + JUMP_CACHE.hops);
  c.const32(1);
  c.byte(OP.i32_sub);
  c.tee(left);
  c.memory(OP.i32_store, jumpCacheBase + JUMP_CACHE.hops);
  c.get(left);
  c.byte(OP.i32_eqz);
  c.open(OP.if);
  c.const32(LEFT.hops);
  c.byte(OP.return);
  c.end();
  // 5. The region.
  c.get(entry);
  c.memory(OP.i32_load, jumpCacheBase + JUMP_CACHE.label);
  c.get(entry);
  c.memory(OP.i32_load, jumpCacheBase + JUMP_CACHE.slot);
  c.byte(OP.call_indirect);
  c.u32(SIGNATURE.region);
  c.u32(0);
  c.byte(OP.i32_eqz);
  c.brIf(0);
  c.const32(LEFT.stop);
  c.byte(OP.return);
  c.end();
  c.end();
  c.const32(LEFT.miss);
  c.end();
  return c.written().slice();
}

/** statusImage(flagOp, a, b, r): the six status bits of any producer, at their places in EFLAGS. */
function statusImageBody(long: boolean): Uint8Array {
  const c = new CodeBuffer(8192);
  const widths: readonly Width[] = long ? [8, 16, 32, 64] : [8, 16, 32];
  const cases = Object.entries(FLAG_ROWS).flatMap(([op, row]) => widths.map((width) => ({ op, row, width, code: flagOpCode(op, width) })));
  const size = Math.max(...cases.map((one) => one.code)) + 1;
  const no = (): never => {
    throw new RangeError('a flag row reads more than its operands');
  };
  const operands: Reads = {
    temp: (id) => c.get(id),
    reg: no, flag: no, cond: no, df: no, eflags: no, segBase: no, selector: no, xmm: no, mm: no,
  };
  c.u32(0);
  for (let i = 0; i <= cases.length; i++) c.open(OP.block);
  // Innermost: select. Case i is reached by leaving block i.
  const depths = new Array<number>(size + 1).fill(cases.length);
  cases.forEach(({ code }, i) => {
    depths[code] = i;
  });
  c.get(0);
  c.byte(OP.br_table);
  c.u32(size);
  for (const depth of depths) c.u32(depth);
  cases.forEach(({ row, width }) => {
    c.end();
    const operand = (id: number): Expr =>
      long && width !== 64 ? { tag: 'trunc', width, a: { tag: 'temp', width: 64, id } } : { tag: 'temp', width, id };
    c.const32(0);
    for (const flag of STATUS_FLAGS) {
      emitExpr(c, operands, row[flag](operand(1), operand(2), operand(3)));
      c.const32(FLAG_BIT[flag]);
      c.byte(OP.i32_shl);
      c.byte(OP.i32_or);
    }
    c.byte(OP.return);
  });
  c.end();
  c.byte(OP.unreachable);
  c.end();
  return c.written().slice();
}
