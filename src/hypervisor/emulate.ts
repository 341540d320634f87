// Privileged instructions that a guest kernel executes in its unprivileged ring fault with #GP(0);
// Xen carries out the few below and passes the fault on for all others. One row per opcode.
//
// A handler returns 'done' (the instruction is complete: the instruction pointer moves on), 'refused'
// (the guest gets its #GP), or an exception that takes the #GP's place.
// Sources: xen/arch/x86/pv/emul-priv-op.c, emul-inv-op.c.
// Not here: HLT, INVLPG, LGDT, LMSW and other instructions that Xen refuses too; call gates.
import { EMULATED, EVENT, valueIndex } from '../abi/events.ts';
import type { Cpu } from '../x86/cpu.ts';
import { PF_ERR, VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import { readControlRegister, setTaskSwitched, writeControlRegister } from './control-registers.ts';
import { forcedCpuid } from './cpuid.ts';
import { readDebugRegister, writeDebugRegister } from './debug-registers.ts';
import type { Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';
import { readMsr, writeMsr } from './msr.ts';
import { ACCESS } from './return-segments.ts';
import { VMASST_architectural_iopl } from './guest-frames.ts';
import { EFLAGS, GPR, isCanonical, moveIp, readWord, setReg32, setVaddr, vaddrToWord, wordToVaddr } from './guest-registers.ts';
import { inGuestKernel, injectException } from './traps.ts';

/** 'again': one iteration of a REP is done, the instruction runs again. */
type Answer = 'done' | 'again' | 'refused' | Exception;

interface Decoded {
  readonly opcode: number;
  readonly modrm: number;
  readonly imm8: number;
  readonly insnBytes: number;
  /** 2 or 4: none of these has a wider operand, but for moves of control and debug registers. */
  readonly operandBytes: number;
  /** 2, 4 or 8. */
  readonly addressBytes: number;
  /** The REX prefix of 64-bit code, 0 = none. */
  readonly rex: number;
  readonly rep: boolean;
  /** Segment override, or DS. */
  readonly segment: number;
}

interface EmulatedRow {
  readonly what: (typeof EMULATED)[number];
  readonly modrm?: boolean;
  readonly imm8?: boolean;
  /** Only the guest kernel may: mode_ring0() in x86_emulate. */
  readonly kernelOnly?: boolean;
  readonly run: (hv: Hypervisor, vcpu: Vcpu, insn: Decoded) => Answer;
}

const GP0: Exception = { vector: VECTOR.GP, errorCode: 0 };
const cpuOf = (vcpu: Vcpu): Cpu => vcpu.cpu as Cpu;
const ALL_ONES: Readonly<Record<number, number>> = { 1: 0xff, 2: 0xffff, 4: 0xffff_ffff };
const isWide = (vcpu: Vcpu): boolean => vcpu.domain.abi.wordBits === 64;

/** iopl_ok(): the ring of the guest kernel counts as 1, or as 0 with the architectural_iopl assist. */
function ioplOk(vcpu: Vcpu): boolean {
  const ring = inGuestKernel(vcpu) ? ((vcpu.domain.vmAssist & (1 << VMASST_architectural_iopl)) !== 0 ? 0 : 1) : 3;
  return ring <= vcpu.iopl;
}

/** guest_io_okay(): the virtual I/O privilege level, then the I/O bitmap in guest memory. */
function mayUsePort(hv: Hypervisor, vcpu: Vcpu, port: number, sizeBytes: number): Answer {
  if (ioplOk(vcpu)) return 'done';
  if (port + sizeBytes > vcpu.ioBitmapPorts) return GP0;
  const at = isWide(vcpu) ? vcpu.ioBitmapVaddr + (port >>> 3) : (vcpu.ioBitmapVaddr + (port >>> 3)) >>> 0;
  const bits = hv.access.readU16(vcpu, at);
  if (bits === undefined) return { vector: VECTOR.PF, errorCode: 0, cr2: at };
  return (bits & (((1 << sizeBytes) - 1) << (port & 7))) === 0 ? 'done' : GP0;
}

/** Only the index latch of the RTC answers a domU (rtc_guest_read): everything else floats high. */
function portIn(_port: number, sizeBytes: number): number {
  return ALL_ONES[sizeBytes] as number;
}

/** Writes the low part of a register as an instruction of that size does: 32 bits clear the upper half, 8 and 16 leave the rest. */
function setSized(cpu: Cpu, register: number, sizeBytes: number, value: number): void {
  if (sizeBytes === 8) return setVaddr(cpu, register, value);
  if (sizeBytes === 4) return setReg32(cpu, register, value);
  const mask = ALL_ONES[sizeBytes] as number;
  cpu.setReg(register, (((cpu.reg(register) & ~mask) | (value & mask)) >>> 0));
}

function inOut(direction: 'in' | 'out', byPort: 'imm8' | 'dx'): EmulatedRow {
  return {
    what: direction,
    ...(byPort === 'imm8' ? { imm8: true } : {}),
    run: (hv, vcpu, insn) => {
      const cpu = cpuOf(vcpu);
      const sizeBytes = (insn.opcode & 1) === 0 ? 1 : insn.operandBytes;
      const port = byPort === 'imm8' ? insn.imm8 : cpu.reg(GPR.edx) & 0xffff;
      const may = mayUsePort(hv, vcpu, port, sizeBytes);
      if (may !== 'done') return may;
      const value = direction === 'in' ? portIn(port, sizeBytes) : (cpu.reg(GPR.eax) & (ALL_ONES[sizeBytes] as number)) >>> 0;
      if (direction === 'in') setSized(cpu, GPR.eax, sizeBytes, value);
      note(hv, vcpu, direction, port, value);
      return 'done';
    },
  };
}

/** INS and OUTS, with REP one iteration at a time: the instruction runs again until the count is used up. */
function insOuts(direction: 'ins' | 'outs'): EmulatedRow {
  return {
    what: direction,
    run: (hv, vcpu, insn) => {
      const cpu = cpuOf(vcpu);
      const sizeBytes = (insn.opcode & 1) === 0 ? 1 : insn.operandBytes;
      const port = cpu.reg(GPR.edx) & 0xffff;
      if (insn.rep && readSized(cpu, GPR.ecx, insn.addressBytes) === 0) return 'done';
      const may = mayUsePort(hv, vcpu, port, sizeBytes);
      if (may !== 'done') return may;
      const index = direction === 'ins' ? GPR.edi : GPR.esi;
      const offset = readSized(cpu, index, insn.addressBytes);
      const vaddr = linear(cpu, direction === 'ins' ? SEG.es : insn.segment, offset, sizeBytes);
      if (vaddr === undefined) return GP0;
      let value = portIn(port, sizeBytes);
      if (direction === 'ins') {
        const bytes = new Uint8Array(sizeBytes).fill(0xff);
        if (!hv.access.copyToGuest(vcpu, vaddr, bytes)) return { vector: VECTOR.PF, errorCode: PF_ERR.write, cr2: vaddr };
      } else {
        const bytes = hv.access.copyFromGuest(vcpu, vaddr, sizeBytes);
        if (bytes === undefined) return { vector: VECTOR.PF, errorCode: 0, cr2: vaddr };
        value = bytes.reduce((sum, byte, at) => sum + byte * 256 ** at, 0);
      }
      const step = (cpu.eflags() & EFLAGS.DF) !== 0 ? -sizeBytes : sizeBytes;
      setSized(cpu, index, insn.addressBytes, offset + step);
      note(hv, vcpu, direction, port, value);
      if (!insn.rep) return 'done';
      setSized(cpu, GPR.ecx, insn.addressBytes, readSized(cpu, GPR.ecx, insn.addressBytes) - 1);
      return readSized(cpu, GPR.ecx, insn.addressBytes) === 0 ? 'done' : 'again';
    },
  };
}

/** The linear address of an operand of a string instruction; undefined: #GP. 64-bit code has no limits, and bases only of FS and GS. */
function linear(cpu: Cpu, segmentIndex: number, offset: number, sizeBytes: number): number | undefined {
  const segment = cpu.segment(segmentIndex);
  if (isLongCode(cpu)) {
    const vaddr = (segmentIndex === SEG.fs || segmentIndex === SEG.gs ? segment.base : 0) + offset;
    return isCanonical(vaddrToWord(vaddr)) && Number.isSafeInteger(vaddr) ? vaddr : undefined;
  }
  return segment.access >= ACCESS.unusable || offset + sizeBytes - 1 > segment.limit ? undefined : (segment.base + offset) >>> 0;
}

/** The low part of a register, unsigned; all of it as an address (signed). */
const readSized = (cpu: Cpu, register: number, sizeBytes: number): number =>
  sizeBytes === 8 ? wordToVaddr(readWord(cpu, register)) : (cpu.reg(register) & (ALL_ONES[sizeBytes] as number)) >>> 0;

const regOf = (insn: Decoded): number => ((insn.modrm >>> 3) & 7) | ((insn.rex & 4) << 1);
const rmOf = (insn: Decoded): number => (insn.modrm & 7) | ((insn.rex & 1) << 3);
/** Control and debug registers move whole: an address in 64-bit guests, else 32 bits. */
const moved = (vcpu: Vcpu, insn: Decoded): number => (isWide(vcpu) ? wordToVaddr(readWord(cpuOf(vcpu), rmOf(insn))) : cpuOf(vcpu).reg(rmOf(insn)) >>> 0);
const noteMoved = (hv: Hypervisor, vcpu: Vcpu, what: (typeof EMULATED)[number], insn: Decoded, value: number): void => note(hv, vcpu, what, regOf(insn), vaddrToWord(value).lo, vaddrToWord(value).hi);

const movFromCr: EmulatedRow = {
  what: 'read_cr', modrm: true, kernelOnly: true,
  run: (hv, vcpu, insn) => {
    const value = readControlRegister(vcpu, regOf(insn));
    if (value === undefined) return 'refused';
    setVaddr(cpuOf(vcpu), rmOf(insn), value);
    noteMoved(hv, vcpu, 'read_cr', insn, value);
    return 'done';
  },
};
const movToCr: EmulatedRow = {
  what: 'write_cr', modrm: true, kernelOnly: true,
  run: (hv, vcpu, insn) => {
    const value = moved(vcpu, insn);
    const written = writeControlRegister(hv, vcpu, regOf(insn), value);
    if (written) noteMoved(hv, vcpu, 'write_cr', insn, value);
    return written ? 'done' : 'refused';
  },
};
const movFromDr: EmulatedRow = {
  what: 'read_dr', modrm: true, kernelOnly: true,
  run: (hv, vcpu, insn) => {
    const value = readDebugRegister(vcpu, regOf(insn));
    if (value === undefined) return { vector: VECTOR.UD };
    setVaddr(cpuOf(vcpu), rmOf(insn), value);
    noteMoved(hv, vcpu, 'read_dr', insn, value);
    return 'done';
  },
};
const movToDr: EmulatedRow = {
  what: 'write_dr', modrm: true, kernelOnly: true,
  run: (hv, vcpu, insn) => {
    const value = moved(vcpu, insn);
    const refusal = writeDebugRegister(vcpu, regOf(insn), value);
    if (refusal !== undefined) return refusal === 'ENODEV' ? { vector: VECTOR.UD } : GP0;
    noteMoved(hv, vcpu, 'write_dr', insn, value);
    return 'done';
  },
};
const rdmsr: EmulatedRow = {
  what: 'rdmsr', kernelOnly: true,
  run: (hv, vcpu) => {
    const cpu = cpuOf(vcpu);
    const value = readMsr(hv, vcpu, cpu.reg(GPR.ecx) >>> 0);
    if (value === undefined) return GP0;
    setReg32(cpu, GPR.eax, value.lo);
    setReg32(cpu, GPR.edx, value.hi);
    note(hv, vcpu, 'rdmsr', cpu.reg(GPR.ecx) >>> 0, value.lo, value.hi);
    return 'done';
  },
};
const wrmsr: EmulatedRow = {
  what: 'wrmsr', kernelOnly: true,
  run: (hv, vcpu) => {
    const cpu = cpuOf(vcpu);
    const msr = cpu.reg(GPR.ecx) >>> 0;
    const value = { lo: cpu.reg(GPR.eax) >>> 0, hi: cpu.reg(GPR.edx) >>> 0 };
    if (!writeMsr(hv, vcpu, msr, value)) return GP0;
    note(hv, vcpu, 'wrmsr', msr, value.lo, value.hi);
    return 'done';
  },
};
const rdtsc: EmulatedRow = {
  what: 'rdtsc',
  run: (hv, vcpu) => {
    const cpu = cpuOf(vcpu);
    const tsc = cpu.tsc();
    setReg32(cpu, GPR.eax, Number(tsc & 0xffff_ffffn));
    setReg32(cpu, GPR.edx, Number((tsc >> 32n) & 0xffff_ffffn));
    note(hv, vcpu, 'rdtsc', 0, Number(tsc & 0xffff_ffffn), Number((tsc >> 32n) & 0xffff_ffffn));
    return 'done';
  },
};
/** CLI and STI: ignored with enough I/O privilege, else the guest's fault. "Fast and loose will do" (Xen). */
const ignoredWithIopl = (what: 'cli' | 'sti'): EmulatedRow => ({
  what,
  run: (hv, vcpu) => {
    if (!ioplOk(vcpu)) return 'refused';
    note(hv, vcpu, what, 0, 0);
    return 'done';
  },
});
const clts: EmulatedRow = {
  what: 'clts', kernelOnly: true,
  run: (hv, vcpu) => {
    setTaskSwitched(vcpu, false);
    note(hv, vcpu, 'clts', 0, 0);
    return 'done';
  },
};
const wbinvd: EmulatedRow = {
  what: 'wbinvd', kernelOnly: true,
  run: (hv, vcpu) => {
    note(hv, vcpu, 'wbinvd', 0, 0);
    return 'done';
  },
};

const TWO_BYTE = 0x0f00;
/** By opcode; two-byte opcodes have 0x0f in front. validate() in emul-priv-op.c. */
export const EMULATED_ROWS: Readonly<Record<number, EmulatedRow>> = {
  0x6c: insOuts('ins'), 0x6d: insOuts('ins'), 0x6e: insOuts('outs'), 0x6f: insOuts('outs'),
  0xe4: inOut('in', 'imm8'), 0xe5: inOut('in', 'imm8'), 0xe6: inOut('out', 'imm8'), 0xe7: inOut('out', 'imm8'),
  0xec: inOut('in', 'dx'), 0xed: inOut('in', 'dx'), 0xee: inOut('out', 'dx'), 0xef: inOut('out', 'dx'),
  0xfa: ignoredWithIopl('cli'), 0xfb: ignoredWithIopl('sti'),
  0x0f06: clts, 0x0f09: wbinvd, 0x0f20: movFromCr, 0x0f21: movFromDr, 0x0f22: movToCr, 0x0f23: movToDr,
  0x0f30: wrmsr, 0x0f31: rdtsc, 0x0f32: rdmsr,
};

function note(hv: Hypervisor, vcpu: Vcpu, what: (typeof EMULATED)[number], operand: number, lo: number, hi = 0): void {
  hv.world.emit(EVENT.emulated, vcpu.domain.domId, vcpu.vcpuId, [valueIndex(EMULATED, what), cpuOf(vcpu).rip(), operand, lo >>> 0, hi >>> 0]);
}

// ---- decoding ----------------------------------------------------------------------------------

const SEGMENT_PREFIX: Readonly<Record<number, number>> = { 0x26: SEG.es, 0x2e: SEG.cs, 0x36: SEG.ss, 0x3e: SEG.ds, 0x64: SEG.fs, 0x65: SEG.gs };
const MAX_INSN_BYTES = 15;

const isLongCode = (cpu: Cpu): boolean => (cpu.segment(SEG.cs).access & ACCESS.long) !== 0;

/** Bytes at the instruction pointer, at most `count`; fewer at the end of what is mapped. */
function fetchBytes(cpu: Cpu, count: number): Uint8Array {
  const sum = cpu.segment(SEG.cs).base + cpu.rip();
  const vaddr = isLongCode(cpu) ? sum : sum >>> 0;
  const whole = cpu.readLinear(vaddr, count, false);
  if (whole.ok) return whole.bytes;
  const part = Math.min(count, 4096 - (((vaddr % 4096) + 4096) % 4096));
  const first = cpu.readLinear(vaddr, part, false);
  return first.ok ? first.bytes : new Uint8Array(0);
}

/** The instruction at the instruction pointer if a row is there for it. */
function decode(cpu: Cpu): { row: EmulatedRow; insn: Decoded } | undefined {
  const bytes = fetchBytes(cpu, MAX_INSN_BYTES);
  const long = isLongCode(cpu);
  const wide = long || (cpu.segment(SEG.cs).access & ACCESS.big) !== 0;
  let operandBytes = wide ? 4 : 2;
  let addressBytes = long ? 8 : wide ? 4 : 2;
  let rex = 0;
  let rep = false;
  let segment: number = SEG.ds;
  let at = 0;
  for (; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (byte === 0x66) operandBytes = wide ? 2 : 4;
    else if (byte === 0x67) addressBytes = long ? 4 : wide ? 2 : 4;
    else if (byte === 0xf2 || byte === 0xf3) rep = true;
    else if (SEGMENT_PREFIX[byte] !== undefined) {
      // In 64-bit code only FS and GS have a base to choose.
      if (!long || byte >= 0x64) segment = SEGMENT_PREFIX[byte] as number;
    } else break;
  }
  if (long && ((bytes[at] as number) & 0xf0) === 0x40) rex = bytes[at++] as number;
  let opcode = bytes[at++];
  if (opcode === 0x0f) {
    const second = bytes[at++];
    if (second === undefined) return undefined;
    opcode = TWO_BYTE | second;
  }
  const row = opcode === undefined ? undefined : EMULATED_ROWS[opcode];
  if (opcode === undefined || row === undefined) return undefined;
  const extra = row.modrm === true || row.imm8 === true ? bytes[at++] : 0;
  if (extra === undefined) return undefined;
  return { row, insn: { opcode, modrm: extra, imm8: extra, insnBytes: at, operandBytes, addressBytes, rex, rep, segment } };
}

/** #GP(0): true if the instruction was carried out or another exception was delivered in its place. */
export function emulatePrivilegedOp(hv: Hypervisor, vcpu: Vcpu): boolean {
  const cpu = cpuOf(vcpu);
  const decoded = decode(cpu);
  if (decoded === undefined) return false;
  const { row, insn } = decoded;
  const answer = row.kernelOnly === true && !inGuestKernel(vcpu) ? 'refused' : row.run(hv, vcpu, insn);
  if (answer === 'refused') return false;
  if (answer === 'done') finish(hv, vcpu, insn.insnBytes);
  else if (answer === 'again') cpu.addRetired(1);
  else injectException(hv, vcpu, answer);
  return true;
}

/** pv_emul_instruction_done(): past the instruction, RF off, single step honoured. */
function finish(hv: Hypervisor, vcpu: Vcpu, insnBytes: number): void {
  const cpu = cpuOf(vcpu);
  moveIp(vcpu, insnBytes);
  cpu.addRetired(1);
  const flags = cpu.eflags();
  cpu.setEflags(flags & ~EFLAGS.RF);
  if ((flags & EFLAGS.TF) !== 0) {
    vcpu.debugRegs[6] = ((vcpu.debugRegs[6] as number) | DR6_BS) >>> 0;
    injectException(hv, vcpu, { vector: VECTOR.DB });
  }
}
const DR6_BS = 0x4000;

/** ud2a, "xen", cpuid: the forced-emulation form. */
const FORCED_CPUID = [0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];

/** #UD: true if it was the forced CPUID. emulate_forced_invalid_op(). */
export function emulateInvalidOp(hv: Hypervisor, vcpu: Vcpu): boolean {
  const cpu = cpuOf(vcpu);
  const bytes = fetchBytes(cpu, FORCED_CPUID.length);
  if (!FORCED_CPUID.every((byte, index) => bytes[index] === byte)) return false;
  const leaf = cpu.reg(GPR.eax) >>> 0;
  const [a, b, c, d] = forcedCpuid(hv, vcpu, leaf, cpu.reg(GPR.ecx) >>> 0);
  setReg32(cpu, GPR.eax, a);
  setReg32(cpu, GPR.ebx, b);
  setReg32(cpu, GPR.ecx, c);
  setReg32(cpu, GPR.edx, d);
  note(hv, vcpu, 'ud2a_cpuid', leaf, a);
  finish(hv, vcpu, FORCED_CPUID.length);
  return true;
}
