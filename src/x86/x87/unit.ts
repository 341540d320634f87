// One instruction at work on the registers of one processor's x87. Rows read registers, compute, and
// only when nothing can fault any more write back; finish() then posts the flags.
import type { Core } from '../core.ts';
import { STATE } from '../state-layout.ts';
import { FLAG, type F80, INDEFINITE, INTEGER_BIT, KIND, kindOf, MAX_EXP, Outcome, PRE_FLAGS } from './number.ts';

export const EXCEPTIONS = 0x3f;
const TOP_SHIFT = 11;
export const CONDITIONS = FLAG.C0 | FLAG.C2 | FLAG.C3;
/** Of a control word that is loaded: bits that can be set, and bit 6, which always is. */
export const CONTROL_WORD = { keep: 0x1f3f, set: 0x40 } as const;

export const topOf = (core: Core): number => (core.get32(STATE.fpuStatus) >> TOP_SHIFT) & 7;
export function setTop(core: Core, top: number): void {
  core.set32(STATE.fpuStatus, (core.get32(STATE.fpuStatus) & ~(7 << TOP_SHIFT)) | ((top & 7) << TOP_SHIFT));
}
/** Register by number, not by its place in the stack. */
export function registerAt(core: Core, physical: number): F80 {
  const at = STATE.fpuReg + physical * 16;
  const high = core.get32(at + 8);
  return { sign: (high >> 15) & 1, exp: high & MAX_EXP, sig: (BigInt(core.get32(at + 4)) << 32n) | BigInt(core.get32(at)) };
}
export function setRegisterAt(core: Core, physical: number, x: F80): void {
  const at = STATE.fpuReg + physical * 16;
  core.set32(at, Number(x.sig & 0xffffffffn));
  core.set32(at + 4, Number(x.sig >> 32n));
  core.set32(at + 8, (x.sign << 15) | x.exp);
}
/** Error summary and busy follow from flags and masks. */
export function summarise(core: Core): void {
  const status = core.get32(STATE.fpuStatus);
  const pending = (status & ~core.get32(STATE.fpuControl) & EXCEPTIONS) !== 0;
  core.set32(STATE.fpuStatus, pending ? status | FLAG.ES | FLAG.B : status & ~(FLAG.ES | FLAG.B));
}
/** The tag word as it is stored: of a full register the tag says what is in it. SDM vol. 1, 8.1.7. */
export function tagWord(core: Core): number {
  let word = 0;
  const full = core.get32(STATE.fpuFull);
  for (let i = 0; i < 8; i++) {
    const kind = (full & (1 << i)) === 0 ? -1 : kindOf(registerAt(core, i));
    word |= (kind === -1 ? 3 : kind === KIND.zero ? 1 : kind === KIND.normal ? 0 : 2) << (2 * i);
  }
  return word;
}
export function setTagWord(core: Core, word: number): void {
  let full = 0;
  for (let i = 0; i < 8; i++) if (((word >> (2 * i)) & 3) !== 3) full |= 1 << i;
  core.set32(STATE.fpuFull, full);
}
/** FNINIT; register contents stay. */
export function initialise(core: Core): void {
  core.set32(STATE.fpuControl, 0x37f);
  for (const at of [STATE.fpuStatus, STATE.fpuFull, STATE.fpuOpcode, STATE.fpuIp, STATE.fpuCs, STATE.fpuDp, STATE.fpuDs]) core.set32(at, 0);
}

export class Unit extends Outcome {
  readonly core: Core;
  /** Status bits that do not survive the instruction. */
  cleared: number = FLAG.C1;

  constructor(core: Core) {
    super(core.get32(STATE.fpuControl));
    this.core = core;
  }

  isEmpty(i: number): boolean {
    return (this.core.get32(STATE.fpuFull) & (1 << ((topOf(this.core) + i) & 7))) === 0;
  }
  /** What is there, empty or not. */
  raw(i: number): F80 {
    return registerAt(this.core, (topOf(this.core) + i) & 7);
  }
  /** ST(i); an empty one is a stack underflow and gives the indefinite. */
  st(i: number): F80 {
    return this.isEmpty(i) ? this.underflow() : this.raw(i);
  }
  underflow(): F80 {
    this.flags |= FLAG.IE | FLAG.SF;
    return INDEFINITE;
  }
  overflow(): F80 {
    this.flags |= FLAG.IE | FLAG.SF | FLAG.C1;
    return INDEFINITE;
  }
  get stackFault(): boolean {
    return (this.flags & FLAG.SF) !== 0;
  }
  /** An unmasked exception that leaves destination and stack as they are; later findings do not count. */
  refused(): boolean {
    const refusing = this.flags & PRE_FLAGS & ~this.control;
    if (refusing !== 0) this.flags &= PRE_FLAGS | FLAG.SF | (this.stackFault ? FLAG.C1 : 0);
    return refusing !== 0;
  }

  set(i: number, x: F80): void {
    const physical = (topOf(this.core) + i) & 7;
    setRegisterAt(this.core, physical, x);
    this.core.set32(STATE.fpuFull, this.core.get32(STATE.fpuFull) | (1 << physical));
  }
  free(i: number): void {
    this.core.set32(STATE.fpuFull, this.core.get32(STATE.fpuFull) & ~(1 << ((topOf(this.core) + i) & 7)));
  }
  pop(): void {
    this.free(0);
    setTop(this.core, topOf(this.core) + 1);
  }
  push(x: F80): void {
    setTop(this.core, topOf(this.core) - 1);
    this.set(0, x);
  }
  /** Posts flags and conditions. */
  finish(): void {
    const { core } = this;
    core.set32(STATE.fpuStatus, (core.get32(STATE.fpuStatus) & ~this.cleared) | this.flags);
    summarise(core);
  }
}

export const isPending = (core: Core): boolean => (core.get32(STATE.fpuStatus) & FLAG.ES) !== 0;
export const ONE: F80 = { sign: 0, exp: 16383, sig: INTEGER_BIT };
