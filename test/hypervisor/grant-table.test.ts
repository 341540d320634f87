// Grant tables beyond what the recordings hold: version 2, transitive and sub-page grants, transfers
// that succeed, replacing and swapping, limits. d1 runs, d2 grants.
import { describe, expect, test } from 'vitest';
import type { FaultName } from '../../src/abi/faults.ts';
import { entryMaddr, GTF, seedGrant, statusMaddr } from '../../src/hypervisor/grant-table.ts';
import { mapForBackend, readThroughGrant, unmapForBackend, writeThroughGrant } from '../../src/hypervisor/grant-table-backend.ts';
import { PTE } from '../../src/hypervisor/page-walk.ts';
import { KERNEL_VADDR, SCRATCH_VADDR } from '../../src/replay/conform-world.ts';
import { SmallGuest } from './small-guest.ts';

const GNTTAB = 20;
const OP = { map: 0, unmap: 1, setup: 2, transfer: 4, copy: 5, query: 6, replace: 7, set_version: 8, status_frames: 9, get_version: 10, swap: 11 } as const;
const HOST = 2;
const READ_ONLY = 4;
const SELF = 0x7ff0;
/** Address of window slot w`n`: an empty entry of scratch_l1. */
const window = (n: number): number => SCRATCH_VADDR + (16 + n) * 4096;

const signed16 = (value: number): number => (value << 16) >> 16;
/** Maps; the status and the handle. */
function map(guest: SmallGuest, at: number, gref: number, domId: number, flags = HOST): { status: number; handle: number } {
  expect(guest.call(GNTTAB, OP.map, guest.words(at, 0, flags, gref, domId, 0, 0, 0), 1)).toBe(0);
  return { status: signed16(guest.readWord(4) >>> 16), handle: guest.readWord(5) };
}
function unmap(guest: SmallGuest, at: number, handle: number): number {
  expect(guest.call(GNTTAB, OP.unmap, guest.words(at, 0, 0, 0, handle, 0), 1)).toBe(0);
  return signed16(guest.readWord(5));
}
const mfnOf = (guest: SmallGuest, name: string): number => guest.state.mfns.get(name) as number;
const counts = (guest: SmallGuest, name: string): [number, number] => {
  const { frames } = guest.state.hv;
  return [frames.refCount[mfnOf(guest, name)] as number, frames.typeCount[mfnOf(guest, name)] as number];
};
const entryOf = (guest: SmallGuest, slot: number): number => guest.state.hv.machine.readU32(mfnOf(guest, 'scratch_l1') * 4096 + slot * 8);

describe('mapping', () => {
  test('a writable mapping holds a reference and a type of the granter\'s frame, and shows in the entry', () => {
    const guest = new SmallGuest();
    const { hv, d2 } = guest.state;
    seedGrant(hv, d2, 20, 1, mfnOf(guest, 'foreign'));
    const before = counts(guest, 'foreign');
    const { status, handle } = map(guest, window(0), 20, 2);
    expect(status).toBe(0);
    expect(counts(guest, 'foreign')).toEqual([before[0] + 1, before[1] + 1]);
    expect(hv.machine.readU16(entryMaddr(d2.grants, 20))).toBe(GTF.permit_access | GTF.reading | GTF.writing);
    expect(entryOf(guest, 16)).toBe(((mfnOf(guest, 'foreign') << 12) | PTE.present | PTE.rw | 0x60) >>> 0);
    expect(unmap(guest, window(0), handle)).toBe(0);
    expect(counts(guest, 'foreign')).toEqual(before);
    expect(hv.machine.readU16(entryMaddr(d2.grants, 20))).toBe(GTF.permit_access);
    expect(entryOf(guest, 16)).toBe(0);
  });

  test('withdrawing the offer does not withdraw the mapping', () => {
    const guest = new SmallGuest();
    const { hv, d2 } = guest.state;
    seedGrant(hv, d2, 20, 1, mfnOf(guest, 'foreign'));
    const first = map(guest, window(0), 20, 2, HOST | READ_ONLY);
    hv.machine.writeU32(entryMaddr(d2.grants, 20), 0);
    // In use already: further mappings by the same domain need no offer.
    const second = map(guest, window(1), 20, 2, HOST | READ_ONLY);
    expect([first.status, second.status, map(guest, window(2), 20, 2).status]).toEqual([0, 0, 0]);
  });

  test('unmap_and_replace moves the entry of another address into the place', () => {
    const guest = new SmallGuest();
    const { hv, d2 } = guest.state;
    seedGrant(hv, d2, 20, 1, mfnOf(guest, 'foreign'));
    const { handle } = map(guest, window(0), 20, 2);
    const before = counts(guest, 'f3');
    expect(guest.call(GNTTAB, OP.replace, guest.words(window(0), 0, SCRATCH_VADDR + 3 * 4096, 0, handle, 0), 1)).toBe(0);
    expect(signed16(guest.readWord(5))).toBe(0);
    expect(entryOf(guest, 16) >>> 12).toBe(mfnOf(guest, 'f3'));
    expect(entryOf(guest, 3)).toBe(0);
    expect(counts(guest, 'f3')).toEqual(before);
    expect(unmap(guest, window(0), handle)).toBe(-4);
  });

  test('a count of uses stops before it can wrap', () => {
    const guest = new SmallGuest();
    const { hv, d2, vcpu } = guest.state;
    seedGrant(hv, d2, 20, 1, mfnOf(guest, 'foreign'));
    const table = mfnOf(guest, 'scratch_l1') * 4096;
    const status = Array.from({ length: 140 }, (_, i) => {
      const answer = map(guest, window(0), 20, 2, HOST | READ_ONLY).status;
      // The guest hides the entry from the next map in a frame of its own: only counts are of interest.
      if (answer === 0 && i < 200) hv.machine.writeU32(table + 16 * 8, 0);
      return answer;
    });
    expect(status.filter((value) => value === 0)).toHaveLength(128);
    expect(status.at(-1)).toBe(-1);
    expect(vcpu.domain.life.kind).toBe('running');
  });

  test('a batch that is preempted goes on with its next element', () => {
    const guest = new SmallGuest();
    const { hv, d2 } = guest.state;
    for (const gref of [20, 21, 22]) seedGrant(hv, d2, gref, 1, mfnOf(guest, 'foreign'));
    Object.assign(hv.world, { preempt: () => true });
    const list = guest.words(...[20, 21, 22].flatMap((gref, i) => [window(i), 0, HOST, gref, 2, 0, 0, 0]));
    const first = guest.outcome(GNTTAB, OP.map, list, 3);
    expect(first).toEqual({ kind: 'continuation', args: [OP.map, list + 32, 2] });
    const second = guest.outcome(GNTTAB, OP.map, list + 32, 2);
    expect(second).toEqual({ kind: 'continuation', args: [OP.map, list + 64, 1] });
    expect(guest.call(GNTTAB, OP.map, list + 64, 1)).toBe(0);
    expect([0, 1, 2].map((i) => guest.readWord(i * 8 + 5))).toEqual([0, 1, 2]);
  });
});

describe('version 2', () => {
  function version2(guest: SmallGuest): void {
    expect(guest.call(GNTTAB, OP.set_version, guest.words(2), 1)).toBe(0);
    expect(guest.readWord(0)).toBe(2);
  }
  /** d2's table becomes version 2 by its own record (it runs nothing). */
  function peerVersion2(guest: SmallGuest): void {
    const { d2, hv } = guest.state;
    d2.grants.version = 2;
    d2.grants.statusMfns.push(mfnOf(guest, 'foreign2'));
    hv.machine.fillFrame(d2.grants.sharedMfns[0] as number, 0);
  }
  function offerV2(guest: SmallGuest, gref: number, flags: number, domId: number, words: readonly [number, number, number]): void {
    const { hv, d2 } = guest.state;
    const at = entryMaddr(d2.grants, gref);
    hv.machine.writeU32(at, flags | (domId << 16));
    words.forEach((word, i) => hv.machine.writeU32(at + 4 + i * 4, word));
  }
  const copy = (guest: SmallGuest, gref: number, from: number, frame: number, to: number, size: number): number => {
    // source {ref, domid, offset}, dest {frame, domid, offset}, len, flags, status
    expect(guest.call(GNTTAB, OP.copy, guest.words(gref, 2 | (from << 16), frame, SELF | (to << 16), size | (1 << 16), 0), 1)).toBe(0);
    return signed16(guest.readWord(5));
  };

  test('the reserved entries survive the switch and back; status moves to its own frames', () => {
    const guest = new SmallGuest();
    const { hv, d1 } = guest.state;
    seedGrant(hv, d1, 1, 0, 0x123);
    hv.machine.writeU16(entryMaddr(d1.grants, 1), GTF.permit_access | GTF.reading);
    seedGrant(hv, d1, 9, 0, 0x456);
    version2(guest);
    expect(d1.grants.statusMfns).toHaveLength(1);
    expect(hv.machine.readU16(entryMaddr(d1.grants, 1))).toBe(GTF.permit_access);
    expect(hv.machine.readU16(statusMaddr(d1.grants, 1))).toBe(GTF.reading);
    expect(hv.machine.readU32(entryMaddr(d1.grants, 1) + 8)).toBe(0x123);
    expect(hv.machine.readU32(entryMaddr(d1.grants, 9))).toBe(0);
    expect(guest.call(GNTTAB, OP.set_version, guest.words(1), 1)).toBe(0);
    expect([hv.machine.readU16(entryMaddr(d1.grants, 1)), hv.machine.readU32(entryMaddr(d1.grants, 1) + 4)]).toEqual([GTF.permit_access | GTF.reading, 0x123]);
    expect(d1.grants.statusMfns).toEqual([]);
  });

  test('no way back while an entry does not fit, is in use, or the status frame is mapped', () => {
    const guest = new SmallGuest();
    const { hv, d1 } = guest.state;
    version2(guest);
    hv.machine.writeU16(entryMaddr(d1.grants, 2), GTF.transitive);
    expect(guest.call(GNTTAB, OP.set_version, guest.words(1), 1)).toBe(-34);
    hv.machine.writeU16(entryMaddr(d1.grants, 2), 0);
    expect(guest.call(14, window(0), ((d1.grants.statusMfns[0] as number) << 12) | 0x63, 0, 0)).toBe(0);
    expect(guest.call(GNTTAB, OP.set_version, guest.words(1), 1)).toBe(-16);
    expect(guest.readWord(0)).toBe(2);
    expect(guest.call(14, window(0), 0, 0, 2)).toBe(0);
    expect(guest.call(GNTTAB, OP.set_version, guest.words(1), 1)).toBe(0);
  });

  test('a grant of version 2 is mapped, and its use shows in the status word', () => {
    const guest = new SmallGuest();
    peerVersion2(guest);
    offerV2(guest, 20, GTF.permit_access, 1, [0, mfnOf(guest, 'foreign'), 0]);
    const { status, handle } = map(guest, window(0), 20, 2);
    const at = statusMaddr(guest.state.d2.grants, 20);
    expect([status, guest.state.hv.machine.readU16(at)]).toEqual([0, GTF.reading | GTF.writing]);
    expect(unmap(guest, window(0), handle)).toBe(0);
    expect(guest.state.hv.machine.readU16(at)).toBe(0);
  });

  test('a sub-page grant cannot be mapped; a copy stays inside the granted bytes', () => {
    const guest = new SmallGuest();
    const { hv } = guest.state;
    peerVersion2(guest);
    offerV2(guest, 20, GTF.permit_access | GTF.sub_page, 1, [100 | (50 << 16), mfnOf(guest, 'foreign'), 0]);
    hv.machine.writeU32(mfnOf(guest, 'foreign') * 4096 + 100, 0x1234_5678);
    expect(map(guest, window(0), 20, 2).status).toBe(-1);
    expect(copy(guest, 20, 100, mfnOf(guest, 'f0'), 8, 4)).toBe(0);
    expect(hv.machine.readU32(mfnOf(guest, 'f0') * 4096 + 8)).toBe(0x1234_5678);
    expect(copy(guest, 20, 99, mfnOf(guest, 'f0'), 8, 4)).toBe(-1);
    expect(copy(guest, 20, 148, mfnOf(guest, 'f0'), 8, 4)).toBe(-1);
    expect(guest.state.d2.grants.active).toEqual({});
  });

  test('a transitive grant is copied through one step, never mapped, never two steps', () => {
    const guest = new SmallGuest();
    const { hv, d1 } = guest.state;
    peerVersion2(guest);
    // d2 passes on to d1 what d1 itself granted to d2.
    seedGrant(hv, d1, 5, 2, mfnOf(guest, 'f4'));
    hv.machine.writeU32(mfnOf(guest, 'f4') * 4096, 0xcafe);
    offerV2(guest, 20, GTF.transitive, 1, [1, 5, 0]);
    expect(map(guest, window(0), 20, 2).status).toBe(-1);
    expect(copy(guest, 20, 0, mfnOf(guest, 'f0'), 0, 4)).toBe(0);
    expect(hv.machine.readU32(mfnOf(guest, 'f0') * 4096)).toBe(0xcafe);
    expect([d1.grants.active, guest.state.d2.grants.active]).toEqual([{}, {}]);
    expect(hv.machine.readU16(entryMaddr(d1.grants, 5))).toBe(GTF.permit_access);
    // A grant to oneself, and a second step.
    offerV2(guest, 21, GTF.transitive, 1, [2, 20, 0]);
    expect(copy(guest, 21, 0, mfnOf(guest, 'f0'), 0, 4)).toBe(-1);
  });

  test('status frames are listed, not beyond their number', () => {
    const guest = new SmallGuest();
    version2(guest);
    const list = guest.words(1, SELF, 0, 0, 0, 0) + 16;
    guest.state.hv.machine.writeU32(guest.maddr(8), list);
    expect(guest.call(GNTTAB, OP.status_frames, list - 16, 1)).toBe(0);
    expect([signed16(guest.readWord(1) >>> 16), guest.readWord(4)]).toEqual([0, guest.state.d1.grants.statusMfns[0]]);
    guest.state.hv.machine.writeU32(guest.maddr(0), 2);
    expect(guest.call(GNTTAB, OP.status_frames, list - 16, 1)).toBe(0);
    expect(signed16(guest.readWord(1) >>> 16)).toBe(-1);
  });
});

describe('transfer, swap, size', () => {
  test('a frame goes to the domain that accepts it, with its new number in both tables', () => {
    const guest = new SmallGuest();
    const { hv, d1, d2 } = guest.state;
    const mfn = mfnOf(guest, 'f2');
    expect(guest.call(14, SCRATCH_VADDR + 2 * 4096, 0, 0, 2)).toBe(0);
    seedGrant(hv, d2, 20, 1, 0x777);
    hv.machine.writeU16(entryMaddr(d2.grants, 20), GTF.accept_transfer);
    const before = [d1.totPages, d2.totPages];
    expect(guest.call(GNTTAB, OP.transfer, guest.words(mfn, 2, 20, 0), 1)).toBe(0);
    expect(signed16(guest.readWord(3))).toBe(0);
    expect(hv.frames.owner[mfn]).toBe(2);
    expect([d1.totPages, d2.totPages]).toEqual([(before[0] as number) - 1, (before[1] as number) + 1]);
    expect(hv.machine.readU32(entryMaddr(d2.grants, 20) + 4)).toBe(mfn);
    expect(hv.machine.readU16(entryMaddr(d2.grants, 20))).toBe(GTF.accept_transfer | GTF.transfer_committed | GTF.transfer_completed);
    expect(hv.frames.getM2p(mfn)).toBe(0x777);
  });

  test('a frame that is still mapped cannot be given away', () => {
    const guest = new SmallGuest();
    seedGrant(guest.state.hv, guest.state.d2, 20, 1, 0);
    guest.state.hv.machine.writeU16(entryMaddr(guest.state.d2.grants, 20), GTF.accept_transfer);
    expect(guest.call(GNTTAB, OP.transfer, guest.words(mfnOf(guest, 'f2'), 2, 20, 0), 1)).toBe(0);
    expect(signed16(guest.readWord(3))).toBe(-9);
    expect(guest.state.hv.frames.owner[mfnOf(guest, 'f2')]).toBe(1);
  });

  test('two offers change places, unless one is in use', () => {
    const guest = new SmallGuest();
    const { hv, d1 } = guest.state;
    seedGrant(hv, d1, 3, 1, mfnOf(guest, 'f3'));
    seedGrant(hv, d1, 4, 2, mfnOf(guest, 'f4'));
    const swap = (a: number, b: number): number => {
      expect(guest.call(GNTTAB, OP.swap, guest.words(a, b, 0), 1)).toBe(0);
      return signed16(guest.readWord(2));
    };
    expect(swap(3, 4)).toBe(0);
    expect(hv.machine.readU32(entryMaddr(d1.grants, 3) + 4)).toBe(mfnOf(guest, 'f4'));
    expect([swap(3, 3), swap(3, 512), swap(900, 3)]).toEqual([0, -3, -3]);
    expect(map(guest, window(0), 4, 1).status).toBe(0);
    expect(swap(3, 4)).toBe(-12);
  });

  test('the table grows to its limit, and its frames can be mapped writable', () => {
    const guest = new SmallGuest();
    const { d1 } = guest.state;
    const list = KERNEL_VADDR + 0x1000;
    const setup = (frames: number): number => {
      expect(guest.call(GNTTAB, OP.setup, guest.words(SELF, frames, 0, list), 1)).toBe(0);
      return signed16(guest.readWord(2));
    };
    expect([setup(64), setup(65)]).toEqual([0, -1]);
    expect(d1.grants.sharedMfns).toHaveLength(64);
    expect(guest.call(14, window(1), ((d1.grants.sharedMfns[63] as number) << 12) | 0x63, 0, 0)).toBe(0);
    expect(guest.call(GNTTAB, OP.query, guest.words(SELF, 0, 0, 0), 1)).toBe(0);
    expect([guest.readWord(1), guest.readWord(2)]).toEqual([64, 64]);
  });

  test.each<[FaultName, readonly [limit: number, grown: number]]>([['grant.limit', [1, 0]], ['grant.grow', [64, -1]]])('under %s the guest hears of [limit, growing] %j; what it has is not asked about', (fault, expected) => {
    const guest = new SmallGuest();
    const { hv, d1 } = guest.state;
    const asked: [string, number][] = [];
    Object.assign(hv.world, { fault: (name: FaultName, domId: number) => (asked.push([name, domId]), name === fault ? 1 : 0) });
    const query = (): number[] => (expect(guest.call(GNTTAB, OP.query, guest.words(SELF, 0, 0, 0), 1)).toBe(0), [guest.readWord(1), guest.readWord(2)]);
    const setup = (frames: number): number => (expect(guest.call(GNTTAB, OP.setup, guest.words(SELF, frames, 0, KERNEL_VADDR + 0x1000), 1)).toBe(0), signed16(guest.readWord(2)));
    const had = d1.grants.sharedMfns.length;
    expect(setup(had)).toBe(0);
    expect(asked).toEqual([]);
    expect(query()).toEqual([had, expected[0] === 64 ? 64 : had]);
    expect(setup(had + 1)).toBe(expected[1]);
    expect(d1.grants.sharedMfns).toHaveLength(expected[1] === 0 ? had + 1 : had);
    expect(asked).toEqual([['grant.limit', 1], ['grant.grow', 1]]);
  });
});

describe('back ends of dom0', () => {
  function offer(): SmallGuest {
    const guest = new SmallGuest();
    const { hv, d1 } = guest.state;
    seedGrant(hv, d1, 8, 0, mfnOf(guest, 'f0'));
    seedGrant(hv, d1, 9, 0, mfnOf(guest, 'f1'));
    hv.machine.writeU16(entryMaddr(d1.grants, 9), GTF.permit_access | GTF.readonly);
    seedGrant(hv, d1, 10, 2, mfnOf(guest, 'f2'));
    return guest;
  }

  test('a mapping keeps the frame from becoming a page table until it is given back', () => {
    const guest = offer();
    const { hv } = guest.state;
    const before = counts(guest, 'f0');
    expect(mapForBackend(hv, 1, 8, false)).toEqual({ status: 0, mfn: mfnOf(guest, 'f0') });
    expect(counts(guest, 'f0')).toEqual([before[0] + 1, before[1] + 1]);
    expect(hv.machine.readU16(entryMaddr(guest.state.d1.grants, 8))).toBe(GTF.permit_access | GTF.reading | GTF.writing);
    expect(unmapForBackend(hv, 1, 8, true)).toBe(false);
    expect(unmapForBackend(hv, 1, 8, false)).toBe(true);
    expect(counts(guest, 'f0')).toEqual(before);
    expect(guest.state.d1.grants.active).toEqual({});
  });

  test('only what was offered to domain 0, and only to read if it says so', () => {
    const guest = offer();
    const { hv } = guest.state;
    expect([mapForBackend(hv, 1, 9, false).status, mapForBackend(hv, 1, 9, true).status, mapForBackend(hv, 1, 10, true).status, mapForBackend(hv, 1, 600, true).status, mapForBackend(hv, 7, 8, true).status]).toEqual([-1, 0, -1, -3, -2]);
    expect(writeThroughGrant(hv, 1, 9, 0, Uint8Array.of(1))).toBe(-1);
  });

  test('copies go through the grant and leave nothing behind', () => {
    const guest = offer();
    const { hv, d1 } = guest.state;
    expect(writeThroughGrant(hv, 1, 8, 4090, Uint8Array.of(1, 2, 3, 4, 5, 6))).toBe(0);
    expect(readThroughGrant(hv, 1, 8, 4091, 5)).toEqual(Uint8Array.of(2, 3, 4, 5, 6));
    expect([readThroughGrant(hv, 1, 8, 4091, 6), readThroughGrant(hv, 1, 10, 0, 1), writeThroughGrant(hv, 1, 700, 0, Uint8Array.of(1))]).toEqual([-10, -1, -3]);
    expect(d1.grants.active).toEqual({});
  });

  test('a grant of a page table is read, not written', () => {
    const guest = offer();
    const { hv, d1 } = guest.state;
    seedGrant(hv, d1, 11, 0, mfnOf(guest, 'scratch_l1'));
    expect(readThroughGrant(hv, 1, 11, 0, 8)).toBeInstanceOf(Uint8Array);
    expect(writeThroughGrant(hv, 1, 11, 0, Uint8Array.of(1))).toBe(-1);
    expect(mapForBackend(hv, 1, 11, false).status).toBe(-1);
    expect(d1.grants.active).toEqual({});
  });
});
