// GNTTABOP_transfer: the caller gives one of its frames to another domain that has offered to take
// one. The frame leaves the caller first; if the receiver then cannot have it, it is lost.
// Source: gnttab_transfer() and gnttab_prepare_for_transfer() in xen/common/grant_table.c.
import type { Domain } from './domain.ts';
import { domainById } from './foreign-domain.ts';
import { FRAME, FREE_OWNER } from './frame-table.ts';
import { adoptFrame, stealFrame } from './frame-ownership.ts';
import { entryCount, entryMaddr, GNTST, GTF } from './grant-table.ts';
import { releaseFrame, type Hypervisor } from './hypervisor.ts';
import { flushDomainTlb } from './page-types.ts';

export function transferFrame(hv: Hypervisor, from: Domain, mfn: number, domId: number, gref: number): number {
  if (!hv.frames.has(mfn)) return GNTST.bad_page;
  const was = { type: hv.frames.type[mfn] as number, validated: (hv.frames.flags[mfn] as number) & FRAME.validated };
  if (!takeAway(hv, from, mfn)) return GNTST.bad_page;
  if (hv.grantRules.transferFlushes) flushDomainTlb(hv, from);
  const lose = (status: number): number => {
    releaseFrame(hv, mfn);
    return status;
  };
  const to = domainById(hv, domId);
  if (to === undefined || to.life.kind === 'destroyed') return lose(GNTST.bad_domain);
  if (to.totPages >= to.maxPages || !acceptTransfer(hv, from, to, gref)) return lose(GNTST.general_error);
  if (!adoptFrame(hv, to, mfn, true)) return lose(GNTST.general_error);
  if (!hv.grantRules.transferForgetsType) {
    hv.frames.type[mfn] = was.type;
    hv.frames.flags[mfn] = (hv.frames.flags[mfn] as number) | was.validated;
  }
  tellReceiver(hv, to, gref, mfn);
  return GNTST.okay;
}

/** The frame belongs to nobody afterwards. False: it is not the caller's alone. */
function takeAway(hv: Hypervisor, from: Domain, mfn: number): boolean {
  if (hv.grantRules.transferNeedsSoleReference) return stealFrame(hv, from, mfn, true) === 0;
  const { frames } = hv;
  if (frames.owner[mfn] !== from.domId) return false;
  frames.refCount[mfn] = 0;
  frames.flags[mfn] = 0;
  frames.owner[mfn] = FREE_OWNER;
  from.totPages--;
  return true;
}

/** The receiver's entry says "accept from this domain", exactly; it is marked as committed. */
function acceptTransfer(hv: Hypervisor, from: Domain, to: Domain, gref: number): boolean {
  const { grants } = to;
  if (gref >= entryCount(grants)) return false;
  const at = entryMaddr(grants, gref);
  if (hv.machine.readU16(at) !== GTF.accept_transfer || hv.machine.readU16(at + 2) !== from.domId) return false;
  hv.machine.writeU16(at, GTF.accept_transfer | GTF.transfer_committed);
  return true;
}

/** The entry held the pseudo-physical number that the receiver wants; it gets the machine frame. */
function tellReceiver(hv: Hypervisor, to: Domain, gref: number, mfn: number): void {
  const { grants } = to;
  const frameAt = entryMaddr(grants, gref) + (grants.version === 1 ? 4 : 8);
  hv.frames.setM2p(mfn, hv.machine.readU32(frameAt));
  hv.machine.writeU32(frameAt, mfn);
  if (grants.version === 2) hv.machine.writeU32(frameAt + 4, 0);
  const at = entryMaddr(grants, gref);
  hv.machine.writeU16(at, hv.machine.readU16(at) | GTF.transfer_completed);
}
