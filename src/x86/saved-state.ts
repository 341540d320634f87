// A processor as bytes: registers in canonical form, then the architectural half of each TLB entry. What is
// derived from them (mode key, tags, addends, decoded and translated code) is left out and made anew.
import { assert } from '../base/assert.ts';
import type { Core } from './core.ts';
import { debugRegistersChanged, dropAllTags, setAddend } from './paging.ts';
import { ARCH_STATE_BYTES, STATE, STATE_BYTES } from './state-layout.ts';
import { TLB, TLB_ENTRIES, TLB_ENTRY_BYTES, TLB_VPN_BYTES } from './tlb-layout.ts';

/** arch u32 (and padding), maddr u64, vpn u64. */
const SAVED_ENTRY_BYTES = 24;
const SAVED_SET_BYTES = TLB_ENTRIES * SAVED_ENTRY_BYTES;

export function saveState(core: Core, retired: number): Uint8Array {
  core.canonicalise();
  core.view.setFloat64(core.stateBase + STATE.retired, retired, true);
  const sets = core.secondUsed ? 2 : 1;
  const bytes = new Uint8Array(ARCH_STATE_BYTES + sets * SAVED_SET_BYTES);
  bytes.set(core.u8.subarray(core.stateBase, core.stateBase + ARCH_STATE_BYTES));
  bytes.fill(0, STATE.mode, STATE.mode + 8);
  for (let set = 0, at = ARCH_STATE_BYTES; set < sets; set++) {
    for (let slot = 0; slot < TLB_ENTRIES; slot++, at += SAVED_ENTRY_BYTES) {
      const e = (core.tlbBases[set] as number) + slot * TLB_ENTRY_BYTES;
      const vpn = (core.tlbVpnBases[set] as number) + slot * TLB_VPN_BYTES;
      bytes.set(core.u8.subarray(e + TLB.arch, e + TLB.arch + 4), at);
      bytes.set(core.u8.subarray(e + TLB.maddr, e + TLB.maddr + 8), at + 8);
      bytes.set(core.u8.subarray(vpn, vpn + TLB_VPN_BYTES), at + 16);
    }
  }
  return bytes;
}

/** Puts the state back; returns the retired count. */
export function restoreState(core: Core, bytes: Uint8Array): number {
  const sets = (bytes.length - ARCH_STATE_BYTES) / SAVED_SET_BYTES;
  assert(sets === 1 || sets === 2, `${bytes.length} bytes are no processor state`);
  core.u8.set(bytes.subarray(0, ARCH_STATE_BYTES), core.stateBase);
  core.u8.fill(0, core.stateBase + ARCH_STATE_BYTES, core.stateBase + STATE_BYTES);
  core.secondUsed = sets === 2;
  for (let set = 0, at = ARCH_STATE_BYTES; set < sets; set++) {
    const [tlbBase, tlbVpnBase] = [core.tlbBases[set] as number, core.tlbVpnBases[set] as number];
    for (let slot = 0; slot < TLB_ENTRIES; slot++, at += SAVED_ENTRY_BYTES) {
      const e = tlbBase + slot * TLB_ENTRY_BYTES;
      const vpn = tlbVpnBase + slot * TLB_VPN_BYTES;
      core.u8.set(bytes.subarray(at, at + 4), e + TLB.arch);
      core.u8.set(bytes.subarray(at + 8, at + 16), e + TLB.maddr);
      core.u8.set(bytes.subarray(at + 16, at + 24), vpn);
      setAddend(core, slot, tlbBase, tlbVpnBase);
    }
  }
  if (sets === 1) forgetSecond(core);
  core.allFilled();
  dropAllTags(core);
  core.restoreMode();
  debugRegistersChanged(core);
  return core.view.getFloat64(core.stateBase + STATE.retired, true);
}

function forgetSecond(core: Core): void {
  core.u8.fill(0, core.tlbBases[1], core.tlbBases[1] + TLB_ENTRIES * TLB_ENTRY_BYTES);
  core.u8.fill(0, core.tlbVpnBases[1], core.tlbVpnBases[1] + TLB_ENTRIES * TLB_VPN_BYTES);
}
