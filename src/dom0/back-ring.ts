// The back end's end of a device ring, over one or more granted pages. The guest owns the pages too:
// what decides is read once; indices that make no sense break the ring until it is connected anew.
// Source: xen/include/public/io/ring.h (BACK_RING_ATTACH, RING_PUSH_RESPONSES_AND_CHECK_NOTIFY).
import { ringSlots, SRING } from '../abi/device-ring.ts';
import { indexAdd, indexDistance } from '../abi/ring-index.ts';
import type { SharedPage } from './ports.ts';

const AT = { reqProd: SRING.fields.req_prod.at, reqEvent: SRING.fields.req_event.at, rspProd: SRING.fields.rsp_prod.at, rspEvent: SRING.fields.rsp_event.at } as const;

export interface BackRingState {
  /** Requests taken so far, and responses written so far: free-running. */
  reqCons: number;
  rspProd: number;
  broken: boolean;
}

export class BackRing {
  readonly slots: number;
  readonly #pages: readonly SharedPage[];
  readonly #entryBytes: number;
  readonly #state: BackRingState;

  /** `state`: a saved one; without it the ring is taken up where the shared page says responses stand. */
  constructor(pages: readonly SharedPage[], entryBytes: number, state?: BackRingState) {
    this.#pages = pages;
    this.#entryBytes = entryBytes;
    this.slots = ringSlots(pages.length * 4096, entryBytes);
    const rspProd = state?.rspProd ?? this.#header(AT.rspProd);
    this.#state = state === undefined ? { reqCons: rspProd, rspProd, broken: false } : { ...state };
  }

  get broken(): boolean {
    return this.#state.broken;
  }
  /** The index of the next request. */
  get nextRequest(): number {
    return this.#state.reqCons;
  }
  get nextResponse(): number {
    return this.#state.rspProd;
  }
  get unanswered(): number {
    return indexDistance(this.#state.rspProd, this.#state.reqCons);
  }

  #header(at: number): number {
    return (this.#pages[0] as SharedPage).readU32(at);
  }

  /** Requests that may be taken now. A producer further ahead than the ring has slots breaks the ring. */
  available(): number {
    if (this.#state.broken) return 0;
    const produced = this.#header(AT.reqProd);
    if (indexDistance(this.#state.rspProd, produced) > this.slots) {
      this.#state.broken = true;
      return 0;
    }
    // A producer that went backwards has nothing to take either.
    const waiting = indexDistance(this.#state.reqCons, produced);
    return waiting <= this.slots ? Math.min(waiting, this.slots - this.unanswered) : 0;
  }

  /** A copy of the next request; available() said that there is one. */
  take(): Uint8Array {
    const bytes = this.#read(this.#slotAt(this.#state.reqCons), this.#entryBytes);
    this.#state.reqCons = indexAdd(this.#state.reqCons, 1);
    return bytes;
  }

  /** Asks to be woken by the next request. True: one has come meanwhile. RING_FINAL_CHECK_FOR_REQUESTS. */
  finalCheck(): boolean {
    if (this.available() > 0) return true;
    if (this.#state.broken) return false;
    this.wantEvent();
    return this.available() > 0;
  }
  /** Wants to be woken by the next request; one that is there already wakes nobody. */
  wantEvent(): void {
    (this.#pages[0] as SharedPage).writeU32(AT.reqEvent, indexAdd(this.#state.reqCons, 1));
  }

  /** Writes a response; seen by the guest after push(). */
  put(bytes: Uint8Array): void {
    this.#write(this.#slotAt(this.#state.rspProd), bytes);
    this.#state.rspProd = indexAdd(this.#state.rspProd, 1);
  }

  /** Shows all responses to the guest. True: it wants to be notified. */
  push(): boolean {
    const page = this.#pages[0] as SharedPage;
    const old = page.readU32(AT.rspProd);
    page.writeU32(AT.rspProd, this.#state.rspProd);
    const event = page.readU32(AT.rspEvent);
    return indexDistance(event, this.#state.rspProd) < indexDistance(old, this.#state.rspProd);
  }

  #slotAt(index: number): number {
    return SRING.sizeBytes + (index % this.slots) * this.#entryBytes;
  }
  /** Slots may lie across the border of two pages. */
  #read(at: number, sizeBytes: number): Uint8Array {
    const bytes = new Uint8Array(sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const within = (at + done) % 4096;
      const chunk = Math.min(sizeBytes - done, 4096 - within);
      bytes.set((this.#pages[Math.floor((at + done) / 4096)] as SharedPage).readBytes(within, chunk), done);
      done += chunk;
    }
    return bytes;
  }
  #write(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const within = (at + done) % 4096;
      const chunk = Math.min(bytes.length - done, 4096 - within);
      (this.#pages[Math.floor((at + done) / 4096)] as SharedPage).writeBytes(within, bytes.subarray(done, done + chunk));
      done += chunk;
    }
  }

  save(): BackRingState {
    return { ...this.#state };
  }
}
