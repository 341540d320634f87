// A network frontend on a DeviceHost: connects like Linux's, sends packets in as many slots as it is
// told, gathers what it receives. What it asserts is the protocol: every slot is answered once.
import { SRING, ringSlots } from '../../../src/abi/device-ring.ts';
import { NETRXF, NETTXF } from '../../../src/abi/netif.ts';
import { XENBUS_STATE } from '../../../src/abi/xenbus.ts';
import type { DeviceConfig } from '../../../src/dom0/device-spec.ts';
import { indexAdd } from '../../../src/abi/ring-index.ts';
import type { Packet } from '../../../src/dom0/net/packet.ts';
import type { DeviceHost } from '../device-host.ts';
import { PlainPage } from '../ring-page.ts';

export const vifConfig = (mac: string, deviceId = 0): DeviceConfig => ({ deviceClass: 'vif', deviceId, vif: { mac, bridge: 'br0' } });

export interface FrontOptions {
  readonly split?: boolean;
  readonly features?: Readonly<Record<string, number | string>>;
  readonly buffers?: number;
  /** Where the indices of both rings start: they wrap. */
  readonly firstIndex?: number;
}
export const LINUX_FEATURES = { 'request-rx-copy': 1, 'feature-rx-notify': 1, 'feature-sg': 1, 'feature-gso-tcpv4': 1, 'feature-gso-tcpv6': 1, 'feature-ipv6-csum-offload': 1 } as const;
/** GRUB's and mini-os's: the least that connects. */
export const PLAIN_FEATURES = { 'request-rx-copy': 1, 'feature-rx-notify': 1, 'feature-no-csum-offload': 1 } as const;

const F = SRING.fields;
const TX = { gref: 1, channel: 7, entry: 12, firstGref: 1000 } as const;
const RX = { gref: 2, channel: 8, entry: 8, firstGref: 5000 } as const;
export const TX_GREF = TX.gref;

export interface Slot {
  readonly gref: number;
  readonly offset: number;
  readonly flags: number;
  readonly size: number;
}

export class Netfront {
  readonly host: DeviceHost;
  readonly tx = new PlainPage();
  readonly rx = new PlainPage();
  readonly received: Packet[] = [];
  /** id → status of every answered slot that is no extra; extra slots by count. */
  readonly answers: { readonly id: number; readonly status: number }[] = [];
  nulls = 0;
  readonly #options: FrontOptions;
  #txProd: number;
  #rxProd: number;
  #txSeen: number;
  #rxSeen: number;
  #nextId = 0;
  #parts: Uint8Array[] = [];
  #first: Omit<Packet, 'bytes'> | undefined;
  readonly slots = ringSlots(4096, 12);

  constructor(host: DeviceHost, options: FrontOptions = {}) {
    this.host = host;
    this.#options = options;
    this.#txProd = this.#rxProd = this.#txSeen = this.#rxSeen = options.firstIndex ?? 0;
  }

  connect(): void {
    const { host } = this;
    const { split = true, features = LINUX_FEATURES, buffers = 64 } = this.#options;
    for (const page of [this.tx, this.rx]) {
      for (const field of [F.req_prod, F.rsp_prod]) page.writeU32(field.at, this.#txProd);
      for (const field of [F.req_event, F.rsp_event]) page.writeU32(field.at, indexAdd(this.#txProd, 1));
    }
    host.grant(TX.gref, this.tx);
    host.grant(RX.gref, this.rx);
    host.unbound.add(TX.channel).add(RX.channel);
    host.writeFront('tx-ring-ref', TX.gref);
    host.writeFront('rx-ring-ref', RX.gref);
    if (split) {
      host.writeFront('event-channel-tx', TX.channel);
      host.writeFront('event-channel-rx', RX.channel);
    } else host.writeFront('event-channel', TX.channel);
    for (const [name, value] of Object.entries(features)) host.writeFront(name, value);
    this.post(buffers);
    host.writeFront('state', XENBUS_STATE.connected);
    host.settle();
  }

  /** Offers so many more buffers; true: the back end wants to hear of it. */
  post(count: number): boolean {
    const old = this.#rxProd;
    for (let i = 0; i < count; i++) {
      const id = this.#rxProd % 256;
      const gref = RX.firstGref + id;
      this.host.grant(gref);
      const at = 64 + id * RX.entry;
      new DataView(this.rx.bytes.buffer).setUint16(at, id, true);
      this.rx.writeU32(at + 4, gref);
      this.#rxProd = indexAdd(this.#rxProd, 1);
    }
    this.rx.writeU32(F.req_prod.at, this.#rxProd);
    return (this.#rxProd - this.rx.readU32(F.req_event.at)) >>> 0 < (this.#rxProd - old) >>> 0;
  }

  get room(): number {
    return this.slots - ((this.#txProd - this.#txSeen) >>> 0);
  }

  /** Slots for a packet cut at these sizes (the last one takes the rest), at an offset. */
  slotsFor(packet: Packet, cuts: readonly number[] = [], offset = 0): Slot[] {
    const { bytes, checksum } = packet;
    const sizes: number[] = [];
    let left = bytes.length;
    for (let at = 0; left > 0; at++) {
      const size = Math.min(left, 4096 - offset, cuts[at] ?? 4096);
      sizes.push(size);
      left -= size;
    }
    let done = 0;
    const base = checksum === 'blank' ? NETTXF.csum_blank | NETTXF.data_validated : checksum === 'validated' ? NETTXF.data_validated : 0;
    return sizes.map((size, at) => {
      const gref = TX.firstGref + ((this.#txProd + at) % 256);
      const page = this.host.grant(gref, new PlainPage(), true);
      page.writeBytes(offset, bytes.subarray(done, done + size));
      done += size;
      const more = at < sizes.length - 1 ? NETTXF.more_data : 0;
      return { gref, offset, flags: (at === 0 ? base : 0) | more | (at === 0 && packet.gso !== undefined ? NETTXF.extra_info : 0), size: at === 0 ? bytes.length : size };
    });
  }

  send(packet: Packet, cuts: readonly number[] = [], offset = 0): void {
    const [first, ...rest] = this.slotsFor(packet, cuts, offset);
    this.request(first as Slot);
    if (packet.gso !== undefined) this.extra(1, 0, [packet.gso.size & 255, packet.gso.size >>> 8, packet.gso.type === 'tcpv4' ? 1 : 2]);
    for (const slot of rest) this.request(slot);
    this.push();
  }

  request({ gref, offset, flags, size }: Slot): number {
    const at = 64 + (this.#txProd % this.slots) * TX.entry;
    const view = new DataView(this.tx.bytes.buffer);
    const id = this.#nextId++ & 0xffff;
    view.setUint32(at, gref, true);
    [offset, flags, id, size].forEach((value, index) => view.setUint16(at + 4 + index * 2, value, true));
    this.#txProd = indexAdd(this.#txProd, 1);
    return id;
  }
  extra(type: number, flags: number, bytes: readonly number[]): void {
    this.tx.writeBytes(64 + (this.#txProd % this.slots) * TX.entry, Uint8Array.from([type, flags, ...bytes]));
    this.#txProd = indexAdd(this.#txProd, 1);
  }
  /** Shows the requests, and rings if the back end wants it. True: it rang. */
  push(): boolean {
    const old = this.tx.readU32(F.req_prod.at);
    this.tx.writeU32(F.req_prod.at, this.#txProd);
    const rings = (this.#txProd - this.tx.readU32(F.req_event.at)) >>> 0 < (this.#txProd - old) >>> 0;
    if (rings) this.host.kick();
    return rings;
  }

  /** Takes what was answered and received; asks to be notified of the next. */
  poll(repost = true): void {
    const produced = this.tx.readU32(F.rsp_prod.at);
    for (; this.#txSeen !== produced; this.#txSeen = indexAdd(this.#txSeen, 1)) {
      if ((this.#txProd - this.#txSeen) >>> 0 === 0) throw new Error('more answers than requests');
      const view = new DataView(this.tx.bytes.buffer, 64 + (this.#txSeen % this.slots) * TX.entry);
      const status = view.getInt16(2, true);
      if (status === 1) this.nulls++;
      else this.answers.push({ id: view.getUint16(0, true), status });
    }
    this.tx.writeU32(F.rsp_event.at, indexAdd(this.#txSeen, 1));
    let taken = 0;
    const given = this.rx.readU32(F.rsp_prod.at);
    while (this.#rxSeen !== given) {
      this.#takeRx();
      taken++;
    }
    this.rx.writeU32(F.rsp_event.at, indexAdd(this.#rxSeen, 1));
    if (repost && taken > 0 && this.post(taken)) this.host.kick();
  }

  #takeRx(): void {
    if ((this.#rxProd - this.#rxSeen) >>> 0 === 0) throw new Error('more received than buffers');
    const slot = this.#rxSeen % 256;
    this.#rxSeen = indexAdd(this.#rxSeen, 1);
    const at = 64 + slot * RX.entry;
    const view = new DataView(this.rx.bytes.buffer, at);
    const first = this.#first as (Packet & { pendingGso?: boolean; more?: boolean }) | undefined;
    if (first?.pendingGso === true) {
      if (view.getUint8(0) !== 1) throw new Error('an extra slot that is no gso');
      this.#first = { checksum: first.checksum, gso: { type: view.getUint8(4) === 1 ? 'tcpv4' : 'tcpv6', size: view.getUint16(2, true) } };
      if (first.more !== true) this.#finish();
      return;
    }
    const [id, offset, flags] = [view.getUint16(0, true), view.getUint16(2, true), view.getUint16(4, true)];
    const status = view.getInt16(6, true);
    if (id !== slot || status < 0) throw new Error(`buffer ${id} in slot ${slot} has status ${status}`);
    const page = this.host.grants.get(RX.firstGref + id)?.page as PlainPage;
    this.#parts.push(page.readBytes(offset, status));
    this.host.grants.delete(RX.firstGref + id);
    const more = (flags & NETRXF.more_data) !== 0;
    if (this.#parts.length === 1) {
      const checksum = (flags & NETRXF.csum_blank) !== 0 ? 'blank' : (flags & NETRXF.data_validated) !== 0 ? 'validated' : 'none';
      this.#first = { checksum, pendingGso: (flags & NETRXF.extra_info) !== 0, more } as Omit<Packet, 'bytes'>;
      if ((flags & NETRXF.extra_info) !== 0) return;
    }
    if (!more) this.#finish();
  }

  #finish(): void {
    const bytes = new Uint8Array(this.#parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of this.#parts) {
      bytes.set(part, at);
      at += part.length;
    }
    const { checksum = 'none', gso } = this.#first ?? {};
    this.received.push({ bytes, checksum, ...(gso === undefined ? {} : { gso }) });
    this.#parts = [];
    this.#first = undefined;
  }
}
