// The block back end against a model disk. The disk acts in the order of its answers, so the model is
// exact: at each answer, a write takes effect, a read must show what the model has. Whatever order the
// latencies make, whenever the frontend closes or the back end is saved and restored, no write that was
// answered with OKAY is lost or torn, and everything is given back.
import * as fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { BLKIF_LAYOUTS, BLKIF_OP, BLKIF_RSP } from '../../src/abi/blkif.ts';
import { SRING } from '../../src/abi/device-ring.ts';
import { XENBUS_STATE } from '../../src/abi/xenbus.ts';
import { BlockBackend } from '../../src/dom0/block-backend.ts';
import type { BlkSegment } from '../../src/dom0/blkif-request.ts';
import type { DeviceConfig } from '../../src/dom0/device-spec.ts';
import { bytesImage, Disk } from '../../src/dom0/disk.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { BlockFront, writeSegments, type FrontOptions } from './block-front.ts';
import { DeviceHost, GUEST } from './device-host.ts';
import { PlainPage } from './ring-page.ts';

const RUNS = process.env['REXEN_DEPTH'] === 'long' ? 10_000 : 60;
const SECTORS = 96;
const PAGES = 24;
const FIRST_PAGE = 100;

type Step =
  | { readonly do: 'submit'; readonly op: number; readonly sector: number; readonly parts: readonly (readonly [page: number, first: number, last: number])[]; readonly indirect: boolean }
  | { readonly do: 'kick' | 'settle' | 'restore' | 'reconnect' }
  | { readonly do: 'pass'; readonly ns: number };

const part = fc.tuple(fc.nat(PAGES - 1), fc.nat(7), fc.nat(7)).map(([page, a, b]) => [page, Math.min(a, b), Math.max(a, b)] as const);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('submit' as const), op: fc.constantFrom(BLKIF_OP.READ, BLKIF_OP.WRITE, BLKIF_OP.WRITE, BLKIF_OP.WRITE_BARRIER, BLKIF_OP.FLUSH_DISKCACHE, BLKIF_OP.DISCARD), sector: fc.nat(SECTORS + 4), parts: fc.array(part, { minLength: 1, maxLength: 11 }), indirect: fc.boolean() }) },
  { weight: 4, arbitrary: fc.constant({ do: 'kick' as const }) },
  { weight: 3, arbitrary: fc.nat(60_000).map((ns) => ({ do: 'pass' as const, ns })) },
  { weight: 2, arbitrary: fc.constantFrom({ do: 'settle' as const }, { do: 'restore' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'reconnect' as const }) },
);

interface Pending {
  readonly op: number;
  readonly sector: number;
  readonly segments: readonly BlkSegment[];
  /** What a write puts on the disk. */
  readonly data: Uint8Array;
  readonly discardSectors: number;
}

class Bench {
  readonly disk: Disk;
  readonly model = new Uint8Array(SECTORS * 512).map((_, at) => at * 7);
  readonly image = this.model.slice();
  readonly device: DeviceConfig = { deviceClass: 'vbd', deviceId: 51712, disk: { vdev: 'xvda', mode: 'w' }, imageName: 'x' };
  readonly host: DeviceHost;
  readonly options: FrontOptions;
  front: BlockFront;
  pending = new Map<number, Pending>();
  /** Pages that a request under way uses: as a real frontend, they are not used twice. */
  busy = new Set<number>();
  nextId = 1;

  constructor(options: FrontOptions, choose: (options: number) => number) {
    this.options = options;
    this.disk = new Disk(bytesImage(this.image));
    this.host = new DeviceHost([this.device], (port) => new BlockBackend(this.device as never, port, this.disk));
    this.host.choose = (_name, many) => choose(many);
    this.host.toolstack.buildDevices(GUEST);
    this.host.settle();
    for (let page = 0; page < PAGES; page++) this.host.grant(FIRST_PAGE + page);
    this.front = new BlockFront(this.host, options);
    this.front.connect();
  }

  submit({ op, sector, parts, indirect }: Extract<Step, { do: 'submit' }>): void {
    const mayIndirect = indirect && (op === BLKIF_OP.READ || op === BLKIF_OP.WRITE);
    const listGref = 500 + (this.nextId % 64);
    if (this.front.free() === 0) return;
    const segments: BlkSegment[] = [];
    for (const [page, firstSector, lastSector] of op === BLKIF_OP.FLUSH_DISKCACHE || op === BLKIF_OP.DISCARD ? [] : parts) {
      if (this.busy.has(page)) continue;
      this.busy.add(page);
      segments.push({ gref: FIRST_PAGE + page, firstSector, lastSector });
    }
    if (segments.length === 0 && op !== BLKIF_OP.FLUSH_DISKCACHE && op !== BLKIF_OP.DISCARD) return;
    const id = this.nextId++;
    const data: number[] = [];
    for (const { gref, firstSector, lastSector } of segments) {
      const { page } = this.host.grants.get(gref) as { page: PlainPage };
      for (let at = firstSector * 512; at < (lastSector + 1) * 512; at++) page.writeU8(at, (id * 31 + at) & 0xff);
      data.push(...page.readBytes(firstSector * 512, (lastSector - firstSector + 1) * 512));
    }
    const discardSectors = (id * 5) % 13;
    this.pending.set(id, { op, sector, segments, data: Uint8Array.from(data), discardSectors });
    if (mayIndirect) writeSegments(this.host.grant(listGref).bytes, 0, segments);
    this.front.push(this.front.slot({ op: mayIndirect ? BLKIF_OP.INDIRECT : op, id, sector, segments, discardSectors, ...(mayIndirect ? { indirect: { op, grefs: [listGref] } } : {}) }));
  }

  collect(): void {
    for (const { id, status } of this.front.answers()) {
      const request = this.pending.get(id) as Pending;
      expect(request, `answer to ${id}, which is not under way`).toBeDefined();
      this.pending.delete(id);
      for (const { gref } of request.segments) this.busy.delete(gref - FIRST_PAGE);
      const sectors = request.op === BLKIF_OP.DISCARD ? request.discardSectors : request.data.length / 512;
      const fits = request.op === BLKIF_OP.FLUSH_DISKCACHE || request.sector + sectors <= SECTORS;
      expect(status, `request ${id}`).toBe(fits ? BLKIF_RSP.OKAY : BLKIF_RSP.ERROR);
      if (!fits) continue;
      const at = request.sector * 512;
      if (request.op === BLKIF_OP.DISCARD) this.model.fill(0, at, at + sectors * 512);
      else if (request.op === BLKIF_OP.WRITE || request.op === BLKIF_OP.WRITE_BARRIER) this.model.set(request.data, at);
      else if (request.op === BLKIF_OP.READ) this.checkRead(request, at);
    }
  }

  checkRead(request: Pending, at: number): void {
    const seen = request.segments.flatMap(({ gref, firstSector, lastSector }) => [...(this.host.grants.get(gref) as { page: PlainPage }).page.readBytes(firstSector * 512, (lastSector - firstSector + 1) * 512)]);
    expect(Buffer.compare(Uint8Array.from(seen), this.model.subarray(at, at + seen.length)), 'what was read').toBe(0);
  }

  /** Time passes one entry of the agenda at a time, so that answers are seen as they come. */
  pass(untilNs: number): void {
    for (let left = 4000; left > 0 && this.host.nowNs < untilNs && this.host.step(); left--) this.collect();
  }

  apply(one: Step): void {
    switch (one.do) {
      case 'submit':
        return this.submit(one);
      case 'kick':
        return this.host.kick();
      case 'pass':
        return this.pass(this.host.nowNs + one.ns);
      case 'settle':
        this.host.kick();
        this.pass(this.host.nowNs + 1e9);
        expect(this.pending.size, 'all requests are answered').toBe(0);
        return;
      case 'restore':
        this.host.backend?.restore(JSON.parse(JSON.stringify(this.host.backend.save())));
        this.disk.restore(structuredClone(this.disk.save()));
        return;
      case 'reconnect':
        this.front.close();
        this.collect();
        expect([this.host.mapped.size, this.host.bound.size], 'everything is given back').toEqual([0, 0]);
        this.pending.clear();
        this.busy.clear();
        this.host.writeFront('state', XENBUS_STATE.initialising);
        this.host.settle();
        this.front = new BlockFront(this.host, this.options);
        this.front.connect();
        return;
    }
  }
}

beforeAll(loadHashes);

test('no acknowledged write is lost or torn, whatever the order of things', () => {
  const options = fc.record({ protocol: fc.constantFrom('x86_64-abi' as const, 'x86_32-abi' as const), order: fc.nat(2), persistent: fc.boolean(), startIndex: fc.constantFrom(0, 0xffff_fff0) });
  fc.assert(
    fc.property(options, fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }), fc.infiniteStream(fc.nat(15)), (front, steps, latencies) => {
      const bench = new Bench(front, (many) => (latencies.next().value as number) % many);
      for (const one of steps) bench.apply(one);
      bench.apply({ do: 'settle' });
      expect(Buffer.compare(bench.disk.read(0, SECTORS * 512), bench.model), 'the disk').toBe(0);
      bench.apply({ do: 'reconnect' });
    }),
    { numRuns: RUNS, seed: 20070612 },
  );
});

test('a hostile frontend breaks only itself', () => {
  const noise = fc.uint8Array({ minLength: 112, maxLength: 112 });
  fc.assert(
    fc.property(fc.constantFrom('x86_64-abi' as const, 'x86_32-abi' as const), fc.boolean(), fc.array(fc.record({ slot: noise, like: fc.nat(7), jump: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.integer() }), revoke: fc.boolean() }), { maxLength: 40 }), (protocol, persistent, moves) => {
      const bench = new Bench({ protocol, persistent }, (many) => many - 1);
      const { host, front } = bench;
      moves.forEach(({ slot, like, jump, revoke }, index) => {
        // Close to sense, or it would never get past the first check.
        slot[0] = like;
        if (like !== 6) slot[1] = (slot[1] as number) % 12;
        const at = BLKIF_LAYOUTS[protocol];
        for (let segment = 0; segment < 11; segment++) slot.set([FIRST_PAGE + ((slot[at.segments + segment * 8] as number) % (PAGES + 2)), 0, 0, 0, (slot[at.segments + segment * 8 + 4] as number) % 4, 4 + ((slot[at.segments + segment * 8 + 5] as number) % 5)], at.segments + segment * 8);
        front.ringBytes(SRING.sizeBytes + (index % front.slots) * at.entryBytes, slot.subarray(0, at.entryBytes));
        front.reqProd = (front.reqProd + jump) >>> 0;
        front.pages[0]?.writeU32(SRING.fields.req_prod.at, front.reqProd);
        if (revoke && !persistent) host.grants.set(FIRST_PAGE + (index % PAGES), { page: new PlainPage(), readOnly: index % 2 === 0 });
        host.kick();
        host.settle(host.nowNs + 10_000);
      });
      front.close();
      host.settle();
      expect([host.mapped.size, host.bound.size]).toEqual([0, 0]);
      expect(Buffer.compare(bench.image, new Uint8Array(SECTORS * 512).map((_, at) => at * 7)), 'the image').toBe(0);
    }),
    { numRuns: RUNS, seed: 42 },
  );
});
