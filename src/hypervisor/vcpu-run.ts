// Around each run of a vCPU: what is delivered before it, and what the end of the run means.
//
//   enterGuest   time record, NMI, event upcall
//   handleExit   int 0x82, SYSCALL → hypercall · other int n → the guest's gate · SYSCALL of a program →
//                the guest's callback · exceptions → emulation, page tables, the guest's handler ·
//                what the core lacks → the domain stops with a sentence
//
// Source: test_all_events in xen/arch/x86/x86_64/compat/entry.S, traps.c, pv/hypercall.c.
import { EVENT, hypercallValues, type HYPERCALL_END } from '../abi/events.ts';
import type { Cpu } from '../x86/cpu.ts';
import { VECTOR, type CpuExit, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import { dispatchHypercall } from './dispatch.ts';
import type { Vcpu } from './domain.ts';
import { emulateInvalidOp, emulatePrivilegedOp } from './emulate.ts';
import { enterFlat } from './frames-64.ts';
import { GPR, hexVaddr, moveIp, setVaddr, setWord } from './guest-registers.ts';
import { HypercallArgs, type HypercallOutcome, type HypercallRow } from './hypercall.ts';
import type { Hypervisor } from './hypervisor.ts';
import { handlePageFault } from './mm-doors.ts';
import { ACCESS } from './return-segments.ts';
import { upcallMask, upcallPending } from './shared-info.ts';
import { changeRunstate, refreshTimeRecord, RUNSTATE, updateRunstateArea } from './time.ts';
import { deliverSyscall, deliverUpcall, inGuestKernel, injectException } from './traps.ts';
import { crashDomain } from './vcpu-state.ts';

export { reloadSegments } from './failsafe.ts';
export { timerFired } from './time.ts';

/** What the scheduler is to do with the vCPU: go on, or give the turn to somebody else. */
export type AfterExit = 'run' | 'blocked' | 'yielded' | 'stopped';

/** int 0x82 (HYPERCALL_VECTOR). */
const HYPERCALL_VECTOR = 0x82;
/** INT 0x82 and SYSCALL. */
const HYPERCALL_INSN_BYTES = 2;
/** Where arguments are; Xen uses five, the sixth of i386 is logged. */
const ARG_REGS = { 32: [GPR.ebx, GPR.ecx, GPR.edx, GPR.esi, GPR.edi, GPR.ebp], 64: [GPR.edi, GPR.esi, GPR.edx, GPR.r10, GPR.r8] } as const;
const MOST_ARGS = 5;
/** What a debug build leaves in argument registers that a hypercall used. */
const CLOBBERED = { 32: { lo: 0xdead_f00d, hi: 0 }, 64: { lo: 0xdead_f00d, hi: 0xdead_beef } } as const;
/** B0 to B3; with BD, BS and BT. */
const DR6_BREAKPOINTS = 0xf;
const DR6_CAUSES = 0xe00f;
/** An event that the event row logs for an unknown number: all five registers. */
const UNKNOWN_ARG_COUNT = 5;

/** Delivers what is pending. Call before every run of the vCPU. */
export function enterGuest(hv: Hypervisor, vcpu: Vcpu): void {
  if (vcpu.runstate.state !== RUNSTATE.running) {
    changeRunstate(hv, vcpu, RUNSTATE.running);
    updateRunstateArea(hv, vcpu);
  }
  refreshTimeRecord(hv, vcpu);
  if (vcpu.nmiPending && !vcpu.nmiInProgress && vcpu.domain.life.kind === 'running') {
    vcpu.nmiPending = false;
    if (vcpu.traps[VECTOR.NMI] !== undefined) {
      vcpu.nmiInProgress = true;
      injectException(hv, vcpu, { vector: VECTOR.NMI });
    }
  }
  deliverPendingUpcall(hv, vcpu);
}

/** compat_test_guest_events: pending, and a mask byte of exactly zero. */
function deliverPendingUpcall(hv: Hypervisor, vcpu: Vcpu): void {
  if (vcpu.vcpuInfoMaddr === 0 || vcpu.domain.life.kind !== 'running') return;
  if (upcallPending(hv, vcpu) && upcallMask(hv, vcpu) === 0) deliverUpcall(hv, vcpu);
}

/** Acts on the end of a run. */
export function handleExit(hv: Hypervisor, vcpu: Vcpu, exit: CpuExit): AfterExit {
  switch (exit.kind) {
    case 'budget':
      break;
    case 'softint':
      onSoftwareInterrupt(hv, vcpu, exit.vector, exit.insnBytes);
      break;
    case 'exception':
      onException(hv, vcpu, exit.exception);
      break;
    case 'unimplemented':
      stopForEngine(hv, vcpu, `this processor model does not have the instruction ${exit.text}`);
      break;
    case 'syscall':
      onSyscall(hv, vcpu, exit.insnBytes);
      break;
    // A PV guest never runs in ring 0 and has I/O privilege level 0: these cannot be.
    case 'halt':
    case 'io':
    case 'tripleFault':
      stopForEngine(hv, vcpu, `the processor left with '${exit.kind}', which a PV guest cannot cause`);
      break;
  }
  if (vcpu.domain.life.kind !== 'running' || !vcpu.online) return leave(hv, vcpu, 'stopped');
  if (vcpu.blocked) return leave(hv, vcpu, 'blocked');
  // SCHEDOP_yield leaves the vCPU runnable but no longer running.
  return vcpu.runstate.state === RUNSTATE.running ? 'run' : 'yielded';
}

function leave(hv: Hypervisor, vcpu: Vcpu, why: 'blocked' | 'stopped'): AfterExit {
  changeRunstate(hv, vcpu, why === 'blocked' ? RUNSTATE.blocked : RUNSTATE.offline);
  return why;
}

function stopForEngine(hv: Hypervisor, vcpu: Vcpu, what: string): void {
  const ip = vcpu.cpu?.rip() ?? 0;
  const why = `domain ${vcpu.domain.name} at ${hexVaddr(ip)}: ${what}`;
  hv.world.emit(EVENT.engineLimit, vcpu.domain.domId, vcpu.vcpuId, [ip], Uint8Array.from(why, (char) => char.charCodeAt(0) & 0x7f));
  crashDomain(hv, vcpu.domain, why, vcpu);
}

// ---- software interrupts -----------------------------------------------------------------------

function onSoftwareInterrupt(hv: Hypervisor, vcpu: Vcpu, vector: number, insnBytes: number): void {
  const fromKernel = inGuestKernel(vcpu);
  // A 64-bit guest's INT 0x82 is one like any other: pv_hypercall by interrupt is for i386.
  if (vector === HYPERCALL_VECTOR && fromKernel && vcpu.domain.abi.wordBits === 32) return runHypercall(hv, vcpu);
  const gate = vcpu.traps[vector];
  // Breakpoint and overflow have gates of their own: the guest's DPL is not checked.
  const permitted = vector === VECTOR.BP || vector === VECTOR.OF || (gate?.dpl ?? 0) >= (fromKernel ? 1 : 3);
  if (permitted) return injectException(hv, vcpu, { vector });
  moveIp(vcpu, -insnBytes);
  injectException(hv, vcpu, { vector: VECTOR.GP, errorCode: vector * 8 + 2 });
}

const NO_HYPERCALL = 0xffff_ffff;
/** The argument registers of the hypercall being made: no two are made at once. */
const registers = new HypercallArgs();

/** SYSCALL of a 64-bit guest: a hypercall from its kernel's 64-bit code, a system call from everything else. */
function onSyscall(hv: Hypervisor, vcpu: Vcpu, insnBytes: number): void {
  const compat = ((vcpu.cpu as Cpu).segmentAccess(SEG.cs) & ACCESS.long) === 0;
  if (compat || !vcpu.kernelMode) return deliverSyscall(hv, vcpu, compat, insnBytes);
  enterFlat(vcpu);
  runHypercall(hv, vcpu);
}

/** _pv_hypercall(): number and result in EAX or RAX. */
function runHypercall(hv: Hypervisor, vcpu: Vcpu): void {
  const cpu = vcpu.cpu as Cpu;
  const { wordBits } = vcpu.domain.abi;
  const argRegs = ARG_REGS[wordBits];
  const args = registers;
  args.lo[MOST_ARGS] = 0;
  for (let index = 0; index < argRegs.length; index++) {
    args.lo[index] = cpu.reg(argRegs[index] as number);
    args.hi[index] = wordBits === 64 ? cpu.regHigh(argRegs[index] as number) : 0;
  }
  // A number beyond 32 bits is no hypercall's.
  const number = wordBits === 64 && cpu.regHigh(GPR.eax) !== 0 ? NO_HYPERCALL : cpu.reg(GPR.eax) >>> 0;
  const outcome = dispatchHypercall(hv, vcpu, number, args);
  logHypercall(hv, vcpu, number, args, outcome);
  applyOutcome(hv, vcpu, number, outcome);
}

/** How many argument registers a hypercall has: a 64-bit value takes two of a 32-bit guest's. */
function registersOf(row: HypercallRow | undefined, wordBits: 32 | 64, unknown = UNKNOWN_ARG_COUNT): number {
  if (row === undefined) return unknown;
  let count = row.args.length;
  if (wordBits === 32) for (const { kind } of row.args) if (kind === 'u64' || kind === 'pte') count++;
  return count;
}

function logHypercall(hv: Hypervisor, vcpu: Vcpu, number: number, args: HypercallArgs, outcome: HypercallOutcome): void {
  const argCount = registersOf(hv.hypercallRows[number], vcpu.domain.abi.wordBits);
  const end: (typeof HYPERCALL_END)[number] = outcome.kind;
  hv.world.emit(EVENT.hypercall, vcpu.domain.domId, vcpu.vcpuId, hypercallValues(number, outcome.kind === 'done' ? outcome.rc : 0, end, args, argCount));
}

const setResult = (cpu: Cpu, wordBits: 32 | 64, register: number, value: number): void => (wordBits === 64 ? setVaddr(cpu, register, value) : cpu.setReg(register, value >>> 0));

function applyOutcome(hv: Hypervisor, vcpu: Vcpu, number: number, outcome: HypercallOutcome): void {
  const cpu = vcpu.cpu as Cpu;
  const { wordBits } = vcpu.domain.abi;
  const argRegs = ARG_REGS[wordBits];
  switch (outcome.kind) {
    case 'done': {
      setResult(cpu, wordBits, GPR.eax, outcome.rc);
      const used = vcpu.domain.build.clobbersArguments && outcome.rc !== -38 ? registersOf(hv.hypercallRows[number], wordBits, 0) : 0;
      for (let index = 0; index < Math.min(used, MOST_ARGS); index++) setWord(cpu, argRegs[index] as number, CLOBBERED[wordBits]);
      return;
    }
    case 'continuation':
      // EAX keeps the number; the instruction runs again.
      outcome.args.forEach((value, index) => setResult(cpu, wordBits, argRegs[index] as number, value));
      moveIp(vcpu, -HYPERCALL_INSN_BYTES);
      if (wordBits === 64) enterFlat(vcpu);
      return;
    case 'noReturn':
      return;
    case 'fault':
      injectException(hv, vcpu, { vector: outcome.vector, errorCode: outcome.errorCode });
      return;
  }
}

// ---- exceptions --------------------------------------------------------------------------------

function onException(hv: Hypervisor, vcpu: Vcpu, exception: Exception): void {
  const cpu = vcpu.cpu as Cpu;
  // Entering Xen ends the shadow of a load of SS. A data breakpoint that waits in it is hit here, in Xen, which has no use
  // for it (do_debug()): so a guest whose MOV SS is followed by an instruction that faults never hears of it.
  cpu.setShadow(false);
  switch (exception.vector) {
    case VECTOR.PF:
      if (handlePageFault(hv, vcpu, exception)) return;
      break;
    case VECTOR.GP:
      if ((exception.errorCode ?? 0) === 0 && emulatePrivilegedOp(hv, vcpu)) return;
      break;
    case VECTOR.UD:
      if (emulateInvalidOp(hv, vcpu)) return;
      break;
    case VECTOR.DB:
      // Breakpoint bits are replaced, the others accumulate: x86_merge_dr6().
      vcpu.debugRegs[6] = (((vcpu.debugRegs[6] as number) & ~DR6_BREAKPOINTS) | (cpu.dr(6) & DR6_CAUSES)) >>> 0;
      break;
    case VECTOR.NM:
      // Xen clears TS before it tells the guest; classic Linux relies on that.
      cpu.setCr(0, cpu.cr(0) & ~0x8);
      vcpu.taskSwitched = false;
      break;
  }
  injectException(hv, vcpu, exception);
}
