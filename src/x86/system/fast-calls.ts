// SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS: rings crossed by registers, without a look at descriptor tables.
// Where a hypervisor owns the traps, SYSCALL leaves as an exit; RCX and R11 are as the processor sets them.
// Source: Intel SDM vol. 2, the operation of each; vol. 3, section 5.8.8. As Intel's, SYSCALL is for 64-bit code only.
import { bitsOf, inCanonicalRange } from '../address.ts';
import { ACCESS, EFER, type Core } from '../core.ts';
import { EFLAGS } from '../flags.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { GP0, gpr, gpr64, gprAddress, nextOffset, setGpr64, UD, type SystemRow } from './row.ts';

const CODE64 = 0xa09b;
const CODE32 = 0xc09b;
const DATA = 0xc093;
const cpl = (core: Core): number => core.get32(STATE.cpl);

/** Flat CS and SS of a ring. */
function enterFlat(core: Core, cs: number, ss: number, ring: 0 | 3, code: number, ip: number): void {
  const dpl = ring << ACCESS.dplShift;
  core.setSegmentSlot(STATE.seg + SEG.cs * SEG_SLOT_BYTES, cs | ring, 0, 0xffffffff, code | dpl);
  core.setSegmentSlot(STATE.seg + SEG.ss * SEG_SLOT_BYTES, ss | ring, 0, 0xffffffff, DATA | dpl);
  core.set32(STATE.cpl, ring);
  core.updateMode();
  core.rip = ip;
}
const starSelectors = (core: Core): { readonly call: number; readonly ret: number } => {
  const high = core.get32(STATE.star + 4);
  return { call: high & 0xfffc, ret: (high >>> 16) & 0xfffc };
};

const syscall: SystemRow = (core, insn) => {
  if (!core.long || (core.get32(STATE.efer) & EFER.SCE) === 0) return UD;
  const next = nextOffset(core, insn);
  const flags = core.eflags() & ~EFLAGS.RF;
  setGpr64(core, 1, bitsOf(next));
  setGpr64(core, 11, BigInt(flags));
  if (core.options.exceptions === 'exit') {
    core.rip = next;
    return { kind: 'syscall', insnBytes: insn.lengthBytes };
  }
  const { call } = starSelectors(core);
  enterFlat(core, call, call + 8, 0, CODE64, core.address(STATE.lstar));
  core.setEflags((flags & ~core.get32(STATE.fmask)) >>> 0);
  return 'jumped';
};

const sysret: SystemRow = (core, insn) => {
  if (!core.long || (core.get32(STATE.efer) & EFER.SCE) === 0) return UD;
  if (cpl(core) !== 0) return GP0;
  const wide = insn.code === 'Sysretq';
  const rip = wide ? gprAddress(core, 1) : gpr(core, 1);
  if (!inCanonicalRange(rip)) return GP0;
  const flags = Number(gpr64(core, 11) & 0x3c7fd7n) | 2;
  const { ret } = starSelectors(core);
  enterFlat(core, wide ? ret + 16 : ret, ret + 8, 3, wide ? CODE64 : CODE32, rip);
  core.setEflags(flags);
  return 'jumped';
};

export const FAST_CALL_ROWS: Readonly<Record<string, SystemRow>> = {
  Syscall: syscall, Sysret: sysret, Sysretq: sysret,
  Swapgs: (core) => {
    if (!core.long) return UD;
    if (cpl(core) !== 0) return GP0;
    const held = core.address(STATE.kernelGsBase);
    core.setAddress(STATE.kernelGsBase, core.address(STATE.seg + SEG.gs * SEG_SLOT_BYTES + 8));
    core.setAddress(STATE.seg + SEG.gs * SEG_SLOT_BYTES + 8, held);
    return undefined;
  },
  Sysenter: (core) => {
    const selector = core.get32(STATE.sysenterCs) & 0xfffc;
    if (selector === 0) return GP0;
    core.setEflags((core.eflags() & ~(EFLAGS.VM | EFLAGS.IF | EFLAGS.RF)) >>> 0);
    const { lma } = core;
    enterFlat(core, selector, selector + 8, 0, lma ? CODE64 : CODE32, lma ? core.address(STATE.sysenterEip) : core.get32(STATE.sysenterEip));
    setGpr64(core, 4, lma ? bitsOf(core.address(STATE.sysenterEsp)) : BigInt(core.get32(STATE.sysenterEsp)));
    return 'jumped';
  },
  Sysexit: sysexit, Sysexitq: sysexit,
};

function sysexit(...[core, insn]: Parameters<SystemRow>): ReturnType<SystemRow> {
  const selector = core.get32(STATE.sysenterCs) & 0xfffc;
  if (cpl(core) !== 0 || selector === 0) return GP0;
  const wide = insn.code === 'Sysexitq';
  const [rip, sp] = wide ? [gprAddress(core, 2), gprAddress(core, 1)] : [gpr(core, 2), gpr(core, 1)];
  if (!inCanonicalRange(rip) || !inCanonicalRange(sp)) return GP0;
  enterFlat(core, wide ? selector + 32 : selector + 16, wide ? selector + 40 : selector + 24, 3, wide ? CODE64 : CODE32, rip);
  setGpr64(core, 4, bitsOf(sp));
  return 'jumped';
}
