// netfront: an interface with one queue. Received frames are copied by the back end into pages that we
// post; each page is granted while it is posted, and read before it is posted again. Sent frames lie in
// a page of their own until they are answered.
//
//   stack.out ─► page, grant ─► tx ring ─► answer ─► page free
//   rx ring ◄── page, grant ◄── 64 of them      frame ─► stack.frame ─► posted again
//
// When the connection goes, frames under way are lost, as on any wire.
// Source: xen/include/public/io/netif.h. Not here: offloads (the back end completes checksums and
// segments for us), several queues, page flipping.
import { NETIF_RX_REQUEST, NETIF_RX_RESPONSE, NETIF_TX_REQUEST, NETIF_TX_RESPONSE, NETRXF } from '../../abi/netif.ts';
import { XENBUS_STATE } from '../../abi/xenbus.ts';
import { pfnToVaddr } from '../kernel/page-tables.ts';
import type { Task } from '../operations.ts';
import { Frontend } from './frontend.ts';
import { FrontRing } from './front-ring.ts';
import type { Machinery } from './machinery.ts';
import type { NetStack } from './net-stack.ts';

const POSTED = 64;
const TX = NETIF_TX_REQUEST.fields;
const TX_ANSWER = NETIF_TX_RESPONSE.fields;
const RX = NETIF_RX_REQUEST.fields;
const RX_ANSWER = NETIF_RX_RESPONSE.fields;

interface GrantedFrame {
  readonly pfn: number;
  readonly gref: number;
}

export class NetFront extends Frontend {
  protected readonly readyState = XENBUS_STATE.connected;
  readonly stack: NetStack;
  #tx: FrontRing | undefined;
  #rx: FrontRing | undefined;
  readonly #sending = new Map<number, GrantedFrame>();
  readonly #posted = new Map<number, GrantedFrame>();
  #nextId = 0;
  /** Parts of a frame whose rest is still to come. */
  #parts: Uint8Array[] = [];

  constructor(machinery: Machinery, node: string, name: string, stack: NetStack) {
    super(machinery, node);
    this.name = name;
    this.stack = stack;
  }

  protected *setUp(): Task<readonly (readonly [string, string | number])[]> {
    const { m } = this.machinery;
    const tx = yield* this.sharePage();
    const rx = yield* this.sharePage();
    if (tx === undefined || rx === undefined) return [];
    this.#tx = new FrontRing(m, tx.vaddr, NETIF_TX_REQUEST.sizeBytes);
    this.#rx = new FrontRing(m, rx.vaddr, NETIF_RX_REQUEST.sizeBytes);
    yield* this.#tx.init();
    yield* this.#rx.init();
    return [
      ['tx-ring-ref', tx.gref], ['rx-ring-ref', rx.gref], ['event-channel', this.port], ['request-rx-copy', 1], ['feature-rx-notify', 1],
      ['feature-no-csum-offload', 1], ['feature-sg', 0], ['feature-gso-tcpv4', 0],
    ];
  }

  protected *begin(): Task {
    yield* this.work(false);
  }

  protected get busy(): boolean {
    return false;
  }

  protected *work(closing: boolean): Task {
    const tx = this.#tx as FrontRing;
    const rx = this.#rx as FrontRing;
    yield* this.#receive(rx);
    yield* this.#sent(tx);
    if (closing || this.stale) return;
    yield* this.#post(rx);
    while (tx.freeSlots > 0) {
      const frame = this.stack.out[0];
      if (frame === undefined || !(yield* this.#send(tx, frame))) break;
      this.stack.out.shift();
    }
    const ringTx = yield* tx.publish();
    if ((yield* rx.publish()) || ringTx) yield* this.machinery.notify(this.port);
  }

  *#granted(readOnly: boolean): Task<GrantedFrame | undefined> {
    const { kernel, grants } = this.machinery;
    const pfn = kernel.frames.take();
    if (pfn === undefined) return undefined;
    const gref = yield* grants.grant(pfn, 0, readOnly);
    if (gref !== undefined) return { pfn, gref };
    kernel.frames.put(pfn);
    return undefined;
  }

  // -- sending --------------------------------------------------------------------------------------

  *#send(tx: FrontRing, frame: Uint8Array): Task<boolean> {
    const page = yield* this.#granted(true);
    if (page === undefined) return false;
    yield this.machinery.m.writeBytes(pfnToVaddr(page.pfn), frame);
    const id = this.#nextId++ & 0xffff;
    const slot = new Uint8Array(NETIF_TX_REQUEST.sizeBytes);
    const view = new DataView(slot.buffer);
    view.setUint32(TX.gref.at, page.gref, true);
    view.setUint16(TX.id.at, id, true);
    view.setUint16(TX.size.at, frame.length, true);
    this.#sending.set(id, page);
    yield* tx.put(slot);
    return true;
  }

  *#sent(tx: FrontRing): Task {
    for (;;) {
      const bytes = yield* tx.take(NETIF_TX_RESPONSE.sizeBytes);
      if (bytes === undefined) return yield* this.#check(tx);
      const id = new DataView(bytes.buffer, bytes.byteOffset).getUint16(TX_ANSWER.id.at, true);
      yield* this.#takeBack(this.#sending, id);
    }
  }

  *#check({ broken }: FrontRing): Task {
    if (broken) yield* this.machinery.kernel.panic(`${this.name}: the back end answers more than it was asked`);
  }

  /** The page of an answered request, ours again; undefined: there is none, or the back end keeps it. */
  *#takeBack(from: Map<number, GrantedFrame>, id: number, read?: (vaddr: number) => Task): Task<boolean> {
    const { kernel } = this.machinery;
    const page = from.get(id);
    if (page === undefined) {
      yield* kernel.panic(`${this.name}: the back end answers request ${id}, which is not under way`);
      return false;
    }
    from.delete(id);
    if (!(yield* this.endGrant(page.gref))) return false;
    if (read !== undefined) yield* read(pfnToVaddr(page.pfn));
    kernel.frames.put(page.pfn);
    return true;
  }

  // -- receiving ------------------------------------------------------------------------------------

  *#post(rx: FrontRing): Task {
    while (this.#posted.size < POSTED) {
      const page = yield* this.#granted(false);
      if (page === undefined) return;
      const id = this.#nextId++ & 0xffff;
      const slot = new Uint8Array(NETIF_RX_REQUEST.sizeBytes);
      const view = new DataView(slot.buffer);
      view.setUint16(RX.id.at, id, true);
      view.setUint32(RX.gref.at, page.gref, true);
      this.#posted.set(id, page);
      yield* rx.put(slot);
    }
  }

  *#receive(rx: FrontRing): Task {
    for (;;) {
      const bytes = yield* rx.take(NETIF_RX_RESPONSE.sizeBytes);
      if (bytes === undefined) return yield* this.#check(rx);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const flags = view.getUint16(RX_ANSWER.flags.at, true);
      const offset = view.getUint16(RX_ANSWER.offset.at, true);
      const status = view.getInt16(RX_ANSWER.status.at, true);
      if ((flags & NETRXF.extra_info) !== 0) return yield* this.machinery.kernel.panic(`${this.name}: the back end sends extra information that was not asked for`);
      const { m } = this.machinery;
      const parts = this.#parts;
      yield* this.#takeBack(this.#posted, view.getUint16(RX_ANSWER.id.at, true), function* (vaddr) {
        if (status <= 0 || offset + status > 4096) return;
        yield m.readBytes(vaddr + offset, status);
        parts.push(m.bytes.slice());
      });
      if ((flags & NETRXF.more_data) !== 0) continue;
      this.#parts = [];
      if (parts.length === 0) continue;
      this.stack.frame(joined(parts));
      this.machinery.wake();
    }
  }

  protected *tearDown(granted: boolean): Task {
    for (const pages of [this.#sending, this.#posted]) {
      for (const { pfn, gref } of pages.values()) if (!granted || (yield* this.endGrant(gref))) this.machinery.kernel.frames.put(pfn);
      pages.clear();
    }
    this.#parts = [];
    this.#tx = this.#rx = undefined;
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0] as Uint8Array;
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}
