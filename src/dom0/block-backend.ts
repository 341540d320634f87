// blkback: serves one disk to one frontend.
//
//   ring ─► one copy of the slot ─► checks ─► pages mapped ─► in flight ── after a drawn latency ──► disk
//                                     │                                                              │
//                                     └── refused ──► response at once ◄──── response, pages given back ┘
//
// The disk acts when the latency is over, in one piece: two requests under way may be carried out and
// answered in either order. A barrier waits for all before it and holds up all after it. A write that
// has been answered with OKAY is on the disk. Requests under way when the frontend closes are dropped.
//
// Under the fault block.short the disk moves only the first sectors. An answer has a status and no count of
// bytes, so all that a guest learns is ERROR, as for a request of which nothing was moved: the pages of such a
// read are partly new, the sectors of such a write partly (__end_block_io_op(): one failed bio fails them all).
// Source: drivers/block/xen-blkback/blkback.c, xenbus.c in Linux; xen/include/public/io/blkif.h.
import { BLKIF_LAYOUTS, BLKIF_OP, BLKIF_RSP, BLKIF_SECTOR_BYTES, BLKIF_SEGMENT_BYTES, BLKIF_SEGMENTS_PER_INDIRECT_PAGE, VDISK, type BlkifProtocol } from '../abi/blkif.ts';
import { SRING } from '../abi/device-ring.ts';
import { DEVICE, EVENT, valueIndex } from '../abi/events.ts';
import { FAULTS } from '../abi/faults.ts';
import { BackRing, type BackRingState } from './back-ring.ts';
import { blkResponse, bytesOf, parseBlkRequest, refuseRead, refuseUnread, segmentsOf, type BlkLimits, type BlkRequest, type BlkSegment } from './blkif-request.ts';
import { DeviceDirectories, type DeviceDriver } from './device-backend.ts';
import type { DeviceConfig } from './device-spec.ts';
import type { Disk } from './disk.ts';
import type { DevicePort, GrantedPage } from './ports.ts';

type DiskDevice = Extract<DeviceConfig, { deviceClass: 'vbd' }>;

const VBD = valueIndex(DEVICE, 'vbd');
/** What a request takes longer under a fault, times its argument. */
const LATE_NS = 100_000;
/** A request takes one of so many multiples of the unit: a fast disk. */
const LATENCY_STEPS = 16;
const LATENCY_UNIT_NS = 4_000;
const SLEEP_UNIT_NS = 500;
/** Of a request that fails half-way: it fails in one of so many parts. */
const SHARES = FAULTS['block.short'].variants;
const MAX_INDIRECT_SEGMENTS = 256;
const MAX_RING_PAGE_ORDER = 4;
/** xen_blkif_max_pgrants: beyond it pages are given back after each request. */
const MAX_PERSISTENT_GRANTS = 1056;
const DISCARD_GRANULARITY = 4096;

/** One request that the disk has yet to carry out. */
interface InFlight {
  readonly request: BlkRequest;
  readonly segments: readonly BlkSegment[];
  readonly dueNs: number;
  readonly index: number;
  /** Pages that are given back with the answer, one for each segment; undefined: a persistent one. */
  readonly pages: readonly (GrantedPage | undefined)[];
}

interface Connection {
  readonly protocol: BlkifProtocol;
  readonly channel: number;
  readonly ringPages: readonly GrantedPage[];
  readonly ring: BackRing;
  readonly usePersistent: boolean;
  /** By reference. */
  readonly persistent: Map<number, GrantedPage>;
  inFlight: InFlight[];
  /** Of a planted mistake: when its thread, awake now, goes to sleep. */
  sleepsAtNs?: number;
}

interface SavedConnection {
  readonly protocol: BlkifProtocol;
  readonly channel: number;
  readonly ringGrefs: readonly number[];
  readonly ring: BackRingState;
  readonly usePersistent: boolean;
  readonly persistent: readonly number[];
  readonly sleepsAtNs?: number;
  readonly inFlight: readonly { readonly request: BlkRequest; readonly segments: readonly BlkSegment[]; readonly dueNs: number; readonly index: number; readonly pages: readonly ({ readonly gref: number; readonly readOnly: boolean } | null)[] }[];
}

export class BlockBackend implements DeviceDriver {
  readonly #port: DevicePort;
  readonly #device: DiskDevice;
  readonly #directories: DeviceDirectories;
  readonly #disk: Disk;
  readonly #limits: BlkLimits;
  #connection: Connection | undefined;

  constructor(device: DiskDevice, port: DevicePort, disk: Disk) {
    this.#port = port;
    this.#device = device;
    this.#disk = disk;
    this.#directories = new DeviceDirectories(port, device);
    const { features = {}, mode, sectorBytes = 512 } = device.disk;
    this.#limits = {
      sectors512: Math.floor(disk.sizeBytes / sectorBytes) * (sectorBytes / BLKIF_SECTOR_BYTES), sectorBytes, readOnly: mode === 'r',
      maxIndirectSegments: features.maxIndirectSegments ?? MAX_INDIRECT_SEGMENTS,
      flush: features.flush !== false, barrier: features.barrier !== false, discard: features.discard !== false && mode === 'w',
    };
  }

  // ---- what the store says -------------------------------------------------------------------------

  probe(): void {
    const { maxIndirectSegments } = this.#limits;
    if (maxIndirectSegments > 0) this.#directories.writeBack('feature-max-indirect-segments', maxIndirectSegments);
    this.#directories.writeBack('multi-queue-max-queues', 1);
    this.#directories.writeBack('max-ring-page-order', this.#maxRingPageOrder());
  }
  #maxRingPageOrder(): number {
    return this.#device.disk.features?.maxRingPageOrder ?? MAX_RING_PAGE_ORDER;
  }
  #offersPersistent(): boolean {
    return this.#device.disk.features?.persistentGrants !== false;
  }

  announce(): void {
    const { flush, barrier, discard, readOnly, sectors512, sectorBytes } = this.#limits;
    const flag = (on: boolean): number => (on ? 1 : 0);
    const rows: readonly (readonly [string, number])[] = [
      ['feature-flush-cache', flag(flush)],
      ...(discard ? ([['discard-granularity', DISCARD_GRANULARITY], ['discard-alignment', 0], ['discard-secure', 0]] as const) : []),
      ['feature-discard', flag(discard)], ['feature-barrier', flag(barrier)], ['feature-persistent', flag(this.#offersPersistent())],
      ['sectors', sectors512], ['info', (this.#device.disk.cdrom === true ? VDISK.CDROM : 0) | (readOnly ? VDISK.READONLY : 0)],
      ['sector-size', sectorBytes], ['physical-sector-size', sectorBytes],
    ];
    for (const [name, value] of rows) this.#directories.writeBack(name, value);
  }

  connect(): string | undefined {
    const from = this.#directories;
    const named = from.readFront('protocol');
    // "native" is dom0's own layout, and dom0 is a 64-bit domain.
    const protocol: BlkifProtocol | undefined = named === undefined || named === 'native' || named === 'x86_64-abi' ? 'x86_64-abi' : named === 'x86_32-abi' ? named : undefined;
    if (protocol === undefined) return `unknown fe protocol ${named?.slice(0, 63)}`;
    const queues = from.numberOfFront('multi-queue-num-queues') ?? 1;
    if (queues !== 1) return `guest requested ${queues} queues, exceeding the maximum of 1.`;
    const order = from.numberOfFront('ring-page-order') ?? 0;
    if (order > this.#maxRingPageOrder()) return `requested ring page order ${order} exceed max:${this.#maxRingPageOrder()}`;
    const channel = from.numberOfFront('event-channel');
    if (channel === undefined) return `reading ${from.front}/event-channel`;
    const grefs = this.#ringGrefs(2 ** order);
    if (typeof grefs === 'string') return grefs;
    const ringPages: GrantedPage[] = [];
    for (const gref of grefs) {
      const page = this.#port.mapGrant(gref, false);
      if (typeof page === 'number') {
        ringPages.forEach((mapped) => this.#port.unmapGrant(mapped));
        return `mapping ring-ref ${gref}: ${page}`;
      }
      ringPages.push(page);
    }
    const ring = new BackRing(ringPages, BLKIF_LAYOUTS[protocol].entryBytes, this.#begunAt(ringPages[0] as GrantedPage));
    ring.available();
    if (ring.broken || !this.#port.bindChannel(channel)) {
      ringPages.forEach((mapped) => this.#port.unmapGrant(mapped));
      return `mapping ring-ref port ${channel}`;
    }
    const usePersistent = this.#offersPersistent() && from.numberOfFront('feature-persistent') === 1;
    this.#connection = { protocol, channel, ringPages, ring, usePersistent, persistent: new Map(), inFlight: [] };
    return undefined;
  }

  /** undefined: where the answers end. The planted mistake: where the requests end. */
  #begunAt(page: GrantedPage): BackRingState | undefined {
    return this.#port.planted === 'forgets-in-flight' ? { reqCons: page.readU32(SRING.fields.req_prod.at), rspProd: page.readU32(SRING.fields.rsp_prod.at), broken: false } : undefined;
  }

  /** ring-ref0 and so on, or ring-ref alone for one page. A text: what could not be read. */
  #ringGrefs(count: number): number[] | string {
    const from = this.#directories;
    const grefs = Array.from({ length: count }, (_, index) => from.numberOfFront(`ring-ref${index}`));
    if (count === 1 && grefs[0] === undefined) grefs[0] = from.numberOfFront('ring-ref');
    const missing = grefs.indexOf(undefined);
    return missing < 0 ? (grefs as number[]) : `reading ${from.front}/ring-ref${count === 1 ? '' : missing}`;
  }

  disconnect(): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#connection = undefined;
    this.#port.unbindChannel(connection.channel);
    for (const { pages } of connection.inFlight) this.#giveBack(pages);
    for (const page of [...connection.persistent.values(), ...connection.ringPages]) this.#port.unmapGrant(page);
  }

  // ---- requests ------------------------------------------------------------------------------------

  run(): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#finishDue(connection);
    if (this.#port.planted === 'no-final-check') this.#takeAndSleep(connection);
    else while (!connection.ring.broken && !this.#barred(connection) && connection.ring.finalCheck()) this.#takeOne(connection);
    if (connection.ring.push()) this.#port.notify(connection.channel);
  }

  /** The planted mistake: what comes between the last look at the ring and the wish for an event is seen by nobody. */
  #takeAndSleep(connection: Connection): void {
    const now = this.#port.nowNs();
    const sleepsAtNs = connection.sleepsAtNs ?? Infinity;
    if (now >= sleepsAtNs) {
      delete connection.sleepsAtNs;
      return connection.ring.wantEvent();
    }
    while (!this.#barred(connection) && connection.ring.available() > 0) this.#takeOne(connection);
    if (sleepsAtNs !== Infinity) return;
    const afterNs = (1 + this.#port.choose('backend.latency', LATENCY_STEPS)) * SLEEP_UNIT_NS;
    connection.sleepsAtNs = now + afterNs;
    this.#port.scheduleRun(afterNs);
  }

  settle(): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#finishDue(connection, Infinity);
    if (connection.ring.push()) this.#port.notify(connection.channel);
  }

  /** A barrier waits for those before it, or is itself under way. */
  #barred({ inFlight }: Connection): boolean {
    return inFlight.some(({ request }) => request.operation === BLKIF_OP.WRITE_BARRIER);
  }

  #takeOne(connection: Connection): void {
    const { ring, protocol } = connection;
    const index = ring.nextRequest;
    const request = parseBlkRequest(ring.take(), protocol);
    const segments = this.#segments(request);
    const sectors = typeof segments === 'number' ? 0 : segments.reduce((sum, row) => sum + row.lastSector - row.firstSector + 1, 0);
    const first = Number.isNaN(request.firstSector512) ? 0 : request.firstSector512;
    const sizeBytes = request.operation === BLKIF_OP.DISCARD ? Math.min(Number.isNaN(request.discardSectors) ? 0 : request.discardSectors, 2 ** 43) * BLKIF_SECTOR_BYTES : sectors * BLKIF_SECTOR_BYTES;
    this.#port.emit(EVENT.ringRequest, [VBD, this.#device.deviceId, index, request.operation, request.idLow, request.idHigh, first, Math.max(0, sizeBytes)]);
    const refused = typeof segments === 'number' ? segments : refuseRead(request, segments, this.#limits);
    if (refused !== undefined) return this.#answer(connection, request, refused);
    const pages = this.#mapPages(connection, request, segments as readonly BlkSegment[]);
    if (pages === undefined) return this.#answer(connection, request, BLKIF_RSP.ERROR);
    const latencyNs = (1 + this.#port.choose('disk.latency', LATENCY_STEPS)) * LATENCY_UNIT_NS;
    // A barrier is carried out after everything that is under way.
    const waits = request.operation === BLKIF_OP.WRITE_BARRIER && this.#port.planted !== 'flush-reordered';
    const now = this.#port.nowNs();
    const others = connection.inFlight.map((row) => row.dueNs);
    const after = waits ? Math.max(now, ...others) : now;
    const lateNs = after + latencyNs + (this.#port.fault?.('block.late') ?? 0) * LATE_NS;
    const overtakes = !waits && others.length > 0 && this.#port.fault?.('block.reorder') === 1;
    // What is under way is due later than now: finishDue() has run.
    const dueNs = overtakes ? Math.min(lateNs, ...others.map((each) => each - 1)) : lateNs;
    connection.inFlight.push({ request, segments: segments as readonly BlkSegment[], dueNs, index, pages });
    this.#port.scheduleRun(dueNs - now);
  }

  /** All segments, those of indirect pages copied once; or the status that refuses. */
  #segments(request: BlkRequest): readonly BlkSegment[] | number {
    const refused = refuseUnread(request, this.#limits);
    if (refused !== undefined) return refused;
    if (request.operation !== BLKIF_OP.INDIRECT) return request.segments;
    const segments: BlkSegment[] = [];
    for (const gref of request.indirectGrefs) {
      const count = Math.min(BLKIF_SEGMENTS_PER_INDIRECT_PAGE, request.segmentCount - segments.length);
      const bytes = this.#port.copyFromGrant(gref, 0, count * BLKIF_SEGMENT_BYTES);
      if (typeof bytes === 'number') return BLKIF_RSP.ERROR;
      segments.push(...segmentsOf(bytes, 0, count));
    }
    return segments;
  }

  /** One page for each segment; undefined: the guest does not grant one of them, and none is kept. */
  #mapPages(connection: Connection, { action }: BlkRequest, segments: readonly BlkSegment[]): (GrantedPage | undefined)[] | undefined {
    const pages: (GrantedPage | undefined)[] = [];
    for (const { gref } of segments) {
      const known = connection.persistent.get(gref);
      const lasting = connection.usePersistent && connection.persistent.size < MAX_PERSISTENT_GRANTS;
      const page = known ?? this.#port.mapGrant(gref, !lasting && action !== BLKIF_OP.READ);
      if (typeof page === 'number') {
        this.#giveBack(pages);
        return undefined;
      }
      if (known === undefined && lasting) connection.persistent.set(gref, page);
      pages.push(known !== undefined || lasting ? undefined : page);
    }
    return pages;
  }
  #giveBack(pages: readonly (GrantedPage | undefined)[]): void {
    for (const page of pages) if (page !== undefined) this.#port.unmapGrant(page);
  }

  /** The disk carries out what is due, the earliest first. */
  #finishDue(connection: Connection, now = this.#port.nowNs()): void {
    const due = connection.inFlight.filter((row) => row.dueNs <= now).sort((a, b) => a.dueNs - b.dueNs || ((a.index - b.index) | 0));
    if (due.length === 0) return;
    connection.inFlight = connection.inFlight.filter((row) => row.dueNs > now);
    for (const row of due) {
      const movedBytes = this.#movedBytes(row);
      const fails = movedBytes < Infinity;
      if (movedBytes > 0) this.#carryOut(connection, row, movedBytes);
      this.#giveBack(row.pages);
      // The planted mistake: the path for errors answers, and goes on into the common one.
      if (fails && this.#port.planted === 'answers-twice') this.#answer(connection, row.request, BLKIF_RSP.ERROR);
      this.#answer(connection, row.request, fails ? BLKIF_RSP.ERROR : BLKIF_RSP.OKAY);
    }
  }

  /** What the disk moves before it fails: whole sectors of its own, and not all of them. Infinity: it does not fail. */
  #movedBytes({ request, segments }: InFlight): number {
    if (this.#port.fault?.('block.error') === 1) return 0;
    const { sectorBytes } = this.#limits;
    const sectors = (request.action === BLKIF_OP.DISCARD ? request.discardSectors * BLKIF_SECTOR_BYTES : bytesOf(segments)) / sectorBytes;
    const share = sectors < 2 ? 0 : (this.#port.fault?.('block.short') ?? 0);
    return share === 0 ? Infinity : (1 + Math.floor(((sectors - 1) * (share - 1)) / SHARES)) * sectorBytes;
  }

  /** Of a request that fails on the way: the first `mostBytes`. */
  #carryOut(connection: Connection, { request, segments, pages }: InFlight, mostBytes: number): void {
    const { action, discardSectors } = request;
    const begin = request.firstSector512 * BLKIF_SECTOR_BYTES;
    if (action === BLKIF_OP.DISCARD) return this.#disk.discard(begin, Math.min(mostBytes, discardSectors * BLKIF_SECTOR_BYTES));
    let offset = begin;
    segments.forEach(({ gref, firstSector, lastSector }, position) => {
      const page = (pages[position] ?? connection.persistent.get(gref)) as GrantedPage;
      const sizeBytes = Math.min((lastSector - firstSector + 1) * BLKIF_SECTOR_BYTES, begin + mostBytes - offset);
      if (sizeBytes === 0) return;
      if (action === BLKIF_OP.READ) page.writeBytes(firstSector * BLKIF_SECTOR_BYTES, this.#disk.read(offset, sizeBytes));
      else this.#disk.write(offset, page.readBytes(firstSector * BLKIF_SECTOR_BYTES, sizeBytes));
      offset += sizeBytes;
    });
  }

  #answer({ ring, protocol }: Connection, request: BlkRequest, status: number): void {
    this.#port.emit(EVENT.ringResponse, [VBD, this.#device.deviceId, ring.nextResponse, request.action, request.idLow, request.idHigh, status]);
    ring.put(blkResponse(protocol, request, status));
  }

  // ---- state ---------------------------------------------------------------------------------------

  save(): SavedConnection | null {
    const connection = this.#connection;
    if (connection === undefined) return null;
    const { protocol, channel, ringPages, ring, usePersistent, persistent, inFlight, sleepsAtNs } = connection;
    const place = (page: GrantedPage | undefined): { gref: number; readOnly: boolean } | null => (page === undefined ? null : { gref: page.gref, readOnly: page.readOnly });
    return {
      protocol, channel, usePersistent, ringGrefs: ringPages.map((page) => page.gref), ring: ring.save(), persistent: [...persistent.keys()], ...(sleepsAtNs === undefined ? {} : { sleepsAtNs }),
      inFlight: inFlight.map(({ pages, ...row }) => ({ ...row, pages: pages.map(place) })),
    };
  }
  restore(state: unknown): void {
    const saved = state as SavedConnection | null;
    this.#connection = undefined;
    if (saved === null) return;
    const mapped = (gref: number, readOnly: boolean): GrantedPage => this.#port.mappedGrant(gref, readOnly);
    const ringPages = saved.ringGrefs.map((gref) => mapped(gref, false));
    this.#connection = {
      protocol: saved.protocol, channel: saved.channel, usePersistent: saved.usePersistent, ringPages,
      ring: new BackRing(ringPages, BLKIF_LAYOUTS[saved.protocol].entryBytes, saved.ring),
      ...(saved.sleepsAtNs === undefined ? {} : { sleepsAtNs: saved.sleepsAtNs }),
      persistent: new Map(saved.persistent.map((gref) => [gref, mapped(gref, false)])),
      inFlight: saved.inFlight.map((row) => ({ ...row, pages: row.pages.map((page) => (page === null ? undefined : mapped(page.gref, page.readOnly))) })),
    };
  }
}
