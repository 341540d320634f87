// The doors of memory management that traps and emulation go through: page faults that Xen settles
// before the guest hears of them, and a base switch by MOV to CR3.
//
// A store to a page table mapped read-only is carried out by the processor itself, on a mapping made
// writable for that one instruction; what it changed is then taken back and handed to the rules as a
// store. So every storing instruction works, with no second semantics of instructions.
// Source: fixup_page_fault(), handle_gdt_ldt_mapping_fault() and ptwr_do_page_fault() in Xen.
import { EMULATED, EVENT, valueIndex } from '../abi/events.ts';
import type { Cpu } from '../x86/cpu.ts';
import { PF_ERR, VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import { readWord, setWord, type Word } from './guest-registers.ts';
import type { Hypervisor } from './hypervisor.ts';
import { switchBase } from './hypercalls/mmuext.ts';
import { mapLdtOnFault, markDescriptorAccessed } from './ldt.ts';
import { emulateTableStore, writableTableAt } from './page-fault.ts';
import { findL1, found, PTE } from './page-walk.ts';
import { gdtVaddr, ldtVaddr } from './per-domain.ts';
import { inGuestKernel, injectException } from './traps.ts';

const LDT_WINDOW_BYTES = 0x1_0000;
const GDT_WINDOW_BYTES = 0x1_0000;

const storesToPresent = (errorCode: number): boolean => (errorCode & (PF_ERR.write | PF_ERR.present)) === (PF_ERR.write | PF_ERR.present);

/** A descriptor that Xen itself loads for the guest faulted: true if it may be tried again. */
export function settleDescriptorFault(hv: Hypervisor, vcpu: Vcpu, { cr2 = 0, errorCode = 0 }: Exception): boolean {
  if (vcpu.domain.perDomain === undefined) return false;
  if (storesToPresent(errorCode)) return markDescriptorAccessed(hv, vcpu, cr2);
  const offset = cr2 - ldtVaddr(vcpu);
  return offset >= 0 && offset < LDT_WINDOW_BYTES && mapLdtOnFault(hv, vcpu, offset);
}

/** A page fault: true if Xen settled it (or delivered something in its place). */
export function handlePageFault(hv: Hypervisor, vcpu: Vcpu, exception: Exception): boolean {
  const vaddr = exception.cr2 ?? 0;
  const errorCode = exception.errorCode ?? 0;
  if (vcpu.domain.perDomain !== undefined) {
    if (storesToPresent(errorCode) && markDescriptorAccessed(hv, vcpu, vaddr)) return true;
    const offset = vaddr - ldtVaddr(vcpu);
    if (offset >= 0 && offset < LDT_WINDOW_BYTES) {
      // A descriptor that cannot be had faults at its place in the guest's own table.
      if (!mapLdtOnFault(hv, vcpu, offset)) injectException(hv, vcpu, { vector: VECTOR.PF, errorCode, cr2: vcpu.domain.abi.wordBits === 64 ? vcpu.ldtBase + offset : (vcpu.ldtBase + offset) >>> 0 });
      return true;
    }
    // An entry of the GDT for which the guest gave no frame: as one beyond the table's limit.
    const gdtOffset = vaddr - gdtVaddr(vcpu);
    if (gdtOffset >= 0 && gdtOffset < GDT_WINDOW_BYTES && (errorCode & (PF_ERR.present | PF_ERR.user)) === 0) {
      injectException(hv, vcpu, { vector: VECTOR.GP, errorCode: gdtOffset & 0xfff8 });
      return true;
    }
  }
  const isStore = (errorCode & PF_ERR.write) !== 0 && (errorCode & (PF_ERR.reserved | PF_ERR.fetch)) === 0;
  if (!isStore || !inGuestKernel(vcpu) || writableTableAt(hv, vcpu, vaddr) < 0) return false;
  return performTableStore(hv, vcpu, vaddr);
}

/** GPRs, instruction pointer and flags: what one storing instruction changes besides memory. */
interface SmallState {
  readonly regs: readonly Word[];
  readonly eip: number;
  readonly eflags: number;
}
const saveSmall = (cpu: Cpu, count: number): SmallState => ({ regs: Array.from({ length: count }, (_, index) => readWord(cpu, index)), eip: cpu.rip(), eflags: cpu.eflags() });
function restoreSmall(cpu: Cpu, state: SmallState): void {
  state.regs.forEach((value, index) => setWord(cpu, index, value));
  cpu.setRip(state.eip);
  cpu.setEflags(state.eflags);
}

const PREFIXES: ReadonlySet<number> = new Set([0xf0, 0x66, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]);
/** Does the store count as one of a whole entry? For 64-bit guests any part of it does; of 32-bit code CMPXCHG8B alone stores eight bytes at once. */
function storesEightBytes(vcpu: Vcpu, cpu: Cpu): boolean {
  if (vcpu.domain.abi.wordBits === 64) return true;
  const read = cpu.readLinear((cpu.segment(SEG.cs).base + cpu.rip()) >>> 0, 5, false);
  if (!read.ok) return false;
  let at = 0;
  while (at < 3 && PREFIXES.has(read.bytes[at] as number)) at++;
  return read.bytes[at] === 0x0f && read.bytes[at + 1] === 0xc7;
}

/** The page of tables before the store. Boots without writable_page_tables come here a hundred thousand times. */
const before = new Uint32Array(1024);
/** Puts `before` back, word by word where it differs; true if a word outside [at, at + sizeBytes) did. */
function takeBack({ machine }: Hypervisor, pageMaddr: number, at: number, sizeBytes: number): boolean {
  const { u32 } = machine;
  const base = (machine.ramBase + pageMaddr) / 4;
  let outside = false;
  for (let word = 0; word < 1024; word++) {
    if (u32[base + word] === before[word]) continue;
    outside ||= word * 4 < at || word * 4 >= at + sizeBytes;
    machine.writeU32(pageMaddr + word * 4, before[word] as number);
  }
  return outside;
}

/**
 * Steps the faulting instruction with its target writable, takes the change back and lets the rules
 * decide on it. False: the fault is the guest's, and nothing has happened.
 */
function performTableStore(hv: Hypervisor, vcpu: Vcpu, vaddr: number): boolean {
  const cpu = vcpu.cpu as Cpu;
  const { machine } = hv;
  const { abi } = vcpu.domain;
  if (!findL1(machine, abi.levels, vcpu.guestTableMfn, vaddr)) return false;
  const entry = { maddr: found.maddr, lo: found.lo, hi: found.hi };
  const sizeBytes = abi.pteBytes === 8 && storesEightBytes(vcpu, cpu) ? 8 : 4;
  const pageMaddr = ((entry.hi & 0xf_ffff) * 0x10_0000 + (entry.lo >>> 12)) * 4096;
  const at = (vaddr & 0xfff & -sizeBytes) >>> 0;
  const base = (machine.ramBase + pageMaddr) / 4;
  before.set(machine.u32.subarray(base, base + 1024));
  const small = saveSmall(cpu, abi.wordBits === 64 ? 16 : 8);

  machine.writeU32(entry.maddr, (entry.lo | PTE.rw) >>> 0);
  cpu.invlpg(vaddr);
  const exit = cpu.run(1);
  cpu.invlpg(vaddr);

  const store = { vaddr: vaddr - (vaddr & (sizeBytes - 1)), sizeBytes, lo: machine.readU32(pageMaddr + at), hi: sizeBytes === 8 ? machine.readU32(pageMaddr + at + 4) : 0 };
  // The mapping is read-only again whatever the processor made of its accessed and dirty bits. A table
  // may map itself: then the entry lies in the page, and counts as changed only if the store hit it.
  machine.writeU32(entry.maddr, entry.lo);
  const outside = takeBack(hv, pageMaddr, at, sizeBytes);
  if (exit.kind === 'exception') {
    // Another operand faults first: that is what the guest hears.
    injectException(hv, vcpu, exit.exception);
    return true;
  }
  if (outside || exit.kind !== 'budget' || emulateTableStore(hv, vcpu, store).kind !== 'done') {
    restoreSmall(cpu, small);
    return false;
  }
  hv.world.emit(EVENT.emulated, vcpu.domain.domId, vcpu.vcpuId, [valueIndex(EMULATED, 'pte_write'), small.eip, pageMaddr + at, store.lo, store.hi]);
  return true;
}

/** MOV to CR3 by the guest kernel: true if the vCPU runs on that table now. */
export function switchBaseByCr3(hv: Hypervisor, vcpu: Vcpu, mfn: number): boolean {
  return switchBase(hv, vcpu, mfn) === 0;
}
