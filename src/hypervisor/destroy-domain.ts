// The end of a domain: everything it holds is given back, in an order that leaves no frame typed.
//
//   0. event channels, grants, frames that Xen kept mapped (domain-end.ts)
//   1. what the vCPUs hold: interrupted tables, base pointers, descriptor tables
//   2. pins, and references that a refused PAE root left behind
//   3. tables that hold each other (linear page tables) are emptied by force, top level first
//   4. the frames themselves; one that another domain still maps is freed when that mapping goes
//
// Source: domain_relinquish_resources(), relinquish_memory(), vcpu_destroy_pagetables(), xen/arch/x86.
import { assert } from '../base/assert.ts';
import type { Domain, Vcpu } from './domain.ts';
import { releaseChannelsAndGrants } from './domain-end.ts';
import { FRAME, FRAME_TYPE } from './frame-table.ts';
import type { Hypervisor } from './hypervisor.ts';
import { dropGdt } from './hypercalls/descriptors.ts';
import { dropLdt } from './hypercalls/mmuext.ts';
import { demoteTable } from './page-tables.ts';
import { putAllocation, putOldTable, putPage, putPageAndTypePreemptible } from './page-types.ts';

/** Gives back all memory of the domain and forgets it. Never interrupted. Call it once, when nothing of the domain runs any more. */
export function destroyDomain(hv: Hypervisor, domain: Domain): void {
  assert(hv.current === undefined, 'a domain is destroyed while Xen acts for a guest');
  domain.life = { kind: 'destroyed' };
  releaseChannelsAndGrants(hv, domain);
  for (const vcpu of domain.vcpus) releaseVcpu(hv, vcpu);
  const mfns = framesOf(hv, domain);
  for (const mfn of mfns) unpin(hv, mfn);
  for (const mfn of domain.leakedTables.splice(0)) assert(putPageAndTypePreemptible(hv, mfn) === 0, `leaked table ${mfn} was interrupted`);
  for (let level = FRAME_TYPE.l4 as number; level >= FRAME_TYPE.l2; level--) for (const mfn of mfns) emptyTable(hv, mfn, level);
  for (const mfn of mfns) if (hv.frames.owner[mfn] === domain.domId) putAllocation(hv, mfn);
  if (framesOf(hv, domain).length === 0) hv.domains.delete(domain.domId);
}

function framesOf(hv: Hypervisor, domain: Domain): number[] {
  const mfns: number[] = [];
  for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) if (hv.frames.owner[mfn] === domain.domId) mfns.push(mfn);
  return mfns;
}

function releaseVcpu(hv: Hypervisor, vcpu: Vcpu): void {
  putOldTable(hv, vcpu);
  dropLdt(hv, vcpu);
  dropGdt(hv, vcpu);
  const bases = [vcpu.guestTableMfn, vcpu.userTableMfn];
  vcpu.guestTableMfn = 0;
  vcpu.userTableMfn = 0;
  for (const mfn of bases) if (mfn !== 0) assert(putPageAndTypePreemptible(hv, mfn) === 0, `base table ${mfn} was interrupted`);
}

function unpin(hv: Hypervisor, mfn: number): void {
  const flags = hv.frames.flags[mfn] as number;
  if ((flags & FRAME.pinned) === 0) return;
  hv.frames.flags[mfn] = flags & ~FRAME.pinned;
  assert(putPageAndTypePreemptible(hv, mfn) === 0, `pinned table ${mfn} was interrupted`);
}

/** A table still typed is held by itself or by its like: what its entries hold goes, the counts drop with the entries of the others. */
function emptyTable(hv: Hypervisor, mfn: number, level: number): void {
  const { frames } = hv;
  const flags = frames.flags[mfn] as number;
  const partial = (flags & FRAME.partial) !== 0;
  if (frames.type[mfn] !== level || frames.typeCount[mfn] === 0 || (flags & (FRAME.validated | FRAME.partial)) === 0) return;
  frames.flags[mfn] = flags & ~(FRAME.validated | FRAME.partial);
  assert(demoteTable(hv, mfn, level, partial) === 0, `table ${mfn} was interrupted`);
  if (!partial) return;
  // A guest gave up in the middle of a preempted call: the state itself held a type and a reference.
  frames.typeCount[mfn] = (frames.typeCount[mfn] as number) - 1;
  putPage(hv, mfn);
}
