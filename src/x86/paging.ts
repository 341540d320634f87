// The paging unit: page walks and the TLB. Both tiers come through here on every miss.
//
// A lookup answers with the linear-memory address of the byte, or -1 with core.fault set. A cached
// translation that allows the access is used however stale it is; one that does not allow it is
// walked again, as processors do before they fault.
//
// Not checked: protection keys, SMEP/SMAP (not exposed by CPUID).
// Source: Intel SDM vol. 3, chapter 4.
import { wide } from '../base/wide.ts';
import { FRAME_FLAG, type MachineMemory } from '../machine/memory.ts';
import { highHalf, vpnHigh, vpnLow } from './address.ts';
import { armedBreakpoints, watchesPage } from './breakpoints.ts';
import { CR0, CR4, EFER, type Core } from './core.ts';
import { PF_ERR, VECTOR } from './exit.ts';
import { STATE } from './state-layout.ts';
import { FILLED, NO_TAG, TLB, TLB_ENTRIES, TLB_ENTRY_BYTES, TLB_VPN_BYTES } from './tlb-layout.ts';

export type Access = 'read' | 'write' | 'fetch';

/** TLB.arch bits. */
export const ARCH = { valid: 1, user: 2, writable: 4, executable: 8, dirty: 16, noRam: 32, wp: 64, global: 0x80000000 } as const;
export const PTE = { P: 1, RW: 2, US: 4, A: 0x20, D: 0x40, PS: 0x80, G: 0x100 } as const;
const NX_HI = 0x80000000;
/** Physical addresses have 40 bits: the upper half's bits 8..19 are reserved; 20..30 too, but not for a PAE guest whose tables are walked as part of four levels. */
export const RESERVED_HI = { native: 0x7fffff00, hosted: 0x000fff00 } as const;

/** Of an entry for 2 MiB. */
export const LARGE_PAGE_RESERVED = 0x001fe000;

/** Linear-memory scratch for physical addresses without RAM: reads give ones, writes vanish. */
interface Walked {
  maddr: number;
  perm: number;
}
const walked: Walked = wide({ maddr: 0, perm: 0 });

/**
 * Translates for one access that does not cross a page. `user`: CPL 3. Returns the linear-memory
 * address or -1 (core.fault says why).
 */
export function lookup(core: Core, vaddr: number, access: Access, user: boolean): number {
  const { u32 } = core;
  const vpn = vpnLow(vaddr);
  const slot = vpn & (TLB_ENTRIES - 1);
  const e = (core.tlbBase + slot * TLB_ENTRY_BYTES) >>> 2;
  const vpnWord = (core.tlbVpnBase + slot * TLB_VPN_BYTES) >>> 2;
  const arch = u32[e + (TLB.arch >> 2)] as number;
  if (!((arch & ARCH.valid) !== 0 && u32[vpnWord] === vpn && u32[vpnWord + 1] === vpnHigh(vaddr) && allows(arch, access, user))) {
    if (!walk(core, vaddr, access, user)) return -1;
    if ((arch & ARCH.valid) === 0) noteFilled(core, slot);
    u32[vpnWord] = vpn;
    u32[vpnWord + 1] = vpnHigh(vaddr);
    u32[e + (TLB.arch >> 2)] = walked.perm;
    u32[e + (TLB.maddr >> 2)] = walked.maddr;
    setAddend(core, slot);
  }
  return finishHit(core, e, vaddr, access);
}

/**
 * Where an address would be read, without any effect: no TLB fill, no accessed bits. The linear-memory
 * address or -1. For reports and debuggers.
 */
export function peek(core: Core, vaddr: number, user: boolean): number {
  const slot = vpnLow(vaddr) & (TLB_ENTRIES - 1);
  const e = (core.tlbBase + slot * TLB_ENTRY_BYTES) >>> 2;
  const arch = core.u32[e + (TLB.arch >> 2)] as number;
  if ((arch & ARCH.valid) !== 0 && holds(core, slot, vaddr) && allows(arch, 'read', user)) {
    if ((arch & ARCH.noRam) !== 0) return -1;
    walked.maddr = core.u32[e + (TLB.maddr >> 2)] as number;
  } else {
    const { fault } = core;
    lookingOnly = true;
    const found = walk(core, vaddr, 'read', user);
    lookingOnly = false;
    core.fault = fault;
    if (!found) return -1;
  }
  return core.machine.contains(walked.maddr, 4096) ? core.machine.ramBase + walked.maddr + (vaddr & 0xfff) : -1;
}

/** Is the slot's vpn that of the address? */
function holds(core: Core, slot: number, vaddr: number): boolean {
  const at = (core.tlbVpnBase + slot * TLB_VPN_BYTES) >>> 2;
  return core.u32[at] === vpnLow(vaddr) && core.u32[at + 1] === vpnHigh(vaddr);
}

function allows(arch: number, access: Access, user: boolean): boolean {
  if (user && (arch & ARCH.user) === 0) return false;
  if (access === 'read') return true;
  if (access === 'fetch') return (arch & ARCH.executable) !== 0;
  if ((arch & ARCH.dirty) === 0) return false;
  return (arch & ARCH.writable) !== 0 || (!user && (arch & ARCH.wp) === 0);
}

/** Sets the fast tags that hold now and returns the address. */
function finishHit(core: Core, e: number, vaddr: number, access: Access): number {
  const { u32, machine } = core;
  const arch = u32[e + (TLB.arch >> 2)] as number;
  const maddr = u32[e + (TLB.maddr >> 2)] as number;
  const page = (vaddr & ~0xfff) >>> 0;
  if ((arch & ARCH.noRam) !== 0) {
    clearTags(u32, e);
    return noRamAddress(core, access) + (vaddr & 0xfff);
  }
  const mfn = maddr >>> 12;
  const flagsAt = machine.frameFlagsBase + mfn;
  if (access === 'write') {
    // The caller stores now. Code frames keep the slow path, so that every store is reported.
    core.u8[flagsAt] = (core.u8[flagsAt] as number) | FRAME_FLAG.dirty;
  }
  if (core.breakpoints !== undefined && watchesPage(core, vaddr)) {
    clearTags(u32, e);
    return machine.ramBase + maddr + (vaddr & 0xfff);
  }
  const frame = core.u8[flagsAt] as number;
  const fastWrite = (arch & ARCH.dirty) !== 0 && (frame & FRAME_FLAG.dirty) !== 0 && (frame & FRAME_FLAG.code) === 0;
  const user = (arch & ARCH.user) !== 0;
  const writable = (arch & ARCH.writable) !== 0;
  const high = highHalf(vaddr);
  setTag(u32, e + (TLB.readSup >> 2), page, high);
  setTag(u32, e + (TLB.writeSup >> 2), fastWrite && (writable || (arch & ARCH.wp) === 0) ? page : NO_TAG, high);
  setTag(u32, e + (TLB.execSup >> 2), (arch & ARCH.executable) !== 0 ? page : NO_TAG, high);
  setTag(u32, e + (TLB.readUser >> 2), user ? page : NO_TAG, high);
  setTag(u32, e + (TLB.writeUser >> 2), user && fastWrite && writable ? page : NO_TAG, high);
  setTag(u32, e + (TLB.execUser >> 2), user && (arch & ARCH.executable) !== 0 ? page : NO_TAG, high);
  return machine.ramBase + maddr + (vaddr & 0xfff);
}

function setTag(u32: Uint32Array, at: number, low: number, high: number): void {
  u32[at] = low;
  u32[at + 1] = high;
}
function clearTags(u32: Uint32Array, e: number): void {
  for (let i = 0; i < 12; i += 2) u32[e + i] = NO_TAG;
}

const noRamPages = new WeakMap<MachineMemory, number>();
/** Per machine: a page of ones to read, a page to write into. Taken before any guest runs. */
export function reserveNoRamPages(machine: MachineMemory): void {
  if (noRamPages.has(machine)) return;
  const base = machine.reserve(8192, 4096);
  noRamPages.set(machine, base);
  machine.u8.fill(0xff, base, base + 4096);
}
const noRamAddress = (core: Core, access: Access): number => (noRamPages.get(core.machine) as number) + (access === 'write' ? 4096 : 0);

function fault(core: Core, vaddr: number, code: number, access: Access, user: boolean): false {
  const nx = (core.get32(STATE.efer) & EFER.NXE) !== 0 && (core.get32(STATE.cr4) & CR4.PAE) !== 0;
  const errorCode = code | (access === 'write' ? PF_ERR.write : 0) | (user ? PF_ERR.user : 0) | (access === 'fetch' && nx ? PF_ERR.fetch : 0);
  core.fault = { vector: VECTOR.PF, errorCode, cr2: vaddr };
  return false;
}

/** Fills `walked`; false with core.fault on a page fault. */
function walk(core: Core, vaddr: number, access: Access, user: boolean): boolean {
  const cr0 = core.get32(STATE.cr0);
  const wp = (cr0 & CR0.WP) !== 0 ? ARCH.wp : 0;
  if ((cr0 & CR0.PG) === 0) {
    setWalked(core, (vaddr & ~0xfff) >>> 0, ARCH.valid | ARCH.user | ARCH.writable | ARCH.executable | ARCH.dirty | wp);
    return true;
  }
  if (core.lma) return walkFourLevel(core, vaddr, access, user, wp);
  return (core.get32(STATE.cr4) & CR4.PAE) !== 0 ? walkPae(core, vaddr, access, user, wp) : walkTwoLevel(core, vaddr, access, user, wp);
}

function setWalked(core: Core, maddr: number, perm: number): void {
  walked.maddr = maddr;
  walked.perm = core.machine.contains(maddr, 4096) ? perm : perm | ARCH.noRam;
}

const readPhys = (core: Core, maddr: number): number => (core.machine.contains(maddr, 4) ? core.machine.readU32(maddr) : 0xffffffff);
/** A walk that looks only: no accessed and dirty bits. */
let lookingOnly = false;
function setBits(core: Core, maddr: number, old: number, bits: number): void {
  if (!lookingOnly && (old & bits) !== bits && core.machine.contains(maddr, 4)) core.machine.writeU32(maddr, (old | bits) >>> 0);
}

/** Permission check on a finished walk; sets accessed and dirty in the leaf. */
function leaf(core: Core, vaddr: number, access: Access, user: boolean, wp: number, pteMaddr: number, lo: number, combined: number, nx: boolean, maddr: number): boolean {
  const userOk = (combined & PTE.US) !== 0;
  const writable = (combined & PTE.RW) !== 0;
  if ((user && !userOk) || (access === 'write' && !writable && (user || wp !== 0)) || (access === 'fetch' && nx)) return fault(core, vaddr, PF_ERR.present, access, user);
  const dirty = access === 'write' || (lo & PTE.D) !== 0;
  setBits(core, pteMaddr, lo, PTE.A | (access === 'write' ? PTE.D : 0));
  const global = (lo & PTE.G) !== 0 && (core.get32(STATE.cr4) & CR4.PGE) !== 0;
  setWalked(core, maddr, (ARCH.valid | wp | (userOk ? ARCH.user : 0) | (writable ? ARCH.writable : 0) | (nx ? 0 : ARCH.executable) | (dirty ? ARCH.dirty : 0) | (global ? ARCH.global : 0)) >>> 0);
  return true;
}

function walkTwoLevel(core: Core, vaddr: number, access: Access, user: boolean, wp: number): boolean {
  const pdeMaddr = ((core.get32(STATE.cr3) & 0xfffff000) >>> 0) + (vaddr >>> 22) * 4;
  const pde = readPhys(core, pdeMaddr);
  if ((pde & PTE.P) === 0) return fault(core, vaddr, 0, access, user);
  if ((pde & PTE.PS) !== 0 && (core.get32(STATE.cr4) & CR4.PSE) !== 0) {
    if ((pde & 0x003fe000) !== 0) return fault(core, vaddr, PF_ERR.present | PF_ERR.reserved, access, user);
    return leaf(core, vaddr, access, user, wp, pdeMaddr, pde, pde, false, ((pde & 0xffc00000) >>> 0) + (vaddr & 0x003ff000));
  }
  setBits(core, pdeMaddr, pde, PTE.A);
  const pteMaddr = ((pde & 0xfffff000) >>> 0) + ((vaddr >>> 12) & 0x3ff) * 4;
  const pte = readPhys(core, pteMaddr);
  if ((pte & PTE.P) === 0) return fault(core, vaddr, 0, access, user);
  return leaf(core, vaddr, access, user, wp, pteMaddr, pte, pde & pte, false, (pte & 0xfffff000) >>> 0);
}

/** maddr of an entry's frame; beyond 4 GiB there is no RAM. */
const frameOf = (lo: number, hi: number): number => (hi & 0xff) * 0x1_0000_0000 + ((lo & 0xfffff000) >>> 0);

function walkPae(core: Core, vaddr: number, access: Access, user: boolean, wp: number): boolean {
  const nxe = (core.get32(STATE.efer) & EFER.NXE) !== 0;
  const reservedHi = (core.options.pdpteCached === true ? RESERVED_HI.native : RESERVED_HI.hosted) | (nxe ? 0 : NX_HI);
  let pdpteLo: number;
  let pdpteHi: number;
  const l3Index = vaddr >>> 30;
  if (core.options.pdpteCached === true) {
    pdpteLo = core.get32(STATE.pdpte + l3Index * 8);
    pdpteHi = core.get32(STATE.pdpte + l3Index * 8 + 4);
  } else {
    const at = ((core.get32(STATE.cr3) & 0xffffffe0) >>> 0) + l3Index * 8;
    pdpteLo = readPhys(core, at);
    pdpteHi = readPhys(core, at + 4);
  }
  if ((pdpteLo & PTE.P) === 0) return fault(core, vaddr, 0, access, user);
  const pdeMaddr = frameOf(pdpteLo, pdpteHi) + ((vaddr >>> 21) & 0x1ff) * 8;
  const pde = readPhys(core, pdeMaddr);
  const pdeHi = readPhys(core, pdeMaddr + 4);
  if ((pde & PTE.P) === 0) return fault(core, vaddr, 0, access, user);
  if ((pdeHi & reservedHi) !== 0) return fault(core, vaddr, PF_ERR.present | PF_ERR.reserved, access, user);
  const pdeNx = nxe && (pdeHi & NX_HI) !== 0;
  if ((pde & PTE.PS) !== 0) {
    if ((pde & LARGE_PAGE_RESERVED) !== 0) return fault(core, vaddr, PF_ERR.present | PF_ERR.reserved, access, user);
    return leaf(core, vaddr, access, user, wp, pdeMaddr, pde, pde, pdeNx, frameOf(pde & 0xffe00000, pdeHi) + (vaddr & 0x001ff000));
  }
  setBits(core, pdeMaddr, pde, PTE.A);
  const pteMaddr = frameOf(pde, pdeHi) + ((vaddr >>> 12) & 0x1ff) * 8;
  const pte = readPhys(core, pteMaddr);
  const pteHi = readPhys(core, pteMaddr + 4);
  if ((pte & PTE.P) === 0) return fault(core, vaddr, 0, access, user);
  if ((pteHi & reservedHi) !== 0) return fault(core, vaddr, PF_ERR.present | PF_ERR.reserved, access, user);
  return leaf(core, vaddr, access, user, wp, pteMaddr, pte, pde & pte, pdeNx || (nxe && (pteHi & NX_HI) !== 0), frameOf(pte, pteHi));
}

/**
 * Long mode. Rights of all levels count; accessed bits are set in each. Bits 52..62 are ignored.
 * Not there: large pages of 1 GiB, which CPUID does not promise (their bit is reserved, as in the top level).
 */
function walkFourLevel(core: Core, vaddr: number, access: Access, user: boolean, wp: number): boolean {
  const nxe = (core.get32(STATE.efer) & EFER.NXE) !== 0;
  const reservedHi = RESERVED_HI.hosted | (nxe ? 0 : NX_HI);
  const high = highHalf(vaddr);
  const index = [(high >>> 7) & 0x1ff, ((high << 2) | (vaddr >>> 30)) & 0x1ff, (vaddr >>> 21) & 0x1ff];
  let table = (core.get32(STATE.cr3) & 0xfffff000) >>> 0;
  let rights = PTE.RW | PTE.US;
  let nx = false;
  for (let level = 4; level > 1; level--) {
    const at = table + (index[4 - level] as number) * 8;
    const lo = readPhys(core, at);
    const hi = readPhys(core, at + 4);
    if ((lo & PTE.P) === 0) return fault(core, vaddr, 0, access, user);
    if ((hi & reservedHi) !== 0 || (level > 2 && (lo & PTE.PS) !== 0)) return fault(core, vaddr, PF_ERR.present | PF_ERR.reserved, access, user);
    nx ||= nxe && (hi & NX_HI) !== 0;
    if ((lo & PTE.PS) !== 0) {
      if ((lo & LARGE_PAGE_RESERVED) !== 0) return fault(core, vaddr, PF_ERR.present | PF_ERR.reserved, access, user);
      return leaf(core, vaddr, access, user, wp, at, lo, rights & lo, nx, frameOf(lo & 0xffe00000, hi) + (vaddr & 0x001ff000));
    }
    rights &= lo;
    setBits(core, at, lo, PTE.A);
    table = frameOf(lo, hi);
  }
  const at = table + ((vaddr >>> 12) & 0x1ff) * 8;
  const lo = readPhys(core, at);
  const hi = readPhys(core, at + 4);
  if ((lo & PTE.P) === 0) return fault(core, vaddr, 0, access, user);
  if ((hi & reservedHi) !== 0) return fault(core, vaddr, PF_ERR.present | PF_ERR.reserved, access, user);
  return leaf(core, vaddr, access, user, wp, at, lo, rights & lo, nx || (nxe && (hi & NX_HI) !== 0), frameOf(lo, hi));
}

/** Loads the four PDPTEs for a cached-PDPTE machine; false if one has reserved bits set. */
export function loadPdptes(core: Core, cr3: number): boolean {
  const base = (cr3 & 0xffffffe0) >>> 0;
  const words: number[] = [];
  for (let i = 0; i < 8; i++) words.push(readPhys(core, base + i * 4));
  for (let i = 0; i < 4; i++) if (((words[2 * i] as number) & PTE.P) !== 0 && (((words[2 * i] as number) & 0x1e6) !== 0 || ((words[2 * i + 1] as number) & 0xffffff00) !== 0)) return false;
  words.forEach((word, i) => core.set32(STATE.pdpte + i * 4, word));
  return true;
}

// -- maintenance -----------------------------------------------------------------------------------

/** The sets of translations that hold anything: [TLB, vpns] as word indices. */
const sets = (core: Core): readonly (readonly [number, number])[] => (core.secondUsed ? [0, 1] : [0]).map((i) => [(core.tlbBases[i] as number) >>> 2, (core.tlbVpnBases[i] as number) >>> 2] as const);

function noteFilled(core: Core, slot: number): void {
  const base = core.tlbFilledBases[core.tlbBase === core.tlbBases[0] ? 0 : 1];
  const count = core.u32[base >>> 2] as number;
  if (count < FILLED.max) core.machine.u16[(base + FILLED.slots + 2 * count) >>> 1] = slot;
  core.u32[base >>> 2] = Math.min(count, FILLED.max) + 1;
}

/** Both sets. Guests flush often, with a few dozen translations in between: only slots that were filled are looked at. */
export function flushTlb(core: Core, keepGlobal: boolean): void {
  const { u32 } = core;
  const { u16 } = core.machine;
  for (const set of core.secondUsed ? ([0, 1] as const) : ([0] as const)) {
    const [base, vpns] = [core.tlbBases[set] >>> 2, core.tlbVpnBases[set] >>> 2];
    const filled = core.tlbFilledBases[set];
    const slots = (filled + FILLED.slots) >>> 1;
    const some = u32[filled >>> 2] as number;
    const all = some > FILLED.max;
    const count = all ? TLB_ENTRIES : some;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      const slot = all ? i : (u16[slots + i] as number);
      const e = base + slot * (TLB_ENTRY_BYTES >> 2);
      const arch = u32[e + (TLB.arch >> 2)] as number;
      if ((arch & ARCH.valid) === 0) continue;
      if (keepGlobal && (arch & ARCH.global) !== 0) u16[slots + kept++] = slot;
      else dropEntry(u32, e, vpns + slot * (TLB_VPN_BYTES >> 2));
    }
    u32[filled >>> 2] = kept;
  }
  core.dropFetchPage();
}

function dropEntry(u32: Uint32Array, e: number, vpnWord: number): void {
  clearTags(u32, e);
  u32[e + (TLB.arch >> 2)] = 0;
  u32[e + (TLB.addend >> 2)] = 0;
  u32[e + (TLB.maddr >> 2)] = 0;
  u32[vpnWord] = 0;
  u32[vpnWord + 1] = 0;
}

/** In both sets: a global translation that one of them holds may be the other's too. */
export function invlpg(core: Core, vaddr: number): void {
  const low = vpnLow(vaddr);
  const high = vpnHigh(vaddr);
  const slot = low & (TLB_ENTRIES - 1);
  for (let set: 0 | 1 = 0; ; set = 1) {
    const vpnWord = (core.tlbVpnBases[set] + slot * TLB_VPN_BYTES) >>> 2;
    if (core.u32[vpnWord] === low && core.u32[vpnWord + 1] === high) dropEntry(core.u32, (core.tlbBases[set] + slot * TLB_ENTRY_BYTES) >>> 2, vpnWord);
    if (set === 1 || !core.secondUsed) break;
  }
  if (core.get32(STATE.fetchVpn) === low && core.get32(STATE.fetchVpn + 4) === high) core.dropFetchPage();
}

/** The addend of a slot whose maddr and vpn are set. */
export function setAddend(core: Core, slot: number, tlbBase = core.tlbBase, tlbVpnBase = core.tlbVpnBase): void {
  const e = (tlbBase + slot * TLB_ENTRY_BYTES) >>> 2;
  const vpn = core.u32[(tlbVpnBase + slot * TLB_VPN_BYTES) >>> 2] as number;
  const valid = ((core.u32[e + (TLB.arch >> 2)] as number) & ARCH.valid) !== 0;
  core.u32[e + (TLB.addend >> 2)] = valid ? (core.machine.ramBase + (core.u32[e + (TLB.maddr >> 2)] as number) - vpn * 4096) >>> 0 : 0;
}

/** Every write tag goes; translations stay. `mfn` < 0: of all frames. */
export function dropWriteTags(core: Core, mfn: number): void {
  const { u32 } = core;
  for (const [base] of sets(core)) {
    for (let slot = 0, e = base; slot < TLB_ENTRIES; slot++, e += TLB_ENTRY_BYTES >> 2) {
      if (mfn >= 0 && (u32[e + (TLB.maddr >> 2)] as number) >>> 12 !== mfn) continue;
      u32[e + (TLB.writeSup >> 2)] = NO_TAG;
      u32[e + (TLB.writeUser >> 2)] = NO_TAG;
    }
  }
}

/** After a change of debug registers: translations that were fast may lie on a watched page now. */
export function debugRegistersChanged(core: Core): void {
  core.breakpoints = armedBreakpoints(core);
  if (core.breakpoints !== undefined) dropAllTags(core);
}

/** Fast tags as after restoring a state: all slow, so that they are recomputed. */
export function dropAllTags(core: Core): void {
  for (const base of core.tlbBases) for (let slot = 0, e = base >>> 2; slot < TLB_ENTRIES; slot++, e += TLB_ENTRY_BYTES >> 2) clearTags(core.u32, e);
}
