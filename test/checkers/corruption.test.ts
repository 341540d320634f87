// Every checker notices what it claims to notice: a sound system passes, and each way of breaking it by
// hand is found by the checker in whose claim it falls.
import { beforeEach, describe, expect, test } from 'vitest';
import { CHECKERS, checkAll, InvariantChecker, p2mProblems, violationText, type CheckerName } from '../../src/checkers/index.ts';
import { destroyDomain } from '../../src/hypervisor/destroy-domain.ts';
import { bindPort, setVirqPort } from '../../src/hypervisor/event-channels.ts';
import { FRAME, FRAME_TYPE } from '../../src/hypervisor/frame-table.ts';
import { noPins } from '../../src/hypervisor/grant-table.ts';
import { mapForBackend } from '../../src/hypervisor/grant-table-backend.ts';
import type { Domain } from '../../src/hypervisor/domain.ts';
import type { Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { findL1, found } from '../../src/hypervisor/page-walk.ts';
import { TLB, TLB_ENTRY_BYTES } from '../../src/x86/tlb-layout.ts';
import { twoDomains, type TwoDomains } from './two-domains.ts';

let two: TwoDomains;
let hv: Hypervisor;
let d1: Domain;
let d2: Domain;
beforeEach(() => {
  two = twoDomains();
  hv = two.hv;
  d1 = two.built[0].domain;
  d2 = two.built[1].domain;
});

const root = (): number => d1.vcpus[0]?.guestTableMfn as number;
/** Machine address of the entry that maps an address of d1's kernel, and the address. */
const kernelVaddr = 0xc010_0000;
const entryOf = (vaddr = kernelVaddr): number => {
  expect(findL1(hv.machine, 3, root(), vaddr)).toBe(true);
  return found.maddr;
};
const set = (maddr: number, change: (lo: number) => number): void => hv.machine.writeU32(maddr, change(hv.machine.readU32(maddr)) >>> 0);
const l2 = (slot: number): number => hv.machine.readU32(root() * 4096 + slot * 8) >>> 12;
/** The L1 table of the kernel's first addresses. */
const l1 = (): number => hv.machine.readU32(l2(3) * 4096) >>> 12;
/** Makes a root's slot, so far absent, lead to a table. */
const setSlot = (slot: number, mfn: number): void => hv.machine.writeU32(root() * 4096 + slot * 8, ((mfn << 12) | (hv.machine.readU32(root() * 4096 + 3 * 8) & 0xfff)) >>> 0);
/** A frame of the domain's that nothing maps or uses. */
const idle = (domain: Domain, nth = 0): number => {
  const frames = hv.frames;
  const found: number[] = [];
  for (let mfn = 0; mfn < frames.frameCount; mfn++) if (frames.owner[mfn] === domain.domId && frames.refCount[mfn] === 1 && frames.typeCount[mfn] === 0) found.push(mfn);
  return found[nth] as number;
};
const repoint = (maddr: number, mfn: number): void => set(maddr, (lo) => (lo & 0xfff) | (mfn << 12));
/** Fills the processor's cache by an access of d1's kernel; the word index of the TLB entry. */
const cached = (access: 'read' | 'write' = 'write', vaddr = kernelVaddr): number => {
  expect(two.cpus[0].translate(vaddr, access, false).ok).toBe(true);
  return ((two.cpus[0].tlbBases[0] as number) + ((vaddr >>> 12) & 2047) * TLB_ENTRY_BYTES) >>> 2;
};
/** A descriptor in a frame that is typed as a descriptor table and checked. */
const descriptor = (hi: number, lo: number): void => {
  const mfn = idle(d1);
  hv.frames.type[mfn] = FRAME_TYPE.segDesc;
  hv.frames.typeCount[mfn] = 1;
  hv.frames.flags[mfn] = FRAME.allocated | FRAME.validated;
  hv.machine.writeU32(mfn * 4096 + 8, lo);
  hv.machine.writeU32(mfn * 4096 + 12, hi);
};
const activeGrant = (domain: Domain, gref: number, mfn: number, domId: number): void => {
  domain.grants.active[gref] = { pin: noPins(), domId, mfn, isSubPage: false, start: 0, length: 4096, sourceDomId: domain.domId, sourceGref: gref };
};

test('two domains as they were built pass every checker', () => {
  expect(checkAll(hv).map(violationText)).toEqual([]);
});

interface Corruption {
  readonly checker: CheckerName;
  readonly what: string;
  readonly says: RegExp;
  readonly corrupt: () => void;
}

const CORRUPTIONS: readonly Corruption[] = [
  { checker: 'counts', what: 'a reference too many', says: /2 are counted/, corrupt: () => { hv.frames.refCount[idle(d1)] = 2; } },
  { checker: 'counts', what: 'a type count too few', says: /0 are counted/, corrupt: () => { hv.frames.typeCount[l2(3)] = 0; } },
  { checker: 'counts', what: 'a writable entry that nobody counted', says: /uses as its type were found/, corrupt: () => { repoint(entryOf(), idle(d1)); } },
  { checker: 'counts', what: 'a pin that holds nothing', says: /references were found/, corrupt: () => { hv.frames.flags[l2(3)] = (hv.frames.flags[l2(3)] as number) | FRAME.pinned; } },
  { checker: 'counts', what: 'a base pointer that holds nothing', says: /references were found/, corrupt: () => { (d2.vcpus[0] as { userTableMfn: number }).userTableMfn = d2.vcpus[0]?.guestTableMfn as number; } },
  { checker: 'counts', what: 'a free frame with a reference', says: /belongs to nobody/, corrupt: () => { hv.frames.refCount[hv.frames.freeList[0] as number] = 1; } },
  { checker: 'counts', what: 'a frame on the free list that is in use', says: /on the free list/, corrupt: () => { hv.frames.freeList[0] = idle(d1); } },
  { checker: 'counts', what: 'a wrong total of frames', says: /frames were found/, corrupt: () => { d1.totPages++; } },
  { checker: 'exclusivity', what: 'a page table mapped writable', says: /mapped writable/, corrupt: () => { repoint(entryOf(), l2(3)); } },
  { checker: 'exclusivity', what: 'a GDT frame mapped writable', says: /mapped writable and is segDesc/, corrupt: () => { d1.vcpus[0]?.gdtFrames.push(hv.machine.readU32(entryOf()) >>> 12); } },
  { checker: 'exclusivity', what: 'a writable entry of a table to its own level', says: /writable at its own level/, corrupt: () => { set(l2(3) * 4096 + 100 * 8, () => (l2(3) << 12) | 0x63); } },
  { checker: 'exclusivity', what: 'a page table used as a page directory', says: /used as l1 and l2/, corrupt: () => { setSlot(0, l1()); } },
  { checker: 'entries', what: 'a large page', says: /flags that it may not have/, corrupt: () => { set(l2(3) * 4096, (lo) => lo | 0x80); } },
  { checker: 'entries', what: 'an uncached mapping', says: /flags that it may not have/, corrupt: () => { set(entryOf(), (lo) => lo | 0x10); } },
  { checker: 'entries', what: "another domain's frame without a grant", says: /frame of d2 without a grant/, corrupt: () => { repoint(entryOf(), idle(d2)); } },
  { checker: 'entries', what: "a writable mapping of what was granted for reading", says: /maps writable a frame of d2/, corrupt: () => { const mfn = idle(d2); activeGrant(d2, 9, mfn, 1); (d2.grants.active[9] as { pin: { hostRead: number } }).pin.hostRead = 1; repoint(entryOf(), mfn); } },
  { checker: 'entries', what: 'I/O space', says: /maps I\/O space/, corrupt: () => { repoint(entryOf(), 0xb8); } },
  { checker: 'entries', what: 'an address without RAM', says: /points to no RAM/, corrupt: () => { repoint(entryOf(), 0x80000); } },
  { checker: 'entries', what: 'a plain page in place of a page table', says: /no table of the level below/, corrupt: () => { repoint(l2(3) * 4096, idle(d1)); } },
  { checker: 'entries', what: "another domain's page table", says: /table of another owner/, corrupt: () => { const other = hv.machine.readU32((d2.vcpus[0]?.guestTableMfn as number) * 4096 + 3 * 8) >>> 12; setSlot(0, other); } },
  { checker: 'entries', what: 'a table in use that was never checked', says: /never checked/, corrupt: () => { hv.frames.flags[l1()] = (hv.frames.flags[l1()] as number) & ~FRAME.validated; } },
  { checker: 'entries', what: 'a chain of tables of one level', says: /maps a table of its own level and is mapped by one/, corrupt: () => {
    const [a, b] = [idle(d1), idle(d1, 1)];
    for (const mfn of [a, b]) {
      hv.frames.type[mfn] = FRAME_TYPE.l2;
      hv.frames.typeCount[mfn] = 1;
      hv.frames.flags[mfn] = FRAME.allocated | FRAME.validated;
    }
    hv.machine.writeU32(l2(3) * 4096 + 100 * 8, ((a << 12) | 0x61) >>> 0);
    hv.machine.writeU32(a * 4096, ((b << 12) | 0x61) >>> 0);
  } },
  { checker: 'descriptors', what: 'a code segment of ring 0', says: /segment of ring 0/, corrupt: () => { descriptor(0x00cf_9a00, 0xffff); } },
  { checker: 'descriptors', what: 'an interrupt gate', says: /type 14/, corrupt: () => { descriptor(0x0000_ee00, 0x0008_0000); } },
  { checker: 'descriptors', what: 'a call gate that works', says: /would pass/, corrupt: () => { descriptor(0x0000_ec00, 0x0019_0000); } },
  { checker: 'reservedSlots', what: "Xen's slot made writable for users", says: /is Xen's/, corrupt: () => { set(l2(3) * 4096 + 430 * 8, () => (idle(d1) << 12) | 0x67); } },
  { checker: 'reservedSlots', what: "a writable entry in Xen's table of the m2p", says: /is Xen's/, corrupt: () => { set((hv.xenTables.paeL1Mfns[0] as number) * 4096, (lo) => lo | 2); } },
  { checker: 'reservedSlots', what: 'a window on a frame that was given up', says: /is Xen's/, corrupt: () => { set((d1.perDomain?.l1Mfn as number) * 4096 + 20 * 8, () => (idle(d1) << 12) | 0x21); } },
  { checker: 'machineToPhys', what: 'two tables that disagree', says: /4-byte table/, corrupt: () => { set(hv.frames.m2p64Mfn * 4096 + idle(d1) * 8, (lo) => lo + 1); } },
  { checker: 'machineToPhys', what: 'a pfn for a frame that nobody has', says: /belongs to nobody/, corrupt: () => { hv.frames.setM2p(hv.frames.freeList[0] as number, 7); } },
  { checker: 'translations', what: 'a cached writable translation to a page table', says: /is a table/, corrupt: () => { hv.machine.u32[cached() + (TLB.maddr >> 2)] = l2(3) * 4096; } },
  { checker: 'translations', what: "a cached translation to another domain's frame", says: /has not granted/, corrupt: () => { hv.machine.u32[cached('read') + (TLB.maddr >> 2)] = idle(d2) * 4096; } },
  { checker: 'translations', what: "a cached translation to a frame of Xen's", says: /not shown/, corrupt: () => { const at = cached('read'); const arch = at + (TLB.arch >> 2); hv.machine.u32[arch] = (hv.machine.u32[arch] as number) & ~16; hv.machine.u32[at + (TLB.writeSup >> 2)] = 1; hv.machine.u32[at + (TLB.maddr >> 2)] = hv.xenTables.imageMfn * 4096; } },
  { checker: 'translations', what: 'a fast tag that allows users what the translation does not', says: /fast tag readUser/, corrupt: () => { hv.machine.u32[cached() + (TLB.readUser >> 2)] = kernelVaddr; } },
  { checker: 'eventChannels', what: 'a binding without its other side', says: /which is unbound/, corrupt: () => { bindPort(d1, 9, { kind: 'interdomain', remoteDomId: 2, remotePort: 8 }); bindPort(d2, 8, { kind: 'unbound', remoteDomId: 1 }); } },
  { checker: 'eventChannels', what: 'a binding to a domain that is gone', says: /does not exist/, corrupt: () => { bindPort(d1, 9, { kind: 'interdomain', remoteDomId: 7, remotePort: 8 }); } },
  { checker: 'eventChannels', what: 'a VIRQ that is listed at another port', says: /VIRQ 0/, corrupt: () => { bindPort(d1, 9, { kind: 'virq', virq: 0 }); setVirqPort(d1, 0, 0, 10); } },
  { checker: 'eventChannels', what: 'a port that was taken and never bound', says: /never bound/, corrupt: () => { bindPort(d1, 9, { kind: 'reserved' }); } },
  { checker: 'eventChannels', what: 'a vCPU that waits with an event to take', says: /waits although/, corrupt: () => { const vcpu = d1.vcpus[0] as { blocked: boolean; vcpuInfoMaddr: number }; vcpu.blocked = true; hv.machine.writeU8(vcpu.vcpuInfoMaddr, 1); hv.machine.writeU8(vcpu.vcpuInfoMaddr + 1, 0); } },
  { checker: 'grants', what: 'a use that no handle has', says: /counted: host 1 writable/, corrupt: () => { activeGrant(d1, 9, idle(d1), 2); (d1.grants.active[9] as { pin: { hostWrite: number } }).pin.hostWrite = 1; } },
  { checker: 'grants', what: 'more uses than eight bits can count', says: /more often than eight bits/, corrupt: () => { activeGrant(d1, 9, idle(d1), 2); (d1.grants.active[9] as { pin: { hostRead: number } }).pin.hostRead = 256; } },
  { checker: 'grants', what: 'a handle for a grant that is not in use', says: /which is not in use/, corrupt: () => { d2.grants.maptrack.push({ gref: 9, flags: 2, domId: 1, vcpuId: 0 }); } },
  { checker: 'grants', what: 'a handle that is in use and free', says: /in use and free/, corrupt: () => { d2.grants.maptrack.push({ gref: 9, flags: 2, domId: 1, vcpuId: 0 }); d2.grants.freeHandles.push(0); } },
  { checker: 'grants', what: 'a back end whose use was forgotten', says: /mappings found/, corrupt: () => { const answer = mapForBackend(hv, 1, 0, true); expect(answer.status).toBe(0); (d1.grants.active[0] as { pin: { hostRead: number } }).pin.hostRead = 0; } },
  { checker: 'endings', what: 'a frame of a domain that does not exist', says: /does not exist/, corrupt: () => { hv.frames.owner[idle(d1)] = 9; } },
  { checker: 'endings', what: 'a domain that has ended and keeps its tables', says: /still has base tables/, corrupt: () => { d1.life = { kind: 'destroyed' }; } },
];

describe('a corrupted system is noticed', () => {
  test.each(CORRUPTIONS)('$checker: $what', ({ checker, says, corrupt }) => {
    const watcher = new InvariantChecker(hv);
    expect(watcher.run()).toEqual([]);
    corrupt();
    const texts = watcher.run().filter((violation) => violation.checker === checker).map(violationText);
    expect(texts.join('\n')).toMatch(says);
  });

  test('no checker is without a corruption', () => {
    expect(CHECKERS.map(({ name }) => name).filter((name) => !CORRUPTIONS.some(({ checker }) => checker === name))).toEqual([]);
  });
});

test('checkers write nothing', () => {
  const before = hv.machine.u8.slice(0, hv.machine.ramBase + 2048 * 4096);
  checkAll(hv);
  // A loop, since a failing comparison of 16 MiB would take for ever to print. The survey's own buffers are not in the arena.
  expect(before.findIndex((byte, at) => byte !== hv.machine.u8[at])).toBe(-1);
});

test('a domain that has ended leaves nothing, whatever it held', () => {
  cached();
  destroyDomain(hv, d1);
  expect(checkAll(hv).map(violationText)).toEqual([]);
  expect(hv.domains.has(1)).toBe(false);
});

test("the toolstack's list of frames is the inverse of the machine-to-phys table", () => {
  const { p2m } = two.built[0];
  expect(p2mProblems(hv, d1, p2m)).toEqual([]);
  hv.frames.setM2p(p2m[5] as number, 6);
  expect(p2mProblems(hv, d1, p2m)).toHaveLength(1);
});
