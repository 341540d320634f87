// What a guest receives: packets wait until the frontend has posted enough buffers, then go in whole.
//
//   first slot: bytes, flags │ one extra slot if it is a large segment │ further slots: bytes
//
// Too many bytes waiting, or waiting for too long: dropped, as Linux does. A frontend that does not
// say when it posts buffers (no feature-rx-notify) is looked after every 30 ms while something waits.
// Source: drivers/net/xen-netback/rx.c (xenvif_rx_action, xenvif_rx_queue_tail, xenvif_rx_ring_slots_available).
import { SRING } from '../abi/device-ring.ts';
import { NETIF_EXTRA, NETIF_EXTRA_TYPE, NETIF_GSO_TYPE, NETIF_RSP, NETIF_RX_REQUEST, NETIF_RX_RESPONSE, NETRXF } from '../abi/netif.ts';
import { indexAdd } from '../abi/ring-index.ts';
import type { BackRing } from './back-ring.ts';
import { restorePacket, savePacket, type Packet, type SavedPacket } from './net/packet.ts';
import type { SharedPage } from './ports.ts';

export interface RxPort {
  nowNs(): number;
  copyToGrant(gref: number, offset: number, bytes: Uint8Array): number;
  requested(index: number, id: number, gref: number): void;
  responded(index: number, id: number, flags: number, status: number): void;
  delivered(packet: Packet): void;
  dropped(why: string): void;
}

const PAGE_BYTES = 4096;
/** XEN_NETIF_RX_RING_SIZE pages. */
const MOST_QUEUED_BYTES = 256 * PAGE_BYTES;
const PATIENCE_NS = { notified: 10_000_000_000, polled: 30_000_000 } as const;
export const POLL_NS = PATIENCE_NS.polled;
/** RING_IDX of the producer, that the frontend moves. */
const REQ_PROD_AT = SRING.fields.req_prod.at;
const REQ_EVENT_AT = SRING.fields.req_event.at;

interface Waiting {
  readonly packet: Packet;
  readonly sinceNs: number;
}

export class RxQueue {
  readonly #port: RxPort;
  #waiting: Waiting[] = [];
  #bytes = 0;

  constructor(port: RxPort) {
    this.#port = port;
  }

  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  add(packet: Packet): void {
    if (this.#bytes >= MOST_QUEUED_BYTES) return this.#port.dropped(`${this.#bytes} bytes wait already`);
    this.#waiting.push({ packet, sinceNs: this.#port.nowNs() });
    this.#bytes += packet.bytes.length;
  }

  /** Delivers what there are buffers for. `page`: the ring's own. True: responses were written. */
  deliver(ring: BackRing, page: SharedPage, isNotified: boolean): boolean {
    let wrote = false;
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (ring.available() < slotsOf(first.packet)) {
        // The next buffer posted rings; the guest does not run meanwhile, so there is no second look.
        page.writeU32(REQ_EVENT_AT, indexAdd(page.readU32(REQ_PROD_AT), 1));
        break;
      }
      this.#shift();
      this.#put(ring, first.packet);
      wrote = true;
    }
    this.#expire(isNotified ? PATIENCE_NS.notified : PATIENCE_NS.polled);
    return wrote;
  }

  #shift(): void {
    this.#bytes -= (this.#waiting.shift() as Waiting).packet.bytes.length;
  }

  #expire(patienceNs: number): void {
    let count = 0;
    while (this.#waiting[0] !== undefined && this.#port.nowNs() - this.#waiting[0].sinceNs >= patienceNs) {
      this.#shift();
      count++;
    }
    if (count > 0) this.#port.dropped(`${count} packets found no buffer in time`);
  }

  #put(ring: BackRing, packet: Packet): void {
    const { bytes, checksum, gso } = packet;
    for (let from = 0; from < bytes.length; from += PAGE_BYTES) {
      const part = bytes.subarray(from, from + PAGE_BYTES);
      let flags = from + part.length < bytes.length ? NETRXF.more_data : 0;
      if (from === 0) {
        if (checksum === 'blank') flags |= NETRXF.csum_blank | NETRXF.data_validated;
        if (checksum === 'validated') flags |= NETRXF.data_validated;
        if (gso !== undefined) flags |= NETRXF.extra_info;
      }
      this.#putPart(ring, part, flags);
      if (from === 0 && gso !== undefined) this.#putGso(ring, gso);
    }
    this.#port.delivered(packet);
  }

  #takeRequest(ring: BackRing): { id: number; gref: number } {
    const index = ring.nextRequest;
    const bytes = ring.take();
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const request = { id: view.getUint16(NETIF_RX_REQUEST.fields.id.at, true), gref: view.getUint32(NETIF_RX_REQUEST.fields.gref.at, true) };
    this.#port.requested(index, request.id, request.gref);
    return request;
  }

  #putPart(ring: BackRing, part: Uint8Array, flags: number): void {
    const { id, gref } = this.#takeRequest(ring);
    const refused = this.#port.copyToGrant(gref, 0, part);
    const status = refused === 0 ? part.length : NETIF_RSP.error;
    const bytes = new Uint8Array(NETIF_RX_RESPONSE.sizeBytes);
    const view = new DataView(bytes.buffer);
    view.setUint16(NETIF_RX_RESPONSE.fields.id.at, id, true);
    view.setUint16(NETIF_RX_RESPONSE.fields.flags.at, flags, true);
    view.setInt16(NETIF_RX_RESPONSE.fields.status.at, status, true);
    this.#port.responded(ring.nextResponse, id, flags, status);
    ring.put(bytes);
  }

  /** The buffer whose slot it takes goes back unused. */
  #putGso(ring: BackRing, gso: NonNullable<Packet['gso']>): void {
    const { id } = this.#takeRequest(ring);
    const bytes = new Uint8Array(NETIF_EXTRA.sizeBytes);
    const view = new DataView(bytes.buffer);
    view.setUint8(NETIF_EXTRA.fields.type.at, NETIF_EXTRA_TYPE.gso);
    view.setUint16(NETIF_EXTRA.fields.gso_size.at, gso.size, true);
    view.setUint8(NETIF_EXTRA.fields.gso_type.at, gso.type === 'tcpv4' ? NETIF_GSO_TYPE.tcpv4 : NETIF_GSO_TYPE.tcpv6);
    this.#port.responded(ring.nextResponse, id, 0, NETIF_RSP.null);
    ring.put(bytes);
  }

  clear(): void {
    this.#waiting = [];
    this.#bytes = 0;
  }

  save(): unknown {
    return this.#waiting.map(({ packet, sinceNs }) => ({ packet: savePacket(packet), sinceNs }));
  }
  restore(state: unknown): void {
    this.#waiting = (state as { packet: SavedPacket; sinceNs: number }[]).map(({ packet, sinceNs }) => ({ packet: restorePacket(packet), sinceNs }));
    this.#bytes = this.#waiting.reduce((sum, { packet }) => sum + packet.bytes.length, 0);
  }
}

const slotsOf = (packet: Packet): number => Math.ceil(packet.bytes.length / PAGE_BYTES) + (packet.gso === undefined ? 0 : 1);
