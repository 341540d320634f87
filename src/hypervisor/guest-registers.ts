// Registers as the hypervisor reads and writes them, for guests of either width. Words that need not
// be canonical (what a user program left in a register) travel as halves; addresses are numbers: u32,
// or signed canonical ones for 64-bit guests.
import type { Cpu } from '../x86/cpu.ts';
import type { Vcpu } from './domain.ts';

/** General registers by encoding number, under their 32-bit names; r8 and up are of 64-bit guests alone. */
export const GPR = { eax: 0, ecx: 1, edx: 2, ebx: 3, esp: 4, ebp: 5, esi: 6, edi: 7, r8: 8, r10: 10, r11: 11 } as const;

/** Bits of EFLAGS that matter here, SDM vol. 1 figure 3-8. */
export const EFLAGS = { CF: 0x1, MBS: 0x2, TF: 0x100, IF: 0x200, DF: 0x400, IOPL: 0x3000, NT: 0x4000, RF: 0x1_0000, VM: 0x2_0000, AC: 0x4_0000, VIP: 0x10_0000 } as const;
/** Every defined flag (X86_EFLAGS_ALL without the fixed bit). */
export const EFLAGS_ALL = 0x3f_7fd5;

/** A register's 64 bits. */
export interface Word {
  readonly lo: number;
  readonly hi: number;
}
export const vaddrToWord = (vaddr: number): Word => ({ lo: vaddr >>> 0, hi: Math.floor(vaddr / 0x1_0000_0000) >>> 0 });
/** Exact for canonical words; others come out far outside every address. */
export const wordToVaddr = ({ lo, hi }: Word): number => (hi | 0) * 0x1_0000_0000 + lo;
/** Bits 47 to 63 are alike. */
export const isCanonical = ({ hi }: Word): boolean => hi >> 15 === 0 || hi >> 15 === -1;

export const readWord = (cpu: Cpu, register: number): Word => ({ lo: cpu.reg(register) >>> 0, hi: cpu.regHigh(register) >>> 0 });
export function setWord(cpu: Cpu, register: number, { lo, hi }: Word): void {
  cpu.setReg(register, lo);
  cpu.setRegHigh(register, hi);
}
/** An address, or any integer below 2^53, sign-extended into the register. */
export const setVaddr = (cpu: Cpu, register: number, vaddr: number): void => setWord(cpu, register, vaddrToWord(vaddr));
/** As a 32-bit instruction writes: the upper half is zero. */
export function setReg32(cpu: Cpu, register: number, value: number): void {
  cpu.setReg(register, value >>> 0);
  cpu.setRegHigh(register, 0);
}

/** The instruction pointer moves by `delta` bytes. */
export function moveIp(vcpu: Vcpu, delta: number): void {
  const cpu = vcpu.cpu as Cpu;
  const ip = cpu.rip() + delta;
  cpu.setRip(vcpu.domain.abi.wordBits === 64 ? ip : ip >>> 0);
}

/** An address as people read it: 0xffffffff81000000. */
export const hexVaddr = (vaddr: number): string => `0x${(vaddr < 0 ? BigInt.asUintN(64, BigInt(vaddr)) : BigInt(vaddr)).toString(16)}`;
