// Cases of several instructions: what single ones cannot show. Flags that live across instructions,
// partial registers, loops, faults in the middle, single steps, alignment checks, code that rewrites
// itself, code across pages.
import { CODE, DATA, ldtSelector, READ_ONLY, STACK, UNMAPPED } from '../environment.ts';
import { type Draft, type Maker } from './maker.ts';

const EBP = 5;
const FRAME = DATA + 0x600;

interface Step {
  readonly code: readonly number[];
  readonly writes?: readonly number[];
}

/** Writes no ESP or EBP, so that memory operands and the stack stay where they are. */
function step(m: Maker): Step {
  const { rng } = m;
  const reg = (): number => rng.pick([0, 1, 2, 3, 6, 7]);
  const reg8 = (): number => rng.below(8);
  const prefix = rng.chance(4) ? [0x66] : [];
  const disp = (): number => rng.below(32) * 4;
  const imm = (bits: number): number[] => { const v = m.value(); return Array.from({ length: bits / 8 }, (_, i) => (v >>> (8 * i)) & 0xff); };
  const wide = prefix.length > 0 ? 16 : 32;
  const a = reg(), b = reg(), op = rng.below(8) * 8;
  const kinds: readonly (() => Step)[] = [
    () => ({ code: [...prefix, op + 1, 0xc0 | (a << 3) | b], writes: [b] }),
    () => ({ code: [op, 0xc0 | (reg8() << 3) | reg8()], writes: [0, 1, 2, 3] }),
    () => ({ code: [...prefix, op + 3, 0x45 | (a << 3), disp()], writes: [a] }),
    () => ({ code: [...prefix, op + 1, 0x45 | (a << 3), disp()] }),
    () => ({ code: [op, 0x45 | (reg8() << 3), disp()] }),
    () => ({ code: [...prefix, 0x81, 0xc0 | op | b, ...imm(wide)], writes: [b] }),
    () => ({ code: [...prefix, 0x83, 0xc0 | op | b, ...imm(8)], writes: [b] }),
    () => ({ code: [...prefix, 0x40 + a], writes: [a] }),
    () => ({ code: [...prefix, 0x48 + a], writes: [a] }),
    () => ({ code: [0x0f, 0x90 + rng.below(16), 0xc0 | rng.below(8)], writes: [0, 1, 2, 3] }),
    () => ({ code: [...prefix, 0x0f, 0x40 + rng.below(16), 0xc0 | (a << 3) | b], writes: [a] }),
    () => ({ code: [...prefix, 0xc1, 0xc0 | (rng.pick([0, 1, 2, 3, 4, 5, 7]) << 3) | b, rng.below(33)], writes: [b] }),
    () => ({ code: [...prefix, 0xd1, 0xc0 | (rng.pick([0, 1, 2, 3, 4, 5, 7]) << 3) | b], writes: [b] }),
    () => ({ code: [...prefix, 0xd3, 0xc0 | (rng.pick([4, 5, 7, 0, 1]) << 3) | b], writes: [b] }),
    () => ({ code: [...prefix, 0x85, 0xc0 | (a << 3) | b] }),
    () => ({ code: [...prefix, 0xf7, 0xd0 | b], writes: [b] }),
    () => ({ code: [...prefix, 0xf7, 0xd8 | b], writes: [b] }),
    () => ({ code: [...prefix, 0xf7, 0xe0 | b], writes: [0, 2] }),
    () => ({ code: [...prefix, 0x0f, 0xaf, 0xc0 | (a << 3) | b], writes: [a] }),
    () => ({ code: [0x8d, 0x04 | (a << 3), (rng.below(4) << 6) | (b << 3) | reg()], writes: [a] }),
    () => ({ code: [0x0f, rng.pick([0xb6, 0xbe]), 0xc0 | (a << 3) | rng.below(8)], writes: [a] }),
    () => ({ code: [...prefix, 0x89, 0xc0 | (a << 3) | b], writes: [b] }),
    () => ({ code: [0x88, 0xc0 | (reg8() << 3) | reg8()], writes: [0, 1, 2, 3] }),
    () => ({ code: [...prefix, 0xb8 + a, ...imm(wide)], writes: [a] }),
    () => ({ code: [0x9f], writes: [0] }),
    () => ({ code: [rng.pick([0xf5, 0xf8, 0xf9])] }),
    () => ({ code: [0x50 + a, 0x58 + b], writes: [b] }),
    () => ({ code: [0x9c, 0x58 + b], writes: [b] }),
    () => ({ code: [...prefix, 0x0f, 0xba, 0xe0 | (rng.below(4) << 3) | b, rng.below(32)], writes: [b] }),
    () => ({ code: [...prefix, 0x0f, 0xc1, 0xc0 | (a << 3) | b], writes: [a, b] }),
    () => ({ code: [...prefix, 0x0f, 0xb1, 0xc0 | (a << 3) | b], writes: [0, b] }),
    () => ({ code: [...prefix, 0x0f, rng.pick([0xa4, 0xac]), 0xc0 | (a << 3) | b, rng.below(wide)], writes: [b] }),
    () => ({ code: [...prefix, 0x98], writes: [0] }),
    () => ({ code: [...prefix, 0x99], writes: [2] }),
    () => ({ code: [0x0f, 0xc8 + a], writes: [a] }),
    () => ({ code: [...prefix, 0x87, 0x45 | (a << 3), disp()], writes: [a] }),
    () => ({ code: [...prefix, 0xff, 0x45 | (rng.below(2) << 3), disp()] }),
  ];
  return rng.pick(kinds)();
}

/** Flags undefined after MUL, shifts by a count, BTx, SHxD and logic's AF: sequences end in something that defines all of them. */
const DEFINE_FLAGS: readonly (readonly number[])[] = [[0x01, 0xd8], [0x29, 0xc8], [0x83, 0xfa, 0x05], [0xf7, 0xd9], [0x00, 0xe0]];
/** LAHF, PUSHF and PUSH-able flags would carry undefined flags into registers: kept out of sequences with such producers. */
const READS_ALL_FLAGS = (code: readonly number[]): boolean => code[0] === 0x9f || code[0] === 0x9c;
const leavesUndefined = (code: readonly number[]): boolean => {
  const at = code[0] === 0x66 ? 1 : 0;
  const op = code[at] as number, next = code[at + 1] as number;
  if (op === 0x0f) return [0xa4, 0xac, 0xaf, 0xba].includes(next);
  if (op === 0xf7) return (next & 0x38) === 0x20;
  if ([0xc1, 0xd1, 0xd3].includes(op)) return true;
  if (op === 0x85) return true;
  if (op === 0x81 || op === 0x83) return [0x08, 0x20, 0x30].includes(next & 0x38);
  return op < 0x40 && [0x08, 0x20, 0x30].includes(op & 0x38);
};
/** Conditions that an undefined OF, SF, ZF, PF or CF could reach: only ALU results before them. */
const readsFlags = (code: readonly number[]): boolean => {
  const at = code[0] === 0x66 ? 1 : 0;
  const op = code[at] as number, next = code[at + 1] as number;
  if (op === 0x0f) return (next & 0xf0) === 0x40 || (next & 0xf0) === 0x90;
  if (op < 0x40) return (op & 0x38) === 0x10 || (op & 0x38) === 0x18;
  if (op === 0x81 || op === 0x83) return (next & 0x38) === 0x10 || (next & 0x38) === 0x18;
  if (op === 0xc1 || op === 0xd1) return (next & 0x38) === 0x10 || (next & 0x38) === 0x18;
  return op === 0xf5 || READS_ALL_FLAGS(code);
};
/** MUL, SHxD, BTx and shifts leave more than AF behind. */
const leavesMuch = (code: readonly number[]): boolean => {
  const at = code[0] === 0x66 ? 1 : 0;
  const op = code[at] as number, next = code[at + 1] as number;
  return (op === 0x0f && [0xa4, 0xac, 0xaf, 0xba].includes(next)) || (op === 0xf7 && (next & 0x38) === 0x20) || [0xc1, 0xd3].includes(op);
};
const definesAll = (code: readonly number[]): boolean => {
  const at = code[0] === 0x66 ? 1 : 0;
  const op = code[at] as number, next = code[at + 1] as number;
  if (leavesUndefined(code)) return false;
  if (op < 0x40 && op !== 0x0f) return true;
  return op === 0x81 || op === 0x83 || (op === 0xf7 && (next & 0x38) === 0x18) || (op === 0x0f && [0xc1, 0xb1].includes(next));
};

function frame(m: Maker): Draft {
  const d = m.draft();
  d.eflags &= ~0x400;
  d.pin(EBP, FRAME);
  return d;
}

/** Straight runs that never let an undefined flag be seen. */
function run(m: Maker, length: number, avoid: readonly number[] = []): Step[] {
  const steps: Step[] = [];
  let much = false, some = false; // what may be undefined now: everything but CF..., or AF alone
  while (steps.length < length) {
    const next = step(m);
    if ((next.writes ?? []).some((r) => avoid.includes(r))) continue;
    if (much && readsFlags(next.code)) continue;
    if (some && READS_ALL_FLAGS(next.code)) continue;
    // Rotates keep four flags and a count of zero keeps all: whatever was undefined stays so.
    steps.push(next);
    if (definesAll(next.code)) { much = false; some = false; }
    if (leavesMuch(next.code)) much = true;
    if (leavesUndefined(next.code)) some = true;
  }
  return steps;
}

export function sequences(m: Maker): void {
  const { rng } = m;
  for (let i = 0; i < 3000; i++) {
    const steps = run(m, 2 + rng.below(12));
    const bytes = [...steps.flatMap((s) => [...s.code]), ...rng.pick(DEFINE_FLAGS)];
    for (let n = 0; n < 2; n++) {
      const d = frame(m);
      d.code = bytes;
      m.add(d);
    }
  }
  // Loops: LOOP and DEC/JNZ around a body, a branch inside.
  for (let i = 0; i < 600; i++) {
    const body = run(m, 1 + rng.below(6), [1]).flatMap((s) => [...s.code]);
    const skipped = run(m, 1, [1]).flatMap((s) => [...s.code]);
    const inner = [...body, 0x83, 0xf8, rng.below(256), 0x70 + rng.below(16), skipped.length, ...skipped, 0x39, 0xc8];
    const close = rng.chance(2) ? [0xe2] : [0x49, 0x75];
    const distance = inner.length + close.length + 1;
    if (distance > 120) continue;
    const d = frame(m);
    d.code = [...inner, ...close, 256 - distance, ...rng.pick(DEFINE_FLAGS)];
    d.setReg(1, 1 + rng.below(40));
    m.add(d);
  }
  // A fault in the middle: everything before it has happened, nothing of it or after it.
  for (let i = 0; i < 1000; i++) {
    const before = run(m, 1 + rng.below(5), [3]).flatMap((s) => [...s.code]);
    const after = run(m, 1 + rng.below(4)).flatMap((s) => [...s.code]);
    // Flags that a fault reports must be defined: an ADD or CMP stands before it.
    const faulting = rng.pick([[0x8b, 0x03], [0x89, 0x03], [0x01, 0x03], [0xff, 0x03], [0xff, 0x33], [0x8f, 0x03], [0x0f, 0xb1, 0x13], [0xf7, 0x33], [0x0f, 0xb6, 0x03], [0xd1, 0x03], [0xcd, 0x81], [0x0f, 0x0b], [0xf4]]);
    const d = frame(m);
    d.code = [...before, ...rng.pick(DEFINE_FLAGS.slice(0, 4).filter((c) => c[1] !== 0xd9)), 0x39, 0xc8, ...faulting, 0x39, 0xc8, ...after, ...rng.pick(DEFINE_FLAGS)];
    d.pin(3, rng.pick([UNMAPPED + 0x40, READ_ONLY + 0x100, READ_ONLY - 2, UNMAPPED - 2, 0x500, DATA + 0x300]));
    m.add(d);
  }
}

/** TF: a debug trap after each instruction; what it sees and what delays it. */
export function singleSteps(m: Maker): void {
  const tf = (d: Draft): void => { d.eflags |= 0x100; };
  const list = [
    [0x90], [0x01, 0xd8], [0xe8, 0, 0, 0, 0], [0xeb, 0x10], [0x74, 0x10], [0xf3, 0xa4], [0xa4], [0xc3], [0x50], [0x9c], [0x9d], [0xf7, 0xf3], [0x0f, 0x0b], [0xcc], [0xcd, 0x81], [0xcd, 3], [0xf4],
    [0xc9], [0x0f, 0xa2], [0xe2, 0x10], [0x8e, 0xd8, 0x90], [0x8b, 0x05, 0, 0, 4, 0], [0xf0, 0xff, 0x05, 0, 1, 2, 0], [0xce],
  ];
  for (const code of list) {
    for (let i = 0; i < 3; i++) {
      m.plain(code, (d) => {
        tf(d);
        d.eflags &= ~0x400;
        d.setReg(1, code[0] === 0x0f && code[1] === 0xa2 ? 0 : 3 * i);
        if (code[0] === 0x0f && code[1] === 0xa2) { d.code = [0x90, 0x90]; return; }
        d.setReg(6, DATA + 0x100);
        d.setReg(7, DATA + 0x200);
        d.setOperand(0, 16, 0x2b);
        d.poke(STACK, 32, code[0] === 0x9d ? (m.rng.u32() & 0xed5) | (i === 0 ? 0x100 : 2) : CODE + 0x200);
      });
    }
  }
  // POPF that sets TF: the instruction after it is the first to trap. MOV SS holds the trap back by one.
  for (let i = 0; i < 6; i++) m.plain([0x9d, 0x40, 0x41], (d) => d.poke(STACK, 32, (m.rng.u32() & 0xcd5) | 0x102));
  for (const code of [[0x8e, 0xd0, 0x90, 0x90], [0x17, 0x90, 0x90]]) m.plain(code, (d) => { tf(d); d.setOperand(0, 16, 0x2b); d.poke(STACK, 32, 0x2b); });
}

/** AC with CR0.AM, as Linux sets it: #AC on unaligned data at CPL 3. */
export function alignment(m: Maker): void {
  const { rng } = m;
  const list: readonly (readonly number[])[] = [
    [0x8a, 0x03], [0x8b, 0x03], [0x66, 0x8b, 0x03], [0x89, 0x03], [0x66, 0x89, 0x03], [0x01, 0x03], [0x03, 0x03], [0x87, 0x03], [0xff, 0x33], [0x0f, 0xb7, 0x03], [0x0f, 0xb6, 0x03], [0x0f, 0xc7, 0x0b],
    [0xa5], [0x66, 0xa5], [0xa4], [0xab], [0x0f, 0xab, 0x03], [0x8d, 0x03], [0x8f, 0x03], [0xff, 0x23], [0x0f, 0x1f, 0x03],
  ];
  for (const code of list) {
    for (let misalign = 0; misalign < 4; misalign++) {
      m.plain(code, (d) => {
        d.eflags = (d.eflags | 0x40000) & ~0x400;
        const at = DATA + 0x100 + 8 * rng.below(16) + misalign;
        for (const r of [3, 6, 7]) d.setReg(r, at);
        d.setReg(0, 8 * rng.below(8));
        if (code[0] === 0xff && code[1] === 0x23) d.poke(at, 32, CODE + 0x200);
      });
    }
  }
  for (let misalign = 0; misalign < 4; misalign++) {
    for (const code of [[0x50], [0x58], [0x66, 0x50], [0x60], [0x61], [0xe8, 0, 0, 0, 0], [0x9c], [0xc9]]) m.plain(code, (d) => { d.eflags = (d.eflags | 0x40000) & ~0x400; d.setReg(4, STACK - misalign); d.setReg(5, STACK + 0x40 + misalign); });
    m.plain([0x9d], (d) => { d.poke(STACK, 32, 0x40202 | (rng.u32() & 0x8d5)); d.setReg(3, DATA + misalign); d.code = [0x9d, 0x8b, 0x03]; }); // POPF turns it on
    m.plain([0x8b, 0x03], (d) => { d.eflags |= 0x40000; d.setReg(3, UNMAPPED - 1 - misalign); }); // before a page fault?
  }
}

/** Stores into the very next instruction, into a loop's body, and through another segment. */
export function selfModifying(m: Maker): void {
  const { rng } = m;
  const le = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
  for (let i = 0; i < 40; i++) {
    const imm = rng.below(256);
    // mov byte [next+1], imm ; mov al, 0 -> mov al, imm
    m.plain([0xc6, 0x05, ...le(CODE + 8), imm, 0xb0, 0]);
    // the opcode itself: inc eax -> dec edx and so on
    m.plain([0xc6, 0x05, ...le(CODE + 7), 0x40 + rng.pick([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 15]), 0x40]);
    // far ahead on the same page, and on the next page
    m.plain([0xc6, 0x05, ...le(CODE + 12), 0x41, 0x42, 0x42, 0x42, 0x42, 0x43, 0x90]);
    m.plain([0xc7, 0x05, ...le(0x10ffe), 0x40, 0x40, 0x40, 0x40, 0x90, 0x90, 0x90], (d) => { d.at = 0x11000 - 12; });
    // by a string store that reaches its own tail, with ECX = 4 the bytes after it
    m.plain([0xf3, 0xaa, 0x90, 0x90, 0x90, 0x90], (d) => { d.eflags &= ~0x400; d.setReg(0, 0x40 + rng.pick([2, 3, 6])); d.setReg(1, 4); d.setReg(7, CODE + 2); });
    // a loop that changes its own immediate: add eax, n ; inc byte [n] ; loop
    m.plain([0x05, 1, 0, 0, 0, 0xfe, 0x05, ...le(CODE + 1), 0xe2, 256 - 13], (d) => d.setReg(1, 1 + rng.below(20)));
    // push into code: the stack lies on the instructions to come
    m.plain([0x68, 0x40, 0x41, 0x42, 0x43, 0x90, 0x90, 0x90, 0x90], (d) => d.setReg(4, CODE + 9));
    // call through a patched immediate
    m.plain([0x80, 0x05, ...le(CODE + 8), rng.below(0x60), 0xe8, 0x10, 0, 0, 0]);
  }
  // A code segment whose base differs: the same bytes under two linear views.
  for (let i = 0; i < 6; i++) m.plain([0xc6, 0x05, ...le(CODE + 8), i, 0xb0, 0], (d) => { d.segs[1] = ldtSelector('code'); d.eip = CODE - 0x10000; });
}

/** Straight-line runs placed so that they cross from one page into the next. */
export function pageCrossing(m: Maker): void {
  for (let i = 0; i < 150; i++) {
    const bytes = [...run(m, 3 + m.rng.below(6)).flatMap((s) => [...s.code]), 0x01, 0xd8];
    const d = frame(m);
    d.code = bytes;
    d.at = 0x11000 - m.rng.below(bytes.length + 1);
    m.add(d);
  }
}
