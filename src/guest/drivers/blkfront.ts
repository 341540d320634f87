// blkfront: disks. A transfer of any size is split into requests of up to eleven pages, as many in flight as
// the ring has slots; each grants its pages and takes them back with the answer.
//
//   Disk.transfers ─► parts ─► ring ─► answer ─► the last part's answer ends the transfer
//                       ▲                 │
//                       └── asked again ◄─┴─ an error, up to a limit; or the connection went: in flight
//                                            is asked again over the next one
//
// A disk outlives its frontend: transfers wait while it is unplugged and go on when it is back.
// Source: xen/include/public/io/blkif.h. Not here: indirect segments, persistent grants, discard, several queues.
import { BLKIF_LAYOUTS, BLKIF_MAX_SEGMENTS, BLKIF_OP, BLKIF_RESPONSE, BLKIF_RSP, BLKIF_SEGMENT_BYTES } from '../../abi/blkif.ts';
import { XENBUS_STATE } from '../../abi/xenbus.ts';
import type { Task } from '../operations.ts';
import { Frontend, type RingPage } from './frontend.ts';
import { FrontRing } from './front-ring.ts';
import type { Machinery } from './machinery.ts';

const PROTOCOL = 'x86_32-abi';
const LAYOUT = BLKIF_LAYOUTS[PROTOCOL];
const SECTORS_PER_PAGE = 8;
/** How often a part is asked before its transfer has failed. */
const MOST_TRIES = 10;

/** Pages to or from the disk, or a flush without any. */
export interface Transfer {
  readonly operation: number;
  /** First page of the disk, and frames of memory. */
  readonly page: number;
  readonly pfns: readonly number[];
  /** Parts that have not been answered. */
  left: number;
  /** undefined: it is under way or went well. */
  failure: string | undefined;
}

interface Part {
  readonly transfer: Transfer;
  /** Pages [from, to) of the transfer. */
  readonly from: number;
  readonly to: number;
  tries: number;
}

interface InFlight {
  readonly part: Part;
  readonly grefs: readonly number[];
}

/** Pages that were to hold a pattern: for who compares what was promised with what is there. */
export interface WrittenPages {
  readonly transfer: Transfer;
  readonly value: number;
}

/** A disk by its name in dom0. */
export class Disk {
  readonly name: string;
  /** In the order in which it was asked. */
  readonly written: WrittenPages[] = [];
  readonly waiting: Part[] = [];
  /** Pages; 0 before it was first connected. */
  pages = 0;
  flushes = false;
  barriers = false;
  /** Its frontend, while it is plugged. */
  front: BlkFront | undefined;

  constructor(name: string) {
    this.name = name;
  }

  start(operation: number, page: number, pfns: readonly number[]): Transfer {
    const transfer: Transfer = { operation, page, pfns, left: 0, failure: undefined };
    for (let from = 0; from < pfns.length || (from === 0 && pfns.length === 0); from += BLKIF_MAX_SEGMENTS) {
      this.waiting.push({ transfer, from, to: Math.min(pfns.length, from + BLKIF_MAX_SEGMENTS), tries: 0 });
      transfer.left++;
    }
    return transfer;
  }
}

export class BlkFront extends Frontend {
  protected readonly readyState = XENBUS_STATE.initialised;
  readonly disk: Disk;
  #ring: FrontRing | undefined;
  /** By the number that the answer carries. */
  readonly #inFlight = new Map<number, InFlight>();
  #nextId = 0;

  constructor(machinery: Machinery, node: string, disk: Disk) {
    super(machinery, node);
    this.disk = disk;
    this.name = disk.name;
  }

  protected *setUp(): Task<readonly (readonly [string, string | number])[]> {
    const page: RingPage | undefined = yield* this.sharePage();
    if (page === undefined) return [];
    this.#ring = new FrontRing(this.machinery.m, page.vaddr, LAYOUT.entryBytes);
    yield* this.#ring.init();
    return [['ring-ref', page.gref], ['event-channel', this.port], ['protocol', PROTOCOL], ['feature-persistent', 0]];
  }

  protected *begin(): Task {
    const { disk } = this;
    disk.flushes = (yield* this.numberOfBackend('feature-flush-cache')) === 1;
    disk.barriers = (yield* this.numberOfBackend('feature-barrier')) === 1;
    // Last: jobs begin when they see it, and flush only what they know how to.
    disk.pages = Math.floor((yield* this.numberOfBackend('sectors')) / SECTORS_PER_PAGE);
  }

  protected get busy(): boolean {
    return this.#inFlight.size > 0;
  }

  protected *work(closing: boolean): Task {
    const ring = this.#ring as FrontRing;
    yield* this.#takeAnswers(ring);
    if (this.stale) return;
    while (!closing && ring.freeSlots > 0) {
      const part = this.disk.waiting[0];
      if (part === undefined || !(yield* this.#ask(ring, part))) break;
      this.disk.waiting.shift();
    }
    if (yield* ring.publish()) yield* this.machinery.notify(this.port);
  }

  /** False: there are not enough references. */
  *#ask(ring: FrontRing, part: Part): Task<boolean> {
    const { transfer, from, to } = part;
    const { grants } = this.machinery;
    const pfns = transfer.pfns.slice(from, to);
    // All or none: two disks that each hold a part of what the other waits for would wait for ever.
    if (!(yield* grants.enough(pfns.length))) return false;
    const grefs: number[] = [];
    for (const pfn of pfns) grefs.push((yield* grants.grant(pfn, 0, transfer.operation !== BLKIF_OP.READ)) as number);
    const id = this.#nextId++;
    const slot = new Uint8Array(LAYOUT.entryBytes);
    const view = new DataView(slot.buffer);
    view.setUint8(0, transfer.operation);
    view.setUint8(1, grefs.length);
    view.setUint32(LAYOUT.id, id, true);
    const sector = grefs.length === 0 ? 0 : (transfer.page + from) * SECTORS_PER_PAGE;
    view.setUint32(LAYOUT.sector, sector >>> 0, true);
    view.setUint32(LAYOUT.sector + 4, Math.floor(sector / 0x1_0000_0000), true);
    grefs.forEach((gref, index) => {
      view.setUint32(LAYOUT.segments + index * BLKIF_SEGMENT_BYTES, gref, true);
      view.setUint8(LAYOUT.segments + index * BLKIF_SEGMENT_BYTES + 5, SECTORS_PER_PAGE - 1);
    });
    part.tries++;
    this.#inFlight.set(id, { part, grefs });
    yield* ring.put(slot);
    return true;
  }

  *#takeAnswers(ring: FrontRing): Task {
    for (;;) {
      const bytes = yield* ring.take(LAYOUT.responseBytes);
      if (ring.broken) return yield* this.machinery.kernel.panic(`${this.name}: the back end answers more than it was asked`);
      if (bytes === undefined) return;
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const id = view.getUint32(BLKIF_RESPONSE.id, true);
      const asked = this.#inFlight.get(id);
      if (asked === undefined) return yield* this.machinery.kernel.panic(`${this.name}: the back end answers request ${id}, which is not under way`);
      this.#inFlight.delete(id);
      for (const gref of asked.grefs) if (!(yield* this.endGrant(gref))) yield* this.machinery.kernel.panic(`${this.name}: the back end keeps a page that it has answered for`);
      this.#answered(asked.part, view.getInt16(BLKIF_RESPONSE.status, true));
    }
  }

  #answered(part: Part, status: number): void {
    const { transfer } = part;
    if (status === BLKIF_RSP.ERROR && part.tries < MOST_TRIES) {
      this.disk.waiting.unshift(part);
      return;
    }
    if (status !== BLKIF_RSP.OKAY) transfer.failure ??= status === BLKIF_RSP.EOPNOTSUPP ? 'it cannot do that' : `the disk fails (${part.tries} times)`;
    transfer.left--;
    if (transfer.left === 0) this.machinery.wake();
  }

  /** In the order in which it was asked, before everything that waits. */
  protected *tearDown(granted: boolean): Task {
    const again: Part[] = [];
    for (const { part, grefs } of this.#inFlight.values()) {
      if (granted) for (const gref of grefs) yield* this.endGrant(gref);
      part.tries--;
      again.push(part);
    }
    this.#inFlight.clear();
    this.#ring = undefined;
    this.disk.waiting.unshift(...again);
  }
}
