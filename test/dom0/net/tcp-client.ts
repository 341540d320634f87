// The other end of a TCP connection, for tests: opens, sends all it has, reads until the peer is
// done, closes. It repeats what is not acknowledged and takes bytes in order only: small and dull on
// purpose, sharing nothing with the host's TCP but the shape of a segment.
import { parseSegment, segmentBytes, TCP_FLAG, type Segment } from '../../../src/dom0/net/tcp-segment.ts';

export interface ClientWire {
  nowNs(): number;
  send(payload: Uint8Array): void;
}

const MSS = 1460;
const RETRY_NS = 300_000_000;

export class TcpClient {
  readonly received: number[] = [];
  state: 'synSent' | 'open' | 'reset' | 'closed' = 'synSent';
  timerNs: number;
  resets = 0;
  readonly #wire: ClientWire;
  readonly #port: number;
  readonly #peerPort: number;
  readonly #data: Uint8Array;
  readonly #iss: number;
  /** Most bytes in flight, and the window that we tell. */
  readonly #window: number;
  #una = 0;
  #next = 0;
  #peerWindow = 0;
  #rcvNxt = 0;
  #peerDone = false;

  constructor(wire: ClientWire, ports: readonly [number, number], data: Uint8Array, iss: number, window = 65535) {
    this.#wire = wire;
    [this.#port, this.#peerPort] = ports;
    this.#data = data;
    this.#iss = iss;
    this.#window = window;
    this.timerNs = wire.nowNs() + RETRY_NS;
    this.#emit(0, TCP_FLAG.syn, new Uint8Array(0), MSS);
  }

  get done(): boolean {
    return this.state === 'closed' || this.state === 'reset';
  }

  /** `at`: 0 is the SYN, 1 the first byte; the FIN follows the last. */
  #emit(at: number, flags: number, data: Uint8Array, mss?: number): void {
    this.#wire.send(segmentBytes({ sourcePort: this.#port, destPort: this.#peerPort, seq: (this.#iss + at) >>> 0, ack: this.#rcvNxt, flags, window: this.#window, data, ...(mss === undefined ? {} : { mss }) }));
  }

  take(payload: Uint8Array): void {
    const segment = parseSegment(payload);
    if (segment === undefined || segment.destPort !== this.#port || this.done) return;
    if ((segment.flags & TCP_FLAG.rst) !== 0) {
      this.state = 'reset';
      return;
    }
    if (this.state === 'synSent') {
      if ((segment.flags & (TCP_FLAG.syn | TCP_FLAG.ack)) !== (TCP_FLAG.syn | TCP_FLAG.ack) || segment.ack !== (this.#iss + 1) >>> 0) return;
      this.state = 'open';
      this.#rcvNxt = (segment.seq + 1) >>> 0;
      this.#una = this.#next = 1;
    }
    this.#hear(segment);
    this.#push();
    if (this.#una === this.#data.length + 2 && this.#peerDone) this.state = 'closed';
  }

  #hear(segment: Segment): void {
    const acked = (segment.ack - ((this.#iss + this.#una) >>> 0)) | 0;
    if (acked >= 0 && acked <= this.#data.length + 2 - this.#una) {
      this.#una += acked;
      this.#next = Math.max(this.#next, this.#una);
      this.#peerWindow = segment.window;
      if (acked > 0) this.timerNs = this.#wire.nowNs() + RETRY_NS;
    }
    const skip = (this.#rcvNxt - segment.seq) | 0;
    const fin = (segment.flags & TCP_FLAG.fin) !== 0;
    if (segment.data.length === 0 && !fin && (segment.flags & TCP_FLAG.syn) === 0) return;
    if (skip >= 0 && skip <= segment.data.length && !this.#peerDone) {
      for (const byte of segment.data.subarray(skip)) this.received.push(byte);
      this.#rcvNxt = (this.#rcvNxt + segment.data.length - skip) >>> 0;
      if (fin) {
        this.#peerDone = true;
        this.#rcvNxt = (this.#rcvNxt + 1) >>> 0;
      }
    }
    this.#emit(this.#next, TCP_FLAG.ack, new Uint8Array(0));
  }

  #push(): void {
    for (;;) {
      const from = this.#next - 1;
      const room = Math.min(this.#window, this.#peerWindow) - (this.#next - this.#una);
      const count = Math.min(MSS, this.#data.length - from, room);
      if (count > 0) {
        this.#emit(this.#next, TCP_FLAG.ack, this.#data.subarray(from, from + count));
        this.#next += count;
      } else if (from === this.#data.length && room > 0) {
        this.#emit(this.#next, TCP_FLAG.ack | TCP_FLAG.fin, new Uint8Array(0));
        this.#next++;
      } else return;
    }
  }

  /** The time has come: everything unanswered again. */
  timeout(): void {
    this.timerNs = this.#wire.nowNs() + RETRY_NS;
    if (this.done) return;
    if (this.state === 'synSent') return this.#emit(0, TCP_FLAG.syn, new Uint8Array(0), MSS);
    this.#next = this.#una;
    if (this.#peerWindow === 0) this.#emit(this.#next, TCP_FLAG.ack, this.#data.subarray(this.#next - 1, this.#next));
    this.#push();
  }
}
