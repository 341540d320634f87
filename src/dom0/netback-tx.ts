// What a guest sends: requests from its tx ring, one packet at a time, each in one slot or several,
// with extra slots behind the first.
//
//   [first: whole size, flags] [extra]… [next: offset, size, more?]… ─► copy ─► packet ─► one response a slot
//
// Three ends: 'sent' or 'dropped' (the slots are answered), or a reason why nothing that this frontend
// says can be believed any more: then the interface is shut, as Linux's netback does.
// Source: drivers/net/xen-netback/netback.c (xenvif_tx_build_gops, xenvif_count_requests,
// xenvif_get_extras, xenvif_set_skb_gso, xenvif_tx_check_gop, make_tx_response).
import {
  NETIF_EXTRA, NETIF_EXTRA_FLAG_MORE, NETIF_EXTRA_TYPE, NETIF_EXTRA_TYPE_MAX, NETIF_GSO_TYPE, NETIF_MCAST_ADDRESS_AT, NETIF_RSP, NETIF_SLOTS_MIN, NETIF_TX_REQUEST, NETIF_TX_RESPONSE, NETTXF,
} from '../abi/netif.ts';
import type { BackRing } from './back-ring.ts';
import { ETHER, macAt, type Packet } from './net/packet.ts';

export interface TxRequest {
  /** The free-running index of its slot. */
  readonly index: number;
  readonly gref: number;
  readonly offset: number;
  readonly flags: number;
  readonly id: number;
  /** Of the first slot: of the whole packet. */
  readonly size: number;
}

export interface TxPort {
  copyFromGrant(gref: number, offset: number, sizeBytes: number): Uint8Array | number;
  requested(request: TxRequest): void;
  requestedExtra(index: number, type: number): void;
  responded(index: number, id: number, status: number): void;
  /** Multicast addresses the frontend wants to hear, or not any more; false: there are too many. */
  multicast(mac: number, wanted: boolean): boolean;
  sent(packet: Packet): void;
  dropped(why: string): void;
}

const REQ = NETIF_TX_REQUEST.fields;
const PAGE_BYTES = 4096;
/** A frontend that uses more is taken for a malicious one: Linux's fatal_skb_slots. */
const FATAL_SLOTS = 20;

type Extras = ReadonlyMap<number, Uint8Array>;

function parse(bytes: Uint8Array, index: number): TxRequest {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const u16 = (at: number): number => view.getUint16(at, true);
  return { index, gref: view.getUint32(REQ.gref.at, true), offset: u16(REQ.offset.at), flags: u16(REQ.flags.at), id: u16(REQ.id.at), size: u16(REQ.size.at) };
}

/** Takes one packet, or one request about multicast addresses, out of the ring, in which there is something. A text: the frontend is broken. */
export function takePacket(ring: BackRing, port: TxPort): string | undefined {
  let left = ring.available();
  const next = (): TxRequest => {
    const index = ring.nextRequest;
    const request = parse(ring.take(), index);
    left--;
    port.requested(request);
    return request;
  };
  const first = next();
  const extras = new Map<number, Uint8Array>();
  let extraCount = 0;
  if ((first.flags & NETTXF.extra_info) !== 0) {
    const taken = takeExtras(ring, port, extras, left);
    if (typeof taken === 'string') return taken;
    extraCount = taken;
    left -= taken;
  }
  const multicast = extras.get(NETIF_EXTRA_TYPE.mcast_add) ?? extras.get(NETIF_EXTRA_TYPE.mcast_del);
  if (multicast !== undefined) {
    const done = port.multicast(macAt(multicast, NETIF_MCAST_ADDRESS_AT), extras.has(NETIF_EXTRA_TYPE.mcast_add));
    respond(ring, port, first, done ? NETIF_RSP.okay : NETIF_RSP.error, extraCount);
    return undefined;
  }
  const slots = [first];
  let rest = first.size;
  let drop: string | undefined;
  for (let more = (first.flags & NETTXF.more_data) !== 0; more; ) {
    // As Linux counts them: the first slot is not among these.
    const further = slots.length - 1;
    if (left === 0) return `asked for more than the ${further} further slots there are`;
    if (further >= FATAL_SLOTS) return `malicious frontend using ${further} slots, threshold ${FATAL_SLOTS}`;
    if (further >= NETIF_SLOTS_MIN) drop ??= `too many slots (${further}) exceeding limit (${NETIF_SLOTS_MIN}), dropping packet`;
    const slot = next();
    if (slot.size > rest) drop ??= `invalid tx request, slot size ${slot.size} > remaining size ${rest}`;
    rest -= slot.size;
    if (slot.offset + slot.size > PAGE_BYTES) return `cross page boundary, offset: ${slot.offset}, size: ${slot.size}`;
    slots.push(slot);
    more = (slot.flags & NETTXF.more_data) !== 0;
  }
  if (drop === undefined && rest < ETHER.headerBytes) drop = `bad packet size: ${rest}`;
  if (drop === undefined && first.offset + rest > PAGE_BYTES) return `first.offset: ${first.offset}, size: ${rest} cross a page`;
  const gso = gsoOf(extras);
  if (drop === undefined && typeof gso === 'string') return gso;
  if (drop === undefined) drop = copy(ring, port, slots, rest, extraCount, typeof gso === 'string' ? undefined : gso);
  else slots.forEach((slot, at) => respond(ring, port, slot, NETIF_RSP.error, at === 0 ? extraCount : 0));
  if (drop !== undefined) port.dropped(drop);
  return undefined;
}

/** The slots behind the first that say more about the packet, by type (the last of each counts); how many they are. */
function takeExtras(ring: BackRing, port: TxPort, extras: Map<number, Uint8Array>, left: number): string | number {
  for (let taken = 1; ; taken++) {
    if (taken > left) return 'missing extra info';
    const index = ring.nextRequest;
    const bytes = ring.take();
    const type = bytes[NETIF_EXTRA.fields.type.at] as number;
    if (type === NETIF_EXTRA_TYPE.none || type >= NETIF_EXTRA_TYPE_MAX) return `invalid extra type: ${type}`;
    port.requestedExtra(index, type);
    extras.set(type, bytes);
    if (((bytes[NETIF_EXTRA.fields.flags.at] as number) & NETIF_EXTRA_FLAG_MORE) === 0) return taken;
  }
}

function gsoOf(extras: Extras): Packet['gso'] | string {
  const bytes = extras.get(NETIF_EXTRA_TYPE.gso);
  if (bytes === undefined) return undefined;
  const size = (bytes[NETIF_EXTRA.fields.gso_size.at] as number) | ((bytes[NETIF_EXTRA.fields.gso_size.at + 1] as number) << 8);
  const type = bytes[NETIF_EXTRA.fields.gso_type.at] as number;
  if (size === 0) return 'GSO size must not be zero';
  if (type === NETIF_GSO_TYPE.tcpv4) return { type: 'tcpv4', size };
  return type === NETIF_GSO_TYPE.tcpv6 ? { type: 'tcpv6', size } : `bad GSO type ${type}`;
}

/** Copies the bytes out of the grants and answers all slots. A text: why there is no packet. */
function copy(ring: BackRing, port: TxPort, slots: readonly TxRequest[], firstSize: number, extraCount: number, gso: Packet['gso'] | undefined): string | undefined {
  const parts = slots.map((slot, at) => port.copyFromGrant(slot.gref, slot.offset, at === 0 ? firstSize : slot.size));
  slots.forEach((slot, at) => respond(ring, port, slot, typeof parts[at] === 'number' ? NETIF_RSP.error : NETIF_RSP.okay, at === 0 ? extraCount : 0));
  const bad = parts.findIndex((part) => typeof part === 'number');
  if (bad >= 0) return `grant copy failed! status: ${parts[bad] as number} ref: ${(slots[bad] as TxRequest).gref}`;
  const bytes = new Uint8Array((slots[0] as TxRequest).size);
  let at = 0;
  for (const part of parts as Uint8Array[]) {
    bytes.set(part, at);
    at += part.length;
  }
  const { flags } = slots[0] as TxRequest;
  const checksum = (flags & NETTXF.csum_blank) !== 0 ? 'blank' : (flags & NETTXF.data_validated) !== 0 ? 'validated' : 'none';
  port.sent({ bytes, checksum, ...(gso === undefined ? {} : { gso }) });
  return undefined;
}

function respond(ring: BackRing, port: TxPort, { id }: TxRequest, status: number, extraCount: number): void {
  const put = (ownId: number, ownStatus: number): void => {
    const bytes = new Uint8Array(NETIF_TX_RESPONSE.sizeBytes);
    new DataView(bytes.buffer).setUint16(NETIF_TX_RESPONSE.fields.id.at, ownId, true);
    new DataView(bytes.buffer).setInt16(NETIF_TX_RESPONSE.fields.status.at, ownStatus, true);
    port.responded(ring.nextResponse, ownId, ownStatus);
    ring.put(bytes);
  };
  put(id, status);
  for (let extra = 0; extra < extraCount; extra++) put(0, NETIF_RSP.null);
}
