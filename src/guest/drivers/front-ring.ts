// The frontend's half of a device's ring. Requests are put and then published together; answers are
// taken until there are none, and then looked for once more with the wish for an event set, since one
// that came in between would ring for nobody.
// Source: xen/include/public/io/ring.h.
import { indexAdd, indexDistance } from '../../abi/ring-index.ts';
import { ringSlots, SRING } from '../../abi/device-ring.ts';
import type { MachinePort, Task } from '../operations.ts';

const AT = { reqProd: SRING.fields.req_prod.at, reqEvent: SRING.fields.req_event.at, rspProd: SRING.fields.rsp_prod.at, rspEvent: SRING.fields.rsp_event.at } as const;

export class FrontRing {
  readonly #m: MachinePort;
  readonly #vaddr: number;
  readonly #entryBytes: number;
  readonly slots: number;
  #reqProd = 0;
  #published = 0;
  #rspCons = 0;
  /** The back end claims more answers than there were requests. */
  broken = false;

  /** One page of the direct map. */
  constructor(m: MachinePort, vaddr: number, entryBytes: number) {
    this.#m = m;
    this.#vaddr = vaddr;
    this.#entryBytes = entryBytes;
    this.slots = ringSlots(4096, entryBytes);
  }

  *init(): Task {
    yield this.#m.zeroPage(this.#vaddr);
    yield this.#m.store32(this.#vaddr + AT.reqEvent, 1);
    yield this.#m.store32(this.#vaddr + AT.rspEvent, 1);
  }

  get freeSlots(): number {
    return this.slots - indexDistance(this.#rspCons, this.#reqProd);
  }

  *put(entry: Uint8Array): Task {
    yield this.#m.writeBytes(this.#slot(this.#reqProd), entry);
    this.#reqProd = indexAdd(this.#reqProd, 1);
  }
  #slot(index: number): number {
    return this.#vaddr + SRING.sizeBytes + (index % this.slots) * this.#entryBytes;
  }

  /** Shows what was put. True: the back end wants to be told. */
  *publish(): Task<boolean> {
    const old = this.#published;
    const now = this.#reqProd;
    if (old === now) return false;
    yield this.#m.store32(this.#vaddr + AT.reqProd, now);
    this.#published = now;
    const wanted = yield this.#m.load32(this.#vaddr + AT.reqEvent);
    return indexDistance(wanted, now) < indexDistance(old, now);
  }

  /** The next answer's first `sizeBytes` bytes, undefined if there is none: then an event follows the next one. */
  *take(sizeBytes: number): Task<Uint8Array | undefined> {
    if (!(yield* this.#hasAnswer())) {
      yield this.#m.store32(this.#vaddr + AT.rspEvent, indexAdd(this.#rspCons, 1));
      if (!(yield* this.#hasAnswer())) return undefined;
    }
    yield this.#m.readBytes(this.#slot(this.#rspCons), sizeBytes);
    this.#rspCons = indexAdd(this.#rspCons, 1);
    return this.#m.bytes;
  }
  *#hasAnswer(): Task<boolean> {
    const prod = yield this.#m.load32(this.#vaddr + AT.rspProd);
    if (indexDistance(this.#rspCons, prod) > indexDistance(this.#rspCons, this.#published)) this.broken = true;
    return !this.broken && prod !== this.#rspCons;
  }
}
