// The passive end of TCP: what a guest's tools connect to. A connection is a plain record; segments
// and timers act on it, the service behind it (tcp-services.ts) sees bytes.
//
//   segment ─► acceptable? ─► RST · SYN · ACK ─► data, in order or kept ─► FIN ─► service ─► output
//
// Numbered comments follow RFC 9293, 3.10.7.4. Lost segments come again after a timeout that doubles,
// or after three equal acknowledgements. Only unanswered segments have a timer: connections that wait
// for nothing (TIME-WAIT, a peer that never closes) end when somebody looks, so an idle world stays idle.
// Not here: active opening, congestion control, window scaling, SACK, urgent data.
import { crc32c } from '../../base/crc.ts';
import { bytesToText, textToBytes } from '../../base/byte-text.ts';
import { MTU_BYTES, ipv4Text } from './packet.ts';
import { seqAdd, seqDistance, TCP_FLAG, type Segment } from './tcp-segment.ts';

export interface TcpPeer {
  readonly ip: number;
  readonly mac: number;
  readonly port: number;
}

export interface TcpEnvironment {
  nowNs(): number;
  send(peer: TcpPeer, segment: Segment): void;
  /** The service behind a port, or undefined: nobody listens. */
  service(port: number): TcpService | undefined;
}

/** What a service may do with its connection. */
export interface TcpStream {
  /** Bytes that have arrived and were not taken yet. */
  readonly readable: number;
  take(most: number): Uint8Array;
  /** Bytes that put() takes at once. */
  readonly room: number;
  put(bytes: Uint8Array): void;
  /** The peer will send no more. */
  readonly peerDone: boolean;
  /** Nothing more will be put. */
  close(): void;
}
export interface TcpService {
  /** JSON-serialisable state of one connection. */
  start(): object;
  /** Bytes came, room came, or the peer is done. */
  run(stream: TcpStream, state: object): void;
}

type TcpState = 'synReceived' | 'established' | 'closeWait' | 'finWait1' | 'finWait2' | 'closing' | 'lastAck' | 'timeWait';

interface Connection {
  readonly peer: TcpPeer;
  readonly port: number;
  state: TcpState;
  readonly iss: number;
  readonly irs: number;
  readonly mss: number;
  sndUna: number;
  sndNxt: number;
  /** Highest sequence number sent so far: a timeout sets sndNxt back. */
  sndMax: number;
  sndWnd: number;
  sndWl1: number;
  sndWl2: number;
  rcvNxt: number;
  /** First sequence number beyond the window that the peer was told of. */
  rcvEdge: number;
  /** From sndUna on (SYN not counted): sent or not. */
  out: Uint8Array;
  /** The service is done: a FIN follows `out`. */
  isClosed: boolean;
  /** The FIN's own number, once it was sent. */
  finSeq: number | null;
  /** Arrived in order, not taken. */
  in: Uint8Array;
  /** Arrived too early, ordered. */
  early: { readonly seq: number; readonly bytes: Uint8Array; readonly fin: boolean }[];
  peerDone: boolean;
  owesAck: boolean;
  equalAcks: number;
  timeoutNs: number;
  timerAtNs: number;
  retries: number;
  /** For states without a timer: when they are over. */
  untilNs: number;
  readonly service: object;
}

const BUFFER_BYTES = 0xffff;
const OWN_MSS = MTU_BYTES - 40;
const LEAST_MSS = 64;
const DEFAULT_MSS = 536;
const FIRST_TIMEOUT_NS = 200_000_000;
const LONGEST_TIMEOUT_NS = 60_000_000_000;
const MOST_RETRIES = 12;
const MOST_SYN_RETRIES = 5;
const WAIT_NS = 60_000_000_000;
const MOST_CONNECTIONS = 256;
const MOST_EARLY = 64;

const keyOf = (peer: Pick<TcpPeer, 'ip' | 'port'>, port: number): string => `${ipv4Text(peer.ip)}:${peer.port}>${port}`;
const sends = (state: TcpState): boolean => state === 'established' || state === 'closeWait' || state === 'finWait1' || state === 'closing' || state === 'lastAck';
const receives = (state: TcpState): boolean => state === 'established' || state === 'finWait1' || state === 'finWait2';
const hasFin = (segment: Segment): boolean => (segment.flags & TCP_FLAG.fin) !== 0;
const NO_BYTES = new Uint8Array(0);
const joined = (a: Uint8Array, b: Uint8Array): Uint8Array => {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
};

export class TcpHost {
  readonly #env: TcpEnvironment;
  #connections = new Map<string, Connection>();
  #opened = 0;

  constructor(env: TcpEnvironment) {
    this.#env = env;
  }

  /** When run() is wanted, or Infinity. */
  nextNs(): number {
    let next = Infinity;
    for (const connection of this.#connections.values()) next = Math.min(next, connection.timerAtNs);
    return next;
  }

  /** Timers that are due. */
  run(): void {
    for (const [key, connection] of [...this.#connections]) if (connection.timerAtNs <= this.#env.nowNs()) this.#timeout(key, connection);
  }

  receive(peer: TcpPeer, segment: Segment): void {
    const key = keyOf(peer, segment.destPort);
    const connection = this.#connections.get(key);
    if (connection !== undefined && !this.#isOver(connection, segment)) {
      if (this.#arrived(connection, segment) === 'end') this.#connections.delete(key);
      return;
    }
    this.#connections.delete(key);
    const { flags } = segment;
    if ((flags & TCP_FLAG.rst) !== 0) return;
    const service = this.#env.service(segment.destPort);
    if ((flags & TCP_FLAG.ack) !== 0 || (flags & TCP_FLAG.syn) === 0 || service === undefined || !this.#hasRoom()) return this.#refuse(peer, segment);
    this.#open(key, peer, segment, service.start());
  }

  // -- opening and ending ------------------------------------------------------------------------

  #open(key: string, peer: TcpPeer, segment: Segment, service: object): void {
    const iss = crc32c(textToBytes(`${key}#${this.#opened++}`));
    const connection: Connection = {
      peer, port: segment.destPort, state: 'synReceived', iss, irs: segment.seq, mss: Math.max(LEAST_MSS, Math.min(segment.mss ?? DEFAULT_MSS, OWN_MSS)),
      sndUna: iss, sndNxt: iss, sndMax: iss, sndWnd: segment.window, sndWl1: segment.seq, sndWl2: iss,
      rcvNxt: seqAdd(segment.seq, 1), rcvEdge: seqAdd(segment.seq, 1 + BUFFER_BYTES), out: NO_BYTES, isClosed: false, finSeq: null, in: NO_BYTES, early: [], peerDone: false,
      owesAck: false, equalAcks: 0, timeoutNs: FIRST_TIMEOUT_NS, timerAtNs: Infinity, retries: 0, untilNs: Infinity, service,
    };
    this.#connections.set(key, connection);
    this.#sendSyn(connection);
  }

  #sendSyn(connection: Connection): void {
    this.#send(connection, connection.iss, TCP_FLAG.syn | TCP_FLAG.ack, NO_BYTES, OWN_MSS);
    connection.sndNxt = connection.sndMax = seqAdd(connection.iss, 1);
    connection.timerAtNs = this.#env.nowNs() + connection.timeoutNs;
  }

  /** A waiting state has ended; or a new connection may take the place of one in TIME-WAIT. */
  #isOver(connection: Connection, segment: Segment): boolean {
    if (connection.untilNs <= this.#env.nowNs()) return true;
    return connection.state === 'timeWait' && (segment.flags & (TCP_FLAG.syn | TCP_FLAG.rst | TCP_FLAG.ack)) === TCP_FLAG.syn && seqDistance(connection.rcvNxt, segment.seq) > 0;
  }

  /** Makes room among those that only wait. */
  #hasRoom(): boolean {
    if (this.#connections.size < MOST_CONNECTIONS) return true;
    const nowNs = this.#env.nowNs();
    for (const [key, { untilNs }] of [...this.#connections]) if (untilNs <= nowNs) this.#connections.delete(key);
    if (this.#connections.size < MOST_CONNECTIONS) return true;
    const waiting = [...this.#connections].find(([, { state }]) => state === 'timeWait');
    return waiting !== undefined && this.#connections.delete(waiting[0]);
  }

  /** 3.10.7.1: nobody is here. */
  #refuse(peer: TcpPeer, segment: Segment): void {
    const answered = (segment.flags & TCP_FLAG.ack) !== 0;
    const length = segment.data.length + ((segment.flags & TCP_FLAG.syn) !== 0 ? 1 : 0) + (hasFin(segment) ? 1 : 0);
    this.#env.send(peer, {
      sourcePort: segment.destPort, destPort: segment.sourcePort, seq: answered ? segment.ack : 0, ack: answered ? 0 : seqAdd(segment.seq, length),
      flags: answered ? TCP_FLAG.rst : TCP_FLAG.rst | TCP_FLAG.ack, window: 0, data: NO_BYTES,
    });
  }

  #timeout(key: string, connection: Connection): void {
    const most = connection.state === 'synReceived' ? MOST_SYN_RETRIES : MOST_RETRIES;
    if (connection.retries >= most) {
      this.#send(connection, connection.sndNxt, TCP_FLAG.rst | TCP_FLAG.ack, NO_BYTES);
      this.#connections.delete(key);
      return;
    }
    connection.retries++;
    connection.timeoutNs = Math.min(connection.timeoutNs * 2, LONGEST_TIMEOUT_NS);
    connection.equalAcks = 0;
    if (connection.state === 'synReceived') return this.#sendSyn(connection);
    // Everything that is not acknowledged goes again; against a closed window, one byte as a question.
    connection.sndNxt = connection.sndUna;
    connection.timerAtNs = Infinity;
    this.#output(connection, connection.sndWnd === 0);
  }

  // -- a segment ---------------------------------------------------------------------------------

  /** 'end': the connection is no more. */
  #arrived(connection: Connection, segment: Segment): 'end' | undefined {
    const { flags } = segment;
    if (connection.state === 'synReceived' && (flags & TCP_FLAG.syn) !== 0 && segment.seq === connection.irs) return void this.#sendSyn(connection);
    // First: the sequence number.
    if (!this.#isAcceptable(connection, segment)) {
      if ((flags & TCP_FLAG.rst) === 0) this.#sendAck(connection);
      return undefined;
    }
    // Second and fourth: RST and SYN, as RFC 5961 wants them: only an exact one counts.
    if ((flags & TCP_FLAG.rst) !== 0) return segment.seq === connection.rcvNxt ? 'end' : void this.#sendAck(connection);
    if ((flags & TCP_FLAG.syn) !== 0) return void this.#sendAck(connection);
    // Fifth: the acknowledgement.
    if ((flags & TCP_FLAG.ack) === 0) return undefined;
    const end = this.#acknowledged(connection, segment);
    if (end !== undefined) return end === 'end' ? 'end' : undefined;
    // Seventh and eighth: data and FIN.
    this.#keep(connection, segment);
    this.#takeInOrder(connection);
    this.#serve(connection);
    this.#output(connection, false);
    return undefined;
  }

  #isAcceptable({ rcvNxt, rcvEdge }: Connection, segment: Segment): boolean {
    const window = seqDistance(rcvNxt, rcvEdge);
    const from = seqDistance(rcvNxt, segment.seq);
    const length = segment.data.length + ((segment.flags & TCP_FLAG.syn) !== 0 ? 1 : 0) + (hasFin(segment) ? 1 : 0);
    if (length === 0) return window === 0 ? from === 0 : from >= 0 && from < window;
    // A closed window still lets acknowledgements and a FIN behind known data be seen.
    return window === 0 ? from <= 0 && from + length > 0 : from < window && from + length > 0;
  }

  /** 'end': the connection is no more; 'stop': go no further with this segment. */
  #acknowledged(connection: Connection, segment: Segment): 'end' | 'stop' | undefined {
    const acked = seqDistance(connection.sndUna, segment.ack);
    if (connection.state === 'synReceived') {
      if (acked !== 1) {
        this.#refuse(connection.peer, segment);
        return 'stop';
      }
      Object.assign(connection, { state: 'established', sndUna: segment.ack, sndWnd: segment.window, sndWl1: segment.seq, sndWl2: segment.ack });
      quietTimer(connection);
      return undefined;
    }
    if (seqDistance(connection.sndMax, segment.ack) > 0) {
      this.#sendAck(connection);
      return 'stop';
    }
    if (acked > 0) this.#advance(connection, segment.ack, acked);
    else if (acked === 0 && segment.data.length === 0 && !hasFin(segment) && segment.window === connection.sndWnd && connection.sndMax !== connection.sndUna) this.#equalAck(connection);
    if (acked >= 0 && (seqDistance(connection.sndWl1, segment.seq) > 0 || (connection.sndWl1 === segment.seq && seqDistance(connection.sndWl2, segment.ack) >= 0))) {
      // A window that opens after it was shut: what waits goes at once, and the questions begin anew.
      if (connection.sndWnd === 0 && segment.window > 0) {
        connection.sndNxt = connection.sndUna;
        quietTimer(connection);
      }
      Object.assign(connection, { sndWnd: segment.window, sndWl1: segment.seq, sndWl2: segment.ack });
    }
    return this.#afterFin(connection);
  }

  #advance(connection: Connection, ack: number, acked: number): void {
    // The FIN has a number too, and no byte.
    connection.out = connection.out.slice(Math.min(acked, connection.out.length));
    connection.sndUna = ack;
    if (seqDistance(connection.sndNxt, ack) > 0) connection.sndNxt = ack;
    connection.equalAcks = 0;
    quietTimer(connection);
  }

  #equalAck(connection: Connection): void {
    // A question against a closed window is answered so: somebody is there.
    if (connection.sndWnd === 0) connection.retries = 0;
    if (++connection.equalAcks !== 3) return;
    const count = Math.min(connection.mss, connection.out.length, connection.sndWnd);
    if (count > 0) this.#send(connection, connection.sndUna, TCP_FLAG.ack | TCP_FLAG.psh, connection.out.subarray(0, count));
    else if (connection.isClosed && connection.out.length === 0) this.#send(connection, connection.sndUna, TCP_FLAG.ack | TCP_FLAG.fin, NO_BYTES);
  }

  /** Is our FIN acknowledged? Then everything sent is. */
  #afterFin(connection: Connection): 'end' | undefined {
    const { finSeq } = connection;
    if (finSeq === null || seqDistance(finSeq, connection.sndUna) <= 0) return undefined;
    if (connection.state === 'lastAck') return 'end';
    if (connection.state === 'closing') this.#wait(connection, 'timeWait');
    if (connection.state === 'finWait1') this.#wait(connection, 'finWait2');
    return undefined;
  }

  #wait(connection: Connection, state: 'timeWait' | 'finWait2'): void {
    connection.state = state;
    connection.untilNs = this.#env.nowNs() + WAIT_NS;
    connection.timerAtNs = Infinity;
  }

  /** Puts what the segment brings among the early ones, cut to the window. */
  #keep(connection: Connection, segment: Segment): void {
    const { data } = segment;
    if (data.length === 0 && !hasFin(segment)) return;
    connection.owesAck = true;
    if (!receives(connection.state) || connection.peerDone) return;
    const skipped = Math.max(0, seqDistance(segment.seq, connection.rcvNxt));
    const most = Math.max(0, seqDistance(segment.seq, connection.rcvEdge));
    const bytes = data.slice(Math.min(skipped, data.length), Math.min(data.length, most));
    const fin = hasFin(segment) && most >= data.length;
    if (bytes.length === 0 && !fin) return;
    const seq = seqAdd(segment.seq, Math.min(skipped, data.length));
    const same = connection.early.some((row) => row.seq === seq && row.bytes.length >= bytes.length && (row.fin || !fin));
    // A peer that sends crumbs out of order has to send them again.
    const isFull = seq !== connection.rcvNxt && (connection.early.length >= MOST_EARLY || connection.early.reduce((sum, row) => sum + row.bytes.length, bytes.length) > BUFFER_BYTES);
    if (!same && !isFull) connection.early = [...connection.early.filter((row) => row.seq !== seq), { seq, bytes, fin }].sort((a, b) => seqDistance(b.seq, a.seq));
  }

  #takeInOrder(connection: Connection): void {
    for (;;) {
      const [first] = connection.early;
      if (first === undefined) return;
      const known = seqDistance(first.seq, connection.rcvNxt);
      if (known < 0) return;
      connection.early.shift();
      const fresh = first.bytes.subarray(Math.min(known, first.bytes.length));
      if (fresh.length > 0) {
        connection.in = joined(connection.in, fresh);
        connection.rcvNxt = seqAdd(connection.rcvNxt, fresh.length);
      }
      if (!first.fin || known > first.bytes.length) continue;
      connection.early = [];
      connection.rcvNxt = seqAdd(connection.rcvNxt, 1);
      connection.rcvEdge = connection.rcvNxt;
      connection.peerDone = true;
      if (connection.state === 'established') connection.state = 'closeWait';
      else if (connection.state === 'finWait1') connection.state = 'closing';
      else if (connection.state === 'finWait2') this.#wait(connection, 'timeWait');
    }
  }

  // -- the service -------------------------------------------------------------------------------

  #serve(connection: Connection): void {
    if (connection.state === 'timeWait') return;
    const stream: TcpStream = {
      get readable() { return connection.in.length; },
      take: (most) => {
        const bytes = connection.in.slice(0, most);
        connection.in = connection.in.slice(bytes.length);
        return bytes;
      },
      get room() { return connection.isClosed ? 0 : BUFFER_BYTES - connection.out.length; },
      put: (bytes) => void (connection.out = joined(connection.out, bytes)),
      get peerDone() { return connection.peerDone; },
      close: () => void (connection.isClosed = true),
    };
    this.#env.service(connection.port)?.run(stream, connection.service);
    if (!connection.isClosed) return;
    if (connection.state === 'established') connection.state = 'finWait1';
    if (connection.state === 'closeWait') connection.state = 'lastAck';
  }

  // -- output ------------------------------------------------------------------------------------

  /** Sends what the peer's window allows; `force`: one byte in any case. */
  #output(connection: Connection, force: boolean): void {
    const { out } = connection;
    while (sends(connection.state)) {
      const sent = seqDistance(connection.sndUna, connection.sndNxt);
      const left = out.length - sent;
      const allowed = Math.max(connection.sndWnd, force ? 1 : 0) - sent;
      const count = Math.max(0, Math.min(connection.mss, left, allowed));
      const fin = connection.isClosed && count === left && count < allowed;
      if (count === 0 && !fin) break;
      if (fin) connection.finSeq = seqAdd(connection.sndNxt, count);
      const flags = TCP_FLAG.ack | (count === left && count > 0 ? TCP_FLAG.psh : 0) | (fin ? TCP_FLAG.fin : 0);
      this.#send(connection, connection.sndNxt, flags, out.subarray(sent, sent + count));
      connection.sndNxt = seqAdd(connection.sndNxt, count + (fin ? 1 : 0));
      if (seqDistance(connection.sndMax, connection.sndNxt) > 0) connection.sndMax = connection.sndNxt;
      if (fin) break;
    }
    const waits = connection.sndMax !== connection.sndUna || (sends(connection.state) && (out.length > 0 || (connection.isClosed && connection.finSeq === null)));
    if (!waits) connection.timerAtNs = Infinity;
    else if (connection.timerAtNs === Infinity) connection.timerAtNs = this.#env.nowNs() + connection.timeoutNs;
    if (connection.owesAck || this.#opensWindow(connection)) this.#sendAck(connection);
  }

  /** The service made room: worth telling once it is two segments or half the buffer. */
  #opensWindow(connection: Connection): boolean {
    if (connection.peerDone || !receives(connection.state)) return false;
    const told = seqDistance(connection.rcvNxt, connection.rcvEdge);
    return windowOf(connection) - told >= Math.min(2 * OWN_MSS, BUFFER_BYTES / 2) && told < 2 * OWN_MSS;
  }

  #sendAck(connection: Connection): void {
    this.#send(connection, connection.sndMax, TCP_FLAG.ack, NO_BYTES);
  }

  #send(connection: Connection, seq: number, flags: number, data: Uint8Array, mss?: number): void {
    const window = windowOf(connection);
    const edge = seqAdd(connection.rcvNxt, window);
    if (seqDistance(connection.rcvEdge, edge) > 0) connection.rcvEdge = edge;
    connection.owesAck = false;
    this.#env.send(connection.peer, {
      sourcePort: connection.port, destPort: connection.peer.port, seq, ack: connection.rcvNxt, flags, window: seqDistance(connection.rcvNxt, connection.rcvEdge), data: data.slice(),
      ...(mss === undefined ? {} : { mss }),
    });
  }

  // -- state -------------------------------------------------------------------------------------

  /** [peer's address, own port, state] of each connection, for tests and notes. */
  connections(): readonly { readonly peer: TcpPeer; readonly port: number; readonly state: TcpState }[] {
    return [...this.#connections.values()].filter(({ untilNs }) => untilNs > this.#env.nowNs());
  }

  save(): unknown {
    const plain = (connection: Connection) => ({
      ...connection, out: bytesToText(connection.out), in: bytesToText(connection.in), early: connection.early.map((row) => ({ ...row, bytes: bytesToText(row.bytes) })),
      timerAtNs: finite(connection.timerAtNs), untilNs: finite(connection.untilNs), service: { ...connection.service },
    });
    return { opened: this.#opened, connections: [...this.#connections].map(([key, connection]) => [key, plain(connection)]) };
  }
  restore(state: unknown): void {
    type Saved = Omit<Connection, 'out' | 'in' | 'early' | 'timerAtNs' | 'untilNs'> & { out: string; in: string; early: { seq: number; bytes: string; fin: boolean }[]; timerAtNs: number | null; untilNs: number | null };
    const saved = state as { opened: number; connections: [string, Saved][] };
    this.#opened = saved.opened;
    this.#connections = new Map(saved.connections.map(([key, row]) => [key, {
      ...row, out: textToBytes(row.out), in: textToBytes(row.in), early: row.early.map((part) => ({ ...part, bytes: textToBytes(part.bytes) })),
      timerAtNs: row.timerAtNs ?? Infinity, untilNs: row.untilNs ?? Infinity, service: { ...row.service },
    }]));
  }
}

/** JSON has no Infinity. */
const finite = (ns: number): number | null => (ns === Infinity ? null : ns);
const windowOf = (connection: Connection): number => BUFFER_BYTES - connection.in.length;

function quietTimer(connection: Connection): void {
  connection.retries = 0;
  connection.timeoutNs = FIRST_TIMEOUT_NS;
  connection.timerAtNs = Infinity;
}
