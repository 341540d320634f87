// Hypercalls by which a guest tells Xen where to enter it, and small virtual registers: trap table,
// callbacks, kernel stack, TS, debug registers, segment bases, iret.
// Sources: xen/arch/x86/pv/callback.c, misc-hypercalls.c, iret.c.
import { ERRNO } from '../../abi/errno.ts';
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';
import { VECTOR } from '../../x86/exit.ts';
import { SEG } from '../../x86/state-layout.ts';
import { setTaskSwitched } from '../control-registers.ts';
import { readDebugRegister, writeDebugRegister } from '../debug-registers.ts';
import type { HypercallRows } from '../dispatch.ts';
import type { Callback, Vcpu } from '../domain.ts';
import { segmentBase, setSegmentBase } from '../guest-mode.ts';
import { done, type HypercallArgs, type HypercallOutcome } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { addressOk } from '../page-walk.ts';
import { fixupSelector, iretHypercall } from '../traps.ts';

const OK = done(0);
const EFAULT = done(-ERRNO.EFAULT);
const EINVAL = done(-ERRNO.EINVAL);
const ENOSYS = done(-ERRNO.ENOSYS);

/** Flat code segment that callbacks run in when they name none: FLAT_KERNEL_CS, FLAT_COMPAT_KERNEL_CS. */
export const FLAT_KERNEL_CS = { 32: 0xe019, 64: 0xe033 } as const;

const isWide = (vcpu: Vcpu): boolean => vcpu.domain.abi.wordBits === 64;

// ---- set_trap_table ----------------------------------------------------------------------------

/** struct trap_info: vector, flags (DPL, 4 = mask events), selector, address; address 0 ends the list. */
function setTrapTable(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const wide = isWide(vcpu);
  const entryBytes = wide ? 16 : 8;
  let vaddr = args.addr(0);
  if (vaddr === 0) {
    vcpu.traps.fill(undefined);
    return OK;
  }
  for (;;) {
    if (!hv.access.read(vcpu, vaddr, entryBytes)) return EFAULT;
    const { view } = hv.access;
    const vector = view.getUint8(0);
    const flags = view.getUint8(1);
    const cs = view.getUint16(2, true);
    const address = wide ? view.getInt32(12, true) * 0x1_0000_0000 + view.getUint32(8, true) : view.getUint32(4, true);
    if (address === 0) return OK;
    if (!addressOk(vcpu.domain.abi.levels, address)) return EINVAL;
    vcpu.traps[vector] = { cs: fixupSelector(vcpu, cs), address, dpl: flags & 3, maskEvents: (flags & 4) !== 0 };
    vaddr += entryBytes;
    if (hv.world.preempt(1)) return { kind: 'continuation', args: [vaddr] };
  }
}

// ---- callbacks ---------------------------------------------------------------------------------

const CALLBACKTYPE = { event: 0, failsafe: 1, syscall: 2, nmi: 4, sysenter: 5, syscall32: 7 } as const;
const CALLBACKF_mask_events = 1;

function setNmiCallback(vcpu: Vcpu, address: number): HypercallOutcome {
  if (!addressOk(vcpu.domain.abi.levels, address)) return EINVAL;
  vcpu.traps[VECTOR.NMI] = { cs: FLAT_KERNEL_CS[vcpu.domain.abi.wordBits], address, dpl: 0, maskEvents: true };
  return OK;
}

/** Where each kind of callback is kept. */
const CALLBACK_SETTERS: Readonly<Record<number, (vcpu: Vcpu, callback: Callback) => void>> = {
  [CALLBACKTYPE.event]: (vcpu, callback) => { vcpu.eventCallback = { ...callback, maskEvents: true }; },
  [CALLBACKTYPE.failsafe]: (vcpu, callback) => { vcpu.failsafeCallback = callback; },
  [CALLBACKTYPE.syscall]: (vcpu, callback) => { vcpu.syscallCallback = callback; },
  [CALLBACKTYPE.sysenter]: (vcpu, callback) => { vcpu.sysenterCallback = callback; },
  [CALLBACKTYPE.syscall32]: (vcpu, callback) => { vcpu.syscall32Callback = callback; },
};

function registerCallback(vcpu: Vcpu, type: number, flags: number, cs: number, address: number): HypercallOutcome {
  const wide = isWide(vcpu);
  if (!addressOk(vcpu.domain.abi.levels, address)) return EINVAL;
  if (type === CALLBACKTYPE.nmi) return setNmiCallback(vcpu, address);
  const setter = type === CALLBACKTYPE.syscall && !wide ? undefined : CALLBACK_SETTERS[type];
  if (setter === undefined) return ENOSYS;
  setter(vcpu, { cs: wide ? FLAT_KERNEL_CS[64] : fixupSelector(vcpu, cs), address, maskEvents: (flags & CALLBACKF_mask_events) !== 0 });
  return OK;
}

/** struct callback_register: type, flags, then CS and EIP (i386) or the address (x86-64). */
function callbackOp(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const command = args.u32(0);
  const wide = isWide(vcpu);
  if (command > 1) return wide ? ENOSYS : EINVAL;
  const sizeBytes = command === 1 ? 4 : wide ? 16 : 12;
  if (!hv.access.read(vcpu, args.addr(1), sizeBytes)) return EFAULT;
  const { view } = hv.access;
  const type = view.getUint16(0, true);
  if (command === 0) {
    const address = wide ? view.getInt32(12, true) * 0x1_0000_0000 + view.getUint32(8, true) : view.getUint32(8, true);
    return registerCallback(vcpu, type, view.getUint16(2, true), wide ? 0 : view.getUint32(4, true) & 0xffff, address);
  }
  if (type === CALLBACKTYPE.nmi) {
    vcpu.traps[VECTOR.NMI] = undefined;
    return OK;
  }
  const known = CALLBACK_SETTERS[type] !== undefined && (wide || type !== CALLBACKTYPE.syscall);
  return known ? EINVAL : ENOSYS;
}

/** i386: event CS and EIP, failsafe CS and EIP; x86-64: event, failsafe, syscall addresses. Refusals are not reported. */
function setCallbacks(_hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  if (isWide(vcpu)) {
    registerCallback(vcpu, CALLBACKTYPE.event, 0, 0, args.addr(0));
    registerCallback(vcpu, CALLBACKTYPE.failsafe, 0, 0, args.addr(1));
    registerCallback(vcpu, CALLBACKTYPE.syscall, 0, 0, args.addr(2));
  } else {
    registerCallback(vcpu, CALLBACKTYPE.event, 0, args.u32(0) & 0xffff, args.u32(1));
    registerCallback(vcpu, CALLBACKTYPE.failsafe, 0, args.u32(2) & 0xffff, args.u32(3));
  }
  return OK;
}

function nmiOp(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const command = args.u32(0);
  if (command === 1) {
    vcpu.traps[VECTOR.NMI] = undefined;
    return OK;
  }
  if (command !== 0) return ENOSYS;
  const address = hv.access.readWord(vcpu, args.addr(1));
  return address === undefined ? EFAULT : setNmiCallback(vcpu, address);
}

// ---- registers ---------------------------------------------------------------------------------

function stackSwitch(_hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  vcpu.kernelSs = fixupSelector(vcpu, args.u32(0) & 0xffff);
  vcpu.kernelSp = isWide(vcpu) ? args.addr(1) : args.u32(1);
  return OK;
}

function setDebugreg(_hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const refusal = writeDebugRegister(vcpu, args.u32(0), args.addr(1));
  return refusal === undefined ? OK : done(-ERRNO[refusal]);
}
function getDebugreg(_hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const value = readDebugRegister(vcpu, args.u32(0));
  return value === undefined ? done(-ERRNO.ENODEV) : done(value);
}

/** xen/include/public/arch-x86/xen.h, SEGBASE_*. */
const SEGBASE = { fs: 0, gsUser: 1, gsKernel: 2, gsUserSel: 3 } as const;
/** x86-64 only. */
function setSegmentBaseCall(_hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  if (!isWide(vcpu)) return ENOSYS;
  const which = args.u32(0);
  if (which > SEGBASE.gsUserSel) return EINVAL;
  if (which === SEGBASE.gsUserSel) {
    loadUserGs(vcpu, args.u32(1) & 0xffff);
    return OK;
  }
  const base = args.addr(1);
  if (!addressOk(4, base)) return EINVAL;
  if (which === SEGBASE.fs) setSegmentBase(vcpu, SEG.fs, base);
  else if (which === SEGBASE.gsKernel) setSegmentBase(vcpu, SEG.gs, base);
  else vcpu.segmentBases.gsUser = base;
  return OK;
}

/** The selector of user mode: GS is loaded with it, the base goes to user mode's, the kernel keeps its own. One that cannot be loaded is null. */
function loadUserGs(vcpu: Vcpu, selector: number): void {
  const { cpu } = vcpu;
  if (cpu === undefined) return;
  const kernelBase = segmentBase(vcpu, SEG.gs);
  if (cpu.loadSegment(SEG.gs, selector > 3 ? selector | 3 : selector) !== undefined) cpu.loadSegment(SEG.gs, 0);
  vcpu.segmentBases.gsUser = segmentBase(vcpu, SEG.gs);
  setSegmentBase(vcpu, SEG.gs, kernelBase);
}

export const TRAP_ROWS: HypercallRows = {
  [HYPERCALL.set_trap_table]: { name: 'set_trap_table', args: [{ name: 'traps', kind: 'handle' }], handle: setTrapTable },
  [HYPERCALL.stack_switch]: { name: 'stack_switch', args: [{ name: 'ss', kind: 'u32' }, { name: 'esp', kind: 'vaddr' }], handle: stackSwitch },
  [HYPERCALL.set_callbacks]: {
    name: 'set_callbacks', args: [{ name: 'a0', kind: 'vaddr' }, { name: 'a1', kind: 'vaddr' }, { name: 'a2', kind: 'vaddr' }, { name: 'a3', kind: 'vaddr' }], handle: setCallbacks,
  },
  [HYPERCALL.fpu_taskswitch]: {
    name: 'fpu_taskswitch', args: [{ name: 'set', kind: 'u32' }],
    handle: (_hv, vcpu, args) => {
      setTaskSwitched(vcpu, args.u32(0) !== 0);
      return OK;
    },
  },
  [HYPERCALL.set_debugreg]: { name: 'set_debugreg', args: [{ name: 'reg', kind: 'u32' }, { name: 'value', kind: 'vaddr' }], handle: setDebugreg },
  [HYPERCALL.get_debugreg]: { name: 'get_debugreg', args: [{ name: 'reg', kind: 'u32' }], handle: getDebugreg },
  [HYPERCALL.iret]: { name: 'iret', args: [], handle: iretHypercall },
  [HYPERCALL.set_segment_base]: { name: 'set_segment_base', args: [{ name: 'which', kind: 'u32' }, { name: 'base', kind: 'vaddr' }], handle: setSegmentBaseCall },
  [HYPERCALL.nmi_op]: { name: 'nmi_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'handle' }], commands: { 0: 'register_callback', 1: 'unregister_callback' }, handle: nmiOp },
  [HYPERCALL.callback_op]: { name: 'callback_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'handle' }], commands: { 0: 'register', 1: 'unregister' }, handle: callbackOp },
};
