// xenstored's end of one domain's ring: bytes in, messages to the engine, messages out, bytes back.
// The guest owns the page too, so indices are read once and checked; nonsense makes the daemon
// ignore the domain for good, and the ring's error field says why.
//
//   run()  ── take what is there ─► whole messages ─► Xenstored.handle ─► give back what fits ─► notify
//
// Source: tools/xenstored/domain.c (readchn, writechn, ignore_connection), core.c (handle_input).
import { bytesToText, textToBytes } from '../base/byte-text.ts';
import { EVENT } from '../abi/events.ts';
import { indexAdd, indexDistance } from '../abi/ring-index.ts';
import { XS, XS_FEATURE, XS_HEADER, XS_PAYLOAD_MAX, XS_RING, XS_RING_BYTES, XS_RING_ERROR } from '../abi/xenstore.ts';
import type { RingPort } from './ports.ts';
import type { StoreConnection, StoreMessage } from './store-state.ts';
import type { Xenstored } from './xenstored.ts';

const AT = {
  req: XS_RING.fields.req.at, rsp: XS_RING.fields.rsp.at, reqCons: XS_RING.fields.req_cons.at, reqProd: XS_RING.fields.req_prod.at,
  rspCons: XS_RING.fields.rsp_cons.at, rspProd: XS_RING.fields.rsp_prod.at, features: XS_RING.fields.server_features.at, error: XS_RING.fields.error.at,
} as const;

/** What a slow daemon takes longer for all that it has to say, events of watches too, times the fault's argument. */
const SLOW_NS = 100_000;

interface RingState {
  /** Bytes of a request that is not whole yet. */
  input: string;
  /** Bytes of a message that did not fit into the ring yet. */
  output: string;
  /** Why the domain is ignored; 0 = it is not. */
  ignored: number;
  /** Until then it takes and gives nothing, whoever rings. */
  slowUntilNs?: number;
}

export class StoreRing {
  readonly domId: number;
  readonly #store: Xenstored;
  readonly #port: RingPort;
  #state: RingState = { input: '', output: '', ignored: 0 };

  /** The domain has been introduced already. */
  constructor(store: Xenstored, domId: number, port: RingPort) {
    this.#store = store;
    this.domId = domId;
    this.#port = port;
  }

  /** Says what this daemon can; once, when the page has been mapped. */
  connect(): void {
    this.#port.page.writeU32(AT.features, XS_FEATURE.error | XS_FEATURE.watchDepth | XS_FEATURE.domidAny);
  }

  /** The guest rang, or watches of this domain have fired. */
  run(): void {
    const connection = this.#store.connection(this.domId);
    if (connection === undefined) return;
    if (this.#isSlow()) return;
    let moved = false;
    for (let goesOn = true; goesOn && this.#state.ignored === 0; ) {
      goesOn = this.#takeRequest(connection);
      if (goesOn) moved = true;
      if (this.#give(connection)) moved = goesOn = true;
    }
    if (moved) this.#port.notify();
  }

  /** What waits when the delay is over is not delayed again. */
  #isSlow(): boolean {
    const { slowUntilNs } = this.#state;
    if (slowUntilNs !== undefined) {
      if (this.#port.nowNs() < slowUntilNs) return true;
      delete this.#state.slowUntilNs;
      return false;
    }
    const slow = this.#port.fault?.('xenstore.slow') ?? 0;
    if (slow === 0) return false;
    this.#state.slowUntilNs = this.#port.nowNs() + slow * SLOW_NS;
    this.#port.scheduleRun(slow * SLOW_NS);
    return true;
  }

  /** Events wait for this domain (another one's request made them). */
  hasOutput(): boolean {
    const connection = this.#store.connection(this.domId);
    return this.#state.ignored === 0 && (this.#state.output !== '' || (connection !== undefined && connection.out.length > 0));
  }

  /** Takes what the ring has of the request under way; carries it out if it is whole. False: nothing to take. */
  #takeRequest(connection: StoreConnection): boolean {
    const replies = connection.out.reduce((count, row) => count + (row.type === XS.WATCH_EVENT ? 0 : 1), 0);
    if (this.domId !== 0 && replies >= this.#store.quotas.outstanding) return false;
    const wanted = this.#wantedBytes();
    const bytes = this.#readRing(wanted - this.#state.input.length);
    if (bytes === '') return false;
    this.#state.input += bytes;
    if (this.#state.input.length < XS_HEADER.sizeBytes) return true;
    // A length that no message may have is noticed with the header: the rest will never come.
    const header = headerOf(this.#state.input);
    if (header.length > XS_PAYLOAD_MAX) {
      this.#ignore(XS_RING_ERROR.protocol, connection);
      return false;
    }
    if (this.#state.input.length < XS_HEADER.sizeBytes + header.length) return true;
    const payload = this.#state.input.slice(XS_HEADER.sizeBytes);
    this.#state.input = '';
    const message: StoreMessage = { type: header.type, reqId: header.reqId, txId: header.txId, payload };
    this.#port.emit(EVENT.xenstoreRequest, [message.type, message.reqId, message.txId], textToBytes(payload));
    this.#store.handle(connection, message);
    return true;
  }

  /** Length of the message under way as far as it is known: the header first. */
  #wantedBytes(): number {
    const { input } = this.#state;
    return input.length < XS_HEADER.sizeBytes ? XS_HEADER.sizeBytes : XS_HEADER.sizeBytes + headerOf(input).length;
  }

  #readRing(most: number): string {
    const { page } = this.#port;
    const cons = page.readU32(AT.reqCons);
    const available = indexDistance(cons, page.readU32(AT.reqProd));
    if (available > XS_RING_BYTES) {
      this.#ignore(XS_RING_ERROR.ringIndex, this.#store.connection(this.domId));
      return '';
    }
    const count = Math.min(available, most);
    let text = '';
    for (let done = 0; done < count; ) {
      const at = indexAdd(cons, done) % XS_RING_BYTES;
      const chunk = Math.min(count - done, XS_RING_BYTES - at);
      text += bytesToText(page.readBytes(AT.req + at, chunk));
      done += chunk;
    }
    if (count > 0) page.writeU32(AT.reqCons, indexAdd(cons, count));
    return text;
  }

  /** Puts waiting bytes into the ring. True: at least one went. */
  #give(connection: StoreConnection): boolean {
    if (this.#state.ignored !== 0) return false;
    let gave = false;
    for (;;) {
      if (this.#state.output === '') {
        const next = connection.out.shift();
        if (next === undefined) return gave;
        this.#logOutput(next);
        this.#state.output = messageText(next);
      }
      const { page } = this.#port;
      const prod = page.readU32(AT.rspProd);
      const used = indexDistance(page.readU32(AT.rspCons), prod);
      if (used > XS_RING_BYTES) {
        this.#ignore(XS_RING_ERROR.ringIndex, connection);
        return gave;
      }
      const count = Math.min(XS_RING_BYTES - used, this.#state.output.length);
      if (count === 0) return gave;
      for (let done = 0; done < count; ) {
        const at = indexAdd(prod, done) % XS_RING_BYTES;
        const chunk = Math.min(count - done, XS_RING_BYTES - at);
        page.writeBytes(AT.rsp + at, textToBytes(this.#state.output.slice(done, done + chunk)));
        done += chunk;
      }
      page.writeU32(AT.rspProd, indexAdd(prod, count));
      this.#state.output = this.#state.output.slice(count);
      gave = true;
    }
  }

  #logOutput(message: StoreMessage): void {
    const payload = textToBytes(message.payload);
    if (message.type === XS.WATCH_EVENT) this.#port.emit(EVENT.xenstoreWatch, [], payload);
    else this.#port.emit(EVENT.xenstoreReply, [message.type, message.reqId, message.txId], payload);
  }

  /** The domain broke the protocol: nothing it says is heard any more. */
  #ignore(reason: number, connection: StoreConnection | undefined): void {
    this.#state = { input: '', output: '', ignored: reason };
    this.#port.page.writeU32(AT.error, reason);
    if (connection !== undefined) Object.assign(connection, { watches: [], transactions: [], out: [] });
  }

  /** JSON-serialisable; the engine saves the rest. */
  save(): unknown {
    return { ...this.#state };
  }
  restore(state: unknown): void {
    this.#state = { ...(state as RingState) };
  }
}

function headerOf(text: string): { type: number; reqId: number; txId: number; length: number } {
  const view = new DataView(textToBytes(text.slice(0, XS_HEADER.sizeBytes)).buffer);
  const field = (name: keyof typeof XS_HEADER.fields): number => view.getUint32(XS_HEADER.fields[name].at, true);
  return { type: field('type'), reqId: field('req_id'), txId: field('tx_id'), length: field('len') };
}

function messageText(message: StoreMessage): string {
  const bytes = new Uint8Array(XS_HEADER.sizeBytes);
  const view = new DataView(bytes.buffer);
  [message.type, message.reqId, message.txId, message.payload.length].forEach((value, index) => view.setUint32(index * 4, value, true));
  return bytesToText(bytes) + message.payload;
}
