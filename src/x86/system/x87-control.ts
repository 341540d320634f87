// x87 control: control and status words, environments, whole states. Those whose names begin with FN do
// not wait for an exception left behind; FLDCW, FLDENV, FRSTOR and FWAIT do.
import { CR0, type Core } from '../core.ts';
import type { Insn, MemOperand } from '../decode.ts';
import { STATE } from '../state-layout.ts';
import { CONTROL_WORD, EXCEPTIONS, initialise, registerAt, setRegisterAt, setTagWord, summarise, tagWord, topOf } from '../x87/unit.ts';
import { FLAG, MAX_EXP } from '../x87/number.ts';
import { NM, setGpr16, storeMem, type SystemResult, type SystemRow, loadMem, UD } from './row.ts';
import { controlled, fault, memOf, probeOperand, readOperand, waiting, writeOperand } from './x87-memory.ts';

const waited = (perform: SystemRow): SystemRow => controlled((core, insn) => waiting(core) ?? perform(core, insn));
/** Reserved bits of the control word: bit 6 reads as one. */
const controlWord = (value: number): number => (value & CONTROL_WORD.keep) | CONTROL_WORD.set;

const storeWord = (value: (core: Core) => number): SystemRow => controlled((core, insn) => {
  const mem = memOf(insn);
  if (mem !== undefined) return storeMem(core, mem, 2, value(core)) ? undefined : fault(core);
  setGpr16(core, 0, value(core));
  return undefined;
});

/** An environment's size tells its format: 14 bytes of 16-bit words or 28 of 32-bit ones (protected mode's). */
const isWide = (insn: Insn): boolean => !/m(14|94)byte$/.test(insn.code);
const environmentBytes = (insn: Insn): number => (isWide(insn) ? 28 : 14);

function environment(core: Core, wide: boolean): readonly number[] {
  const [control, status, tag] = [core.get32(STATE.fpuControl), core.get32(STATE.fpuStatus), tagWord(core)];
  const [ip, cs, dp, ds] = [core.get32(STATE.fpuIp), core.get32(STATE.fpuCs), core.get32(STATE.fpuDp), core.get32(STATE.fpuDs)];
  if (!wide) return [control, status, tag, ip, cs, dp, ds].map((word) => word & 0xffff);
  const filled = (word: number): number => (word | 0xffff0000) >>> 0;
  return [filled(control), filled(status), filled(tag), ip, ((core.get32(STATE.fpuOpcode) << 16) | cs) >>> 0, dp, filled(ds)];
}
function storeEnvironment(core: Core, mem: MemOperand, wide: boolean): boolean {
  const size = wide ? 4 : 2;
  return environment(core, wide).every((word, i) => storeMem(core, mem, size, word, i * size));
}
/** The words of an environment in memory; undefined on a fault. */
function readEnvironment(core: Core, mem: MemOperand, wide: boolean): readonly number[] | undefined {
  const size = wide ? 4 : 2;
  const words: number[] = [];
  for (let i = 0; i < 7; i++) {
    const word = loadMem(core, mem, size, i * size);
    if (word === undefined) return undefined;
    words.push(word);
  }
  return words;
}
function setEnvironment(core: Core, words: readonly number[], wide: boolean): void {
  const [control = 0, status = 0, tag = 0, ip = 0, cs = 0, dp = 0, ds = 0] = words;
  core.set32(STATE.fpuControl, controlWord(control));
  core.set32(STATE.fpuStatus, status & 0xffff);
  setTagWord(core, tag);
  core.set32(STATE.fpuIp, ip);
  core.set32(STATE.fpuCs, cs & 0xffff);
  core.set32(STATE.fpuOpcode, wide ? (cs >>> 16) & 0x7ff : 0);
  core.set32(STATE.fpuDp, dp);
  core.set32(STATE.fpuDs, ds & 0xffff);
  summarise(core);
}

const REGISTER_BYTES = 10;
const withMemory = (perform: (core: Core, insn: Insn, mem: MemOperand) => SystemResult): SystemRow => (core, insn) => {
  const mem = memOf(insn);
  return mem === undefined ? UD : perform(core, insn, mem);
};
const nothing: SystemRow = controlled(() => undefined);

export const X87_CONTROL_ROWS: Readonly<Record<string, SystemRow>> = {
  Wait: (core) => ((core.get32(STATE.cr0) & (CR0.TS | CR0.MP)) === (CR0.TS | CR0.MP) ? NM : waiting(core)),
  Fninit: controlled((core) => {
    initialise(core);
    return undefined;
  }),
  Fnclex: controlled((core) => {
    core.set32(STATE.fpuStatus, core.get32(STATE.fpuStatus) & ~(EXCEPTIONS | FLAG.SF | FLAG.ES | FLAG.B));
    return undefined;
  }),
  // Of the 8087 and the 80287 only.
  Fndisi: nothing, Fneni: nothing, Fnsetpm: nothing,
  Fnstsw: storeWord((core) => core.get32(STATE.fpuStatus)),
  Fnstcw: storeWord((core) => core.get32(STATE.fpuControl)),
  Fldcw: waited(withMemory((core, _insn, mem) => {
    const value = loadMem(core, mem, 2);
    if (value === undefined) return fault(core);
    core.set32(STATE.fpuControl, controlWord(value));
    summarise(core);
    return undefined;
  })),
  Fnstenv: controlled(withMemory((core, insn, mem) => {
    if (!probeOperand(core, mem, environmentBytes(insn)) || !storeEnvironment(core, mem, isWide(insn))) return fault(core);
    core.set32(STATE.fpuControl, core.get32(STATE.fpuControl) | EXCEPTIONS);
    summarise(core);
    return undefined;
  })),
  Fldenv: waited(withMemory((core, insn, mem) => {
    const words = readEnvironment(core, mem, isWide(insn));
    if (words === undefined) return fault(core);
    setEnvironment(core, words, isWide(insn));
    return undefined;
  })),
  Fnsave: controlled(withMemory((core, insn, mem) => {
    const start = environmentBytes(insn);
    if (!probeOperand(core, mem, start + 8 * REGISTER_BYTES) || !storeEnvironment(core, mem, isWide(insn))) return fault(core);
    for (let i = 0; i < 8; i++) {
      const { sign, exp, sig } = registerAt(core, (topOf(core) + i) & 7);
      if (!writeOperand(core, mem, REGISTER_BYTES, (BigInt((sign << 15) | exp) << 64n) | sig, start + i * REGISTER_BYTES)) return fault(core);
    }
    initialise(core);
    return undefined;
  })),
  Frstor: waited(withMemory((core, insn, mem) => {
    const start = environmentBytes(insn);
    const words = readEnvironment(core, mem, isWide(insn));
    if (words === undefined) return fault(core);
    const images: bigint[] = [];
    for (let i = 0; i < 8; i++) {
      const image = readOperand(core, mem, REGISTER_BYTES, start + i * REGISTER_BYTES);
      if (image === undefined) return fault(core);
      images.push(image);
    }
    setEnvironment(core, words, isWide(insn));
    images.forEach((image, i) => {
      const high = Number(image >> 64n);
      setRegisterAt(core, (topOf(core) + i) & 7, { sign: high >> 15, exp: high & MAX_EXP, sig: BigInt.asUintN(64, image) });
    });
    return undefined;
  })),
};
