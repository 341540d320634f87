// One bridge: ports, a table of who was heard where, and frames under way.
//
//   port A ── send ─► wire A: [due, due, …] ── run() ─► learn source · look up destination ─► deliver to B, or to all but A
//
// Frames of one port stay in order. A frame that leaves on a quiet wire takes a seeded time; those
// behind it follow at least as late. Frames of several ports that are due at the same time arrive in
// the order in which they were sent. Source: Linux's bridge (net/bridge/br_input.c, br_fdb.c).
// Not here: spanning tree, VLANs (tags pass as they are), offloads (the interfaces' matter).
import type { FaultQuestion } from '../../abi/faults.ts';
import { ETHER, isGroupMac, macAt, restorePacket, savePacket, type Packet, type SavedPacket } from './packet.ts';

/** Who is plugged in: a guest's interface or a host of the bridge's own. */
export interface SwitchClient {
  /** Unique on the bridge: 'vif1.0', 'gateway'. */
  readonly name: string;
  receive(packet: Packet): void;
}

export interface SwitchClock {
  nowNs(): number;
  /** How long a frame is under way; seeded. */
  latencyNs(): number;
  /** run() is wanted at this time at the latest. */
  wakeAt(ns: number): void;
  /** Whether a fault happens to a frame. Absent: none does. */
  readonly fault?: FaultQuestion;
}

/** A frame that follows closely behind another one takes at least this. */
const FOLLOW_NS = 500;
/** Linux's bridges forget an address after 300 s. */
const AGEING_NS = 300_000_000_000;
/** A guest that makes up addresses pushes out the oldest, not more. */
const MOST_ADDRESSES = 1024;
/** 01:80:c2:00:00:01 to 0f: between neighbours only; bridges never forward them. */
const LINK_LOCAL_GROUP = 0x0180_c200_0000;

interface Flight {
  readonly dueNs: number;
  readonly from: string;
  readonly packet: Packet;
  /** A fault holds it back: the others of its port do not wait for it. */
  readonly late?: boolean;
}

/** How long a frame is held back that is to be overtaken. */
const REORDER_NS = 50_000;

/** The packet with one bit flipped, somewhere behind its Ethernet header. */
function corrupted(packet: Packet, argument: number): Packet {
  const bytes = packet.bytes.slice();
  const at = ETHER.headerBytes + ((argument * 7919) % Math.max(1, bytes.length - ETHER.headerBytes));
  if (at < bytes.length) bytes[at] = (bytes[at] as number) ^ (1 << (argument & 7));
  return { ...packet, bytes };
}

export class Switch {
  readonly name: string;
  readonly #clock: SwitchClock;
  readonly #clients = new Map<string, SwitchClient>();
  /** Ordered by time, equal times by when they were sent. */
  #flights: Flight[] = [];
  /** Oldest first: an address that is heard again moves to the end. */
  #heard = new Map<number, { readonly at: string; readonly ns: number }>();

  constructor(name: string, clock: SwitchClock) {
    this.name = name;
    this.#clock = clock;
  }

  /** A client of the same name is unplugged. */
  plug(client: SwitchClient): void {
    this.#clients.set(client.name, client);
  }

  /** What it sent already still arrives. */
  unplug(name: string): void {
    this.#clients.delete(name);
    for (const [mac, heard] of this.#heard) if (heard.at === name) this.#heard.delete(mac);
  }

  /** A frame leaves a client. Shorter than a header: dropped. */
  send(from: string, packet: Packet): void {
    if (packet.bytes.length < ETHER.headerBytes) return;
    const { fault } = this.#clock;
    if (fault === undefined) return this.#fly(from, packet);
    if (fault('net.lose') > 0) return;
    const flip = fault('net.corrupt');
    const sent = flip > 0 ? corrupted(packet, flip) : packet;
    this.#fly(from, sent, fault('net.reorder') > 0);
    if (fault('net.duplicate') > 0) this.#fly(from, sent);
  }

  #fly(from: string, packet: Packet, late = false): void {
    const nowNs = this.#clock.nowNs();
    const ahead = this.#flights.findLast((flight) => flight.from === from && flight.late !== true);
    const dueNs = late ? nowNs + REORDER_NS + this.#clock.latencyNs() : ahead === undefined ? nowNs + this.#clock.latencyNs() : Math.max(ahead.dueNs, nowNs + FOLLOW_NS);
    let at = this.#flights.length;
    while (at > 0 && (this.#flights[at - 1] as Flight).dueNs > dueNs) at--;
    this.#flights.splice(at, 0, { dueNs, from, packet, ...(late ? { late } : {}) });
    this.#clock.wakeAt(dueNs);
  }

  /** When the next frame arrives, or Infinity. */
  nextNs(): number {
    return this.#flights[0]?.dueNs ?? Infinity;
  }

  /** Delivers what has arrived. */
  run(): void {
    const nowNs = this.#clock.nowNs();
    for (;;) {
      const first = this.#flights[0];
      if (first === undefined || first.dueNs > nowNs) return;
      this.#flights.shift();
      this.#forward(first, nowNs);
    }
  }

  #forward({ from, packet }: Flight, nowNs: number): void {
    const source = macAt(packet.bytes, ETHER.sourceAt);
    const dest = macAt(packet.bytes, ETHER.destAt);
    // br_handle_frame(): no frame comes from a group or from nobody.
    if (source === 0 || isGroupMac(source)) return;
    if (dest > LINK_LOCAL_GROUP && dest <= LINK_LOCAL_GROUP + 15) return;
    if (this.#clients.has(from)) this.#learn(source, from, nowNs);
    const heard = isGroupMac(dest) ? undefined : this.#heard.get(dest);
    if (heard !== undefined && nowNs - heard.ns <= AGEING_NS) {
      if (heard.at !== from) this.#clients.get(heard.at)?.receive(packet);
      return;
    }
    for (const client of [...this.#clients.values()]) if (client.name !== from) client.receive(packet);
  }

  #learn(mac: number, at: string, ns: number): void {
    this.#heard.delete(mac);
    if (this.#heard.size >= MOST_ADDRESSES) this.#heard.delete(this.#heard.keys().next().value as number);
    this.#heard.set(mac, { at, ns });
  }

  /** JSON-serialisable; who is plugged in is not part of it. */
  save(): unknown {
    return { flights: this.#flights.map((flight) => ({ ...flight, packet: savePacket(flight.packet) })), heard: [...this.#heard] };
  }
  restore(state: unknown): void {
    const saved = state as { flights: (Omit<Flight, 'packet'> & { packet: SavedPacket })[]; heard: [number, { at: string; ns: number }][] };
    this.#flights = saved.flights.map((flight) => ({ ...flight, packet: restorePacket(flight.packet) }));
    this.#heard = new Map(saved.heard);
  }
}
