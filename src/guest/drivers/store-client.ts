// xenbus: the guest's end of xenstore. Any number of threads may have a request under way; answers find
// them by number. Watches are flags that a thread looks at when it is woken.
//
//   request ──► ring ──► xenstored        writers take turns: a message goes into the ring in one piece
//   pump    ◄── ring ◄── xenstored        whoever waits takes what is there, for all
//
// A suspension waits until nothing is under way and holds up what comes (suspend, resume).
// Source: docs/misc/xenstore.txt, xen/include/public/io/xs_wire.h.
import { bytesToText, textToBytes } from '../../base/byte-text.ts';
import { indexAdd, indexDistance } from '../../abi/ring-index.ts';
import { XS, XS_HEADER, XS_RING, XS_RING_BYTES, xsOperationName } from '../../abi/xenstore.ts';
import type { Kernel } from '../kernel/kernel.ts';
import { BLOCK } from '../kernel/scheduler.ts';
import type { Task } from '../operations.ts';
import type { XenEvents } from '../xen/events.ts';
import { wordBytes, type XenState } from '../xen/state.ts';

const AT = XS_RING.fields;
const HEADER = XS_HEADER.fields;
/** Transactions that lose this often: something is wrong with the store. */
const MOST_TRIES = 1000;
/** What the store may say no for and agree to a little later: a permission that is not set yet, a quota that is used up. */
const PASSING: ReadonlySet<string> = new Set(['EACCES', 'ENOSPC', 'EQUOTA']);
const MOST_REFUSALS = 20;
const PAUSE_NS = 1_000_000;
/** Of no transaction, and not held up by a suspension either: its transaction has begun already, as far as that goes. */
const OUTSIDE = -1;

export type StoreReply = { readonly ok: true; readonly value: string } | { readonly ok: false; readonly error: string };

/** Something at or below the path changed since `fired` was cleared; set once at first. */
export interface StoreWatch {
  readonly path: string;
  readonly token: string;
  fired: boolean;
}

export class StoreClient {
  readonly #kernel: Kernel;
  readonly #xen: XenState;
  readonly #events: XenEvents;
  readonly #replies = new Map<number, StoreReply>();
  readonly #watches = new Map<string, StoreWatch>();
  #nextId = 1;
  #input = '';
  #writing = false;
  #underWay = 0;
  #suspending = false;

  constructor(kernel: Kernel, xen: XenState, events: XenEvents) {
    this.#kernel = kernel;
    this.#xen = xen;
    this.#events = events;
  }

  #ring(): Task<number> {
    return this.#xen.vaddrOfMfn(this.#xen.startInfo.storeMfn);
  }

  // -- requests -------------------------------------------------------------------------------------

  *request(type: number, payload: string, txId = 0): Task<StoreReply> {
    if (txId === 0) while (this.#suspending) yield BLOCK;
    this.#underWay++;
    const answer = yield* this.#exchange(type, payload, Math.max(txId, 0));
    this.#underWay--;
    if (this.#suspending) this.#kernel.scheduler.wakeThreads();
    return answer;
  }
  /** The same, asked again for a while if the store refuses what it may agree to later. */
  *#patiently(type: number, payload: string, txId = 0): Task<StoreReply> {
    for (let refusals = 1; ; refusals++) {
      const reply = yield* this.request(type, payload, txId);
      if (reply.ok || !PASSING.has(reply.error)) return reply;
      if (refusals === MOST_REFUSALS) {
        yield* this.#kernel.print(`xenstore refuses ${xsOperationName(type)} ${payload.split('\0')[0] ?? ''}: ${reply.error}`);
        return reply;
      }
      yield* this.#pause();
    }
  }
  *#pause(): Task {
    const untilNs = (yield* this.#events.now()) + PAUSE_NS;
    while ((yield* this.#events.now()) < untilNs) {
      this.#kernel.scheduler.wakeThreadsAt(untilNs);
      yield BLOCK;
    }
  }
  *#exchange(type: number, payload: string, txId: number): Task<StoreReply> {
    const id = this.#nextId++;
    while (this.#writing) yield BLOCK;
    this.#writing = true;
    yield* this.#send(bytesToText(wordBytes([type, id, txId, payload.length])) + payload);
    this.#writing = false;
    for (;;) {
      yield* this.pump();
      const reply = this.#replies.get(id);
      if (reply !== undefined) {
        this.#replies.delete(id);
        return reply;
      }
      yield BLOCK;
    }
  }

  *#send(text: string): Task {
    const { m } = this.#xen;
    const ring = yield* this.#ring();
    for (let done = 0; done < text.length; ) {
      const prod = yield m.load32(ring + AT.req_prod.at);
      const room = XS_RING_BYTES - indexDistance(yield m.load32(ring + AT.req_cons.at), prod);
      if (room === 0) {
        // What stands in the way may be answers that nobody takes.
        yield* this.pump();
        yield BLOCK;
        continue;
      }
      const at = prod % XS_RING_BYTES;
      const count = Math.min(text.length - done, room, XS_RING_BYTES - at);
      yield m.writeBytes(ring + AT.req.at + at, textToBytes(text.slice(done, done + count)));
      yield m.store32(ring + AT.req_prod.at, indexAdd(prod, count));
      yield* this.#events.send(this.#xen.startInfo.storePort);
      done += count;
    }
    // Those who wait for their turn to write.
    this.#kernel.scheduler.wakeThreads();
  }

  /** Takes what xenstored has sent. */
  *pump(): Task {
    const { m } = this.#xen;
    const ring = yield* this.#ring();
    for (;;) {
      const cons = yield m.load32(ring + AT.rsp_cons.at);
      const available = indexDistance(cons, yield m.load32(ring + AT.rsp_prod.at));
      if (available === 0) return;
      if (available > XS_RING_BYTES) return yield* this.#kernel.panic(`xenstore’s ring has ${available} bytes of answers, of ${XS_RING_BYTES}`);
      const at = cons % XS_RING_BYTES;
      const count = Math.min(available, XS_RING_BYTES - at);
      yield m.readBytes(ring + AT.rsp.at + at, count);
      this.#input += bytesToText(m.bytes);
      yield m.store32(ring + AT.rsp_cons.at, indexAdd(cons, count));
      // It was full, or became so meanwhile: xenstored waits to be told of room.
      if (indexDistance(cons, yield m.load32(ring + AT.rsp_prod.at)) >= XS_RING_BYTES) yield* this.#events.send(this.#xen.startInfo.storePort);
      this.#parse();
    }
  }

  #parse(): void {
    while (this.#input.length >= XS_HEADER.sizeBytes) {
      const head = new DataView(textToBytes(this.#input.slice(0, XS_HEADER.sizeBytes)).buffer);
      const end = XS_HEADER.sizeBytes + head.getUint32(HEADER.len.at, true);
      if (this.#input.length < end) return;
      const payload = this.#input.slice(XS_HEADER.sizeBytes, end);
      this.#input = this.#input.slice(end);
      this.#arrived(head.getUint32(HEADER.type.at, true), head.getUint32(HEADER.req_id.at, true), payload);
      this.#kernel.scheduler.wakeThreads();
    }
  }
  #arrived(type: number, id: number, payload: string): void {
    if (type === XS.WATCH_EVENT) {
      const watch = this.#watches.get(payload.split('\0')[1] ?? '');
      if (watch !== undefined) watch.fired = true;
    } else if (type === XS.ERROR) this.#replies.set(id, { ok: false, error: payload.split('\0')[0] ?? '' });
    else this.#replies.set(id, { ok: true, value: payload });
  }

  // -- what drivers ask -----------------------------------------------------------------------------

  /** undefined: it is not there, or not for us to see. */
  *read(path: string, txId = 0): Task<string | undefined> {
    const reply = yield* this.#patiently(XS.READ, `${path}\0`, txId);
    return reply.ok ? reply.value : undefined;
  }
  /** Names of what is below. */
  *list(path: string): Task<readonly string[]> {
    const reply = yield* this.#patiently(XS.DIRECTORY, `${path}\0`);
    return reply.ok ? reply.value.split('\0').slice(0, -1) : [];
  }
  *write(path: string, value: string, txId = 0): Task<StoreReply> {
    return yield* this.#patiently(XS.WRITE, `${path}\0${value}`, txId);
  }

  /** `body` once or more often, until nobody else has changed what it saw. The error that ended it, if one did. */
  *transaction(body: (txId: number) => Task<StoreReply>): Task<string | undefined> {
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      while (this.#suspending) yield BLOCK;
      // Open from here on, so that no suspension comes between.
      this.#underWay++;
      const outcome = yield* this.#tryTransaction(body);
      this.#underWay--;
      if (this.#suspending) this.#kernel.scheduler.wakeThreads();
      if (outcome !== 'EAGAIN') return outcome;
      // The planted mistake: it counts as carried out.
      if (this.#xen.options.planted === 'eagain-ignored') return undefined;
    }
    return 'EAGAIN';
  }
  *#tryTransaction(body: (txId: number) => Task<StoreReply>): Task<string | undefined> {
    const start = yield* this.#patiently(XS.TRANSACTION_START, '\0', OUTSIDE);
    if (!start.ok) return start.error;
    const txId = Number.parseInt(start.value, 10);
    const done = yield* body(txId);
    const end = yield* this.#exchange(XS.TRANSACTION_END, done.ok ? 'T\0' : 'F\0', txId);
    if (!done.ok) return done.error;
    return end.ok ? undefined : end.error;
  }

  *watch(path: string): Task<StoreWatch> {
    const watch: StoreWatch = { path, token: `w${this.#nextId++}`, fired: false };
    this.#watches.set(watch.token, watch);
    yield* this.#mustWatch(XS.WATCH, watch);
    return watch;
  }
  *unwatch(watch: StoreWatch): Task {
    this.#watches.delete(watch.token);
    yield* this.#mustWatch(XS.UNWATCH, watch);
  }
  *#mustWatch(type: number, { path, token }: StoreWatch): Task {
    const reply = yield* this.#patiently(type, `${path}\0${token}\0`);
    if (!reply.ok) yield* this.#kernel.panic(`xenstore refused ${xsOperationName(type)} ${path}: ${reply.error}`);
  }

  // -- suspension -----------------------------------------------------------------------------------

  /** Returns when nothing is under way; what comes then waits for resume(). */
  *suspend(): Task {
    this.#suspending = true;
    while (this.#underWay > 0) {
      yield* this.pump();
      if (this.#underWay > 0) yield BLOCK;
    }
  }
  /** After a restore: another xenstored, which knows none of our watches. */
  *resume(): Task {
    this.#input = '';
    this.#suspending = false;
    for (const watch of [...this.#watches.values()]) if (this.#watches.has(watch.token)) yield* this.#mustWatch(XS.WATCH, watch);
    this.#kernel.scheduler.wakeThreads();
  }
}
