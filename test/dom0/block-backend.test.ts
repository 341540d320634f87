import { beforeAll, describe, expect, test } from 'vitest';
import { BLKIF_OP, BLKIF_RSP, type BlkifProtocol } from '../../src/abi/blkif.ts';
import { ringSlots, SRING } from '../../src/abi/device-ring.ts';
import type { FaultName } from '../../src/abi/faults.ts';
import { XENBUS_STATE } from '../../src/abi/xenbus.ts';
import { BlockBackend } from '../../src/dom0/block-backend.ts';
import type { DeviceConfig, DiskConfig } from '../../src/dom0/device-spec.ts';
import { blankImage, bytesImage, Disk } from '../../src/dom0/disk.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { BlockFront, writeSegments, type FrontOptions } from './block-front.ts';
import { DeviceHost, GUEST } from './device-host.ts';
import { PlainPage } from './ring-page.ts';

const OP = BLKIF_OP;
const DISK_BYTES = 64 * 1024;

export function imageBytes(): Uint8Array {
  return Uint8Array.from({ length: DISK_BYTES }, (_, at) => (at >>> 9) ^ (at & 0xff));
}

function rig(config: Partial<DiskConfig> = {}, front: FrontOptions = {}): { host: DeviceHost; front: BlockFront; disk: Disk; image: Uint8Array } {
  const image = imageBytes();
  const disk = new Disk(bytesImage(image));
  const device: DeviceConfig = { deviceClass: 'vbd', deviceId: 51712, disk: { vdev: 'xvda', mode: 'w', ...config }, imageName: 'x' };
  const host = new DeviceHost([device], (port) => new BlockBackend(device, port, disk));
  host.toolstack.buildDevices(GUEST);
  host.settle();
  return { host, front: new BlockFront(host, front), disk, image };
}
const whole = (gref: number, firstSector = 0, lastSector = 7): { gref: number; firstSector: number; lastSector: number } => ({ gref, firstSector, lastSector });

beforeAll(loadHashes);

describe('what it says of itself', () => {
  test('before and after connecting', () => {
    const { host, front } = rig();
    expect([host.readBack('feature-max-indirect-segments'), host.readBack('max-ring-page-order'), host.readBack('multi-queue-max-queues'), host.readBack('sectors')]).toEqual(['256', '4', '1', undefined]);
    front.connect();
    expect(['feature-flush-cache', 'feature-barrier', 'feature-discard', 'discard-granularity', 'feature-persistent', 'sectors', 'info', 'sector-size'].map((name) => host.readBack(name))).toEqual(['1', '1', '1', '4096', '1', '128', '0', '512']);
  });
  test('a read-only CD offers no discarding and says what it is', () => {
    const { host, front } = rig({ mode: 'r', cdrom: true, features: { maxIndirectSegments: 0, persistentGrants: false, flush: false, barrier: false, maxRingPageOrder: 0 } });
    front.connect();
    expect(['feature-max-indirect-segments', 'feature-flush-cache', 'feature-barrier', 'feature-discard', 'feature-persistent', 'info', 'max-ring-page-order'].map((name) => host.readBack(name))).toEqual([undefined, '0', '0', '0', '0', '5', '0']);
  });
});

describe.each<BlkifProtocol>(['x86_64-abi', 'x86_32-abi'])('a frontend with the layout of %s', (protocol) => {
  test('has 32 slots in a page and 512 in sixteen', () => {
    const entryBytes = protocol === 'x86_64-abi' ? 112 : 108;
    expect([ringSlots(4096, entryBytes), ringSlots(65536, entryBytes)]).toEqual([32, 512]);
  });

  test('reads what the image has and what it wrote itself; the image stays', () => {
    const { host, front, disk, image } = rig({}, { protocol });
    front.connect();
    const page = host.grant(100);
    const other = host.grant(101);
    expect(front.ask({ op: OP.READ, id: 7, sector: 3, segments: [whole(100, 2, 3)] })).toBe(BLKIF_RSP.OKAY);
    expect(page.bytes.slice(1024, 2048)).toEqual(image.slice(3 * 512, 5 * 512));
    page.bytes.fill(0xab);
    expect(front.ask({ op: OP.WRITE, id: 2 ** 40 + 1, sector: 4, segments: [whole(100, 0, 0), whole(100, 1, 2)] })).toBe(BLKIF_RSP.OKAY);
    expect(front.ask({ op: OP.READ, id: 9, sector: 3, segments: [whole(101)] })).toBe(BLKIF_RSP.OKAY);
    const expected = image.slice(3 * 512, 3 * 512 + 4096);
    expected.fill(0xab, 512, 2048);
    expect(other.bytes).toEqual(expected);
    expect(image).toEqual(imageBytes());
    expect([...disk.changedBlocks()].map((block) => block.offset)).toEqual([0]);
    expect(host.mapped.get(100), 'pages are given back').toBeUndefined();
  });

  test('an indirect request has up to 256 segments in pages of their own', () => {
    const { host, front, image } = rig({}, { protocol });
    front.connect();
    const pages = Array.from({ length: 16 }, (_, index) => host.grant(200 + index));
    const list = host.grant(300);
    const segments = pages.map((_page, index) => whole(200 + index));
    writeSegments(list.bytes, 0, segments);
    expect(front.ask({ op: OP.INDIRECT, id: 1, sector: 0, segments, indirect: { op: OP.READ, grefs: [300] } })).toBe(BLKIF_RSP.OKAY);
    expect(pages.flatMap((page) => [...page.bytes])).toEqual([...image]);
    expect(front.ask({ op: OP.INDIRECT, id: 2, sector: 0, segments, count: 257, indirect: { op: OP.READ, grefs: [300] } })).toBe(BLKIF_RSP.ERROR);
    expect(front.ask({ op: OP.INDIRECT, id: 3, sector: 0, segments, count: 0, indirect: { op: OP.READ, grefs: [300] } })).toBe(BLKIF_RSP.ERROR);
    expect(front.ask({ op: OP.INDIRECT, id: 4, sector: 0, segments, indirect: { op: OP.FLUSH_DISKCACHE, grefs: [300] } })).toBe(BLKIF_RSP.ERROR);
    expect(front.ask({ op: OP.INDIRECT, id: 5, sector: 0, segments, indirect: { op: OP.READ, grefs: [999] } })).toBe(BLKIF_RSP.ERROR);
  });

  test('discards, flushes and orders', () => {
    const { host, front } = rig({}, { protocol });
    front.connect();
    const page = host.grant(100);
    expect(front.ask({ op: OP.DISCARD, id: 1, sector: 1, discardSectors: 9 })).toBe(BLKIF_RSP.OKAY);
    expect(front.ask({ op: OP.READ, id: 2, sector: 1, segments: [whole(100)] })).toBe(BLKIF_RSP.OKAY);
    expect(page.bytes.every((byte) => byte === 0)).toBe(true);
    expect(front.ask({ op: OP.FLUSH_DISKCACHE, id: 3, sector: 0 })).toBe(BLKIF_RSP.OKAY);
    expect(front.ask({ op: OP.WRITE_BARRIER, id: 4, sector: 0, segments: [whole(100)] })).toBe(BLKIF_RSP.OKAY);
    // A barrier may come without data, as a flush may: blkfront_sync() of mini-os.
    expect(front.ask({ op: OP.WRITE_BARRIER, id: 7, sector: 2 ** 40 })).toBe(BLKIF_RSP.OKAY);
    expect(front.ask({ op: OP.DISCARD, id: 5, sector: 1, discardSectors: 128 })).toBe(BLKIF_RSP.ERROR);
    expect(front.ask({ op: OP.DISCARD, id: 6, sector: 1, discardSectors: 2 ** 60 })).toBe(BLKIF_RSP.ERROR);
  });
});

describe('refusals', () => {
  const cases: readonly (readonly [string, Partial<DiskConfig>, Parameters<BlockFront['slot']>[0], number])[] = [
    ['past the end', {}, { op: OP.READ, id: 1, sector: 121, segments: [whole(100)] }, BLKIF_RSP.ERROR],
    ['at a sector that no disk has', {}, { op: OP.READ, id: 1, sector: 2 ** 63, segments: [whole(100)] }, BLKIF_RSP.ERROR],
    ['with a reference that was not granted', {}, { op: OP.READ, id: 1, sector: 0, segments: [whole(77)] }, BLKIF_RSP.ERROR],
    ['into a page that may only be read', {}, { op: OP.READ, id: 1, sector: 0, segments: [whole(101)] }, BLKIF_RSP.ERROR],
    ['with the last sector before the first', {}, { op: OP.READ, id: 1, sector: 0, segments: [whole(100, 3, 2)] }, BLKIF_RSP.ERROR],
    ['with sectors outside the page', {}, { op: OP.READ, id: 1, sector: 0, segments: [whole(100, 0, 8)] }, BLKIF_RSP.ERROR],
    ['without segments', {}, { op: OP.WRITE, id: 1, sector: 0 }, BLKIF_RSP.ERROR],
    ['with more segments than fit', {}, { op: OP.WRITE, id: 1, sector: 0, count: 12 }, BLKIF_RSP.ERROR],
    ['writing to a disk that is read-only', { mode: 'r' }, { op: OP.WRITE, id: 1, sector: 0, segments: [whole(100)] }, BLKIF_RSP.ERROR],
    ['discarding on a disk that is read-only', { mode: 'r' }, { op: OP.DISCARD, id: 1, sector: 0, discardSectors: 8 }, BLKIF_RSP.EOPNOTSUPP],
    ['a barrier that was not offered', { features: { barrier: false } }, { op: OP.WRITE_BARRIER, id: 1, sector: 0, segments: [whole(100)] }, BLKIF_RSP.EOPNOTSUPP],
    ['a flush that was not offered', { features: { flush: false } }, { op: OP.FLUSH_DISKCACHE, id: 1, sector: 0 }, BLKIF_RSP.EOPNOTSUPP],
    ['half a sector of 4096', { sectorBytes: 4096 }, { op: OP.READ, id: 1, sector: 0, segments: [whole(100, 0, 3)] }, BLKIF_RSP.ERROR],
    ['an unaligned sector of 4096', { sectorBytes: 4096 }, { op: OP.READ, id: 1, sector: 4, segments: [whole(100)] }, BLKIF_RSP.ERROR],
    ['SCSI commands', {}, { op: OP.RESERVED_1, id: 1, sector: 0, segments: [whole(100)] }, BLKIF_RSP.EOPNOTSUPP],
    ['an operation that does not exist', {}, { op: 200, id: 1, sector: 0 }, BLKIF_RSP.EOPNOTSUPP],
  ];
  test.each(cases)('%s', (_what, config, request, status) => {
    const { host, front, disk } = rig(config);
    front.connect();
    host.grant(100);
    host.grant(101, new PlainPage(), true);
    expect(front.ask(request)).toBe(status);
    expect(disk.overlayBlocks).toBe(0);
    expect([...host.mapped.keys()], 'only the ring stays mapped').toEqual([8]);
  });

  test.each<[string, (front: BlockFront, host: DeviceHost) => void]>([
    ['a protocol that nobody knows', (_front, host) => host.writeFront('protocol', 'arm-abi')],
    ['a ring that was not granted', (_front, host) => host.writeFront('ring-ref', 4711)],
    ['a channel that is not there', (_front, host) => host.writeFront('event-channel', 4711)],
    ['a ring reference that is no number', (_front, host) => host.writeFront('ring-ref', 'eight')],
    ['more ring pages than were offered', (_front, host) => host.writeFront('ring-page-order', 5)],
    ['several queues', (_front, host) => host.writeFront('multi-queue-num-queues', 2)],
    ['a producer that is ahead by more than the ring has', (front) => front.pages[0]?.writeU32(SRING.fields.req_prod.at, 33)],
  ])('connecting with %s ends as an error, and nothing stays mapped or bound', (_what, spoil) => {
    const { host, front } = rig();
    spoil(front, host);
    host.writeFront('state', XENBUS_STATE.initialised);
    host.settle();
    expect(host.readBack('state')).toBe(String(XENBUS_STATE.closing));
    expect(host.store.readAsDom0('/local/domain/0/error/backend/vbd/1/51712/error')).toMatch(/^-22 /);
    expect([host.mapped.size, host.bound.size]).toEqual([0, 0]);
  });

  test('a producer that jumps ahead breaks the ring until the frontend comes anew', () => {
    const { host, front } = rig();
    front.connect();
    host.grant(100);
    front.pages[0]?.writeU32(SRING.fields.req_prod.at, 1000);
    host.kick();
    host.settle();
    front.pages[0]?.writeU32(SRING.fields.req_prod.at, 0);
    front.push(front.slot({ op: OP.READ, id: 1, sector: 0, segments: [whole(100)] }));
    host.kick();
    host.settle();
    expect(front.answers()).toEqual([]);
    front.close();
    expect([host.mapped.size, host.bound.size]).toEqual([0, 0]);
    host.writeFront('state', XENBUS_STATE.initialising);
    host.settle();
    const again = new BlockFront(host, { firstGref: 50, port: 6 });
    again.connect();
    expect(again.ask({ op: OP.READ, id: 1, sector: 0, segments: [whole(100)] })).toBe(BLKIF_RSP.OKAY);
  });
});

describe('several at once', () => {
  test('a barrier comes after all before it and before all after it', () => {
    const { host, front } = rig();
    front.connect();
    host.grant(100);
    let turn = 0;
    host.choose = (_name, options) => (turn += 5) % options;
    for (let id = 0; id < 9; id++) front.push(front.slot({ op: id === 4 ? OP.WRITE_BARRIER : OP.WRITE, id, sector: id, segments: [whole(100, 0, 0)] }));
    host.kick();
    host.settle();
    const order = front.answers().map((answer) => answer.id);
    expect([...order].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    expect(order.indexOf(4)).toBe(4);
    expect([...order.slice(0, 4)].sort((a, b) => a - b)).toEqual([0, 1, 2, 3]);
    expect(order, 'the others are answered as the disk gets to them').not.toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test('the guest is notified when it asked to be, and not for each of many', () => {
    const { host, front } = rig();
    front.connect();
    host.grant(100);
    for (let id = 0; id < 20; id++) front.push(front.slot({ op: OP.READ, id, sector: id, segments: [whole(100, 0, 0)] }));
    host.kick();
    host.settle();
    expect(host.notified.get(front.port)).toBe(1);
    expect(front.answers()).toHaveLength(20);
  });

  test('persistent grants stay mapped until the frontend closes', () => {
    const { host, front } = rig({}, { persistent: true });
    front.connect();
    host.grant(100);
    for (const id of [1, 2, 3]) expect(front.ask({ op: id === 2 ? OP.WRITE : OP.READ, id, sector: 0, segments: [whole(100)] })).toBe(BLKIF_RSP.OKAY);
    expect(host.mapped.get(100)).toBe(1);
    front.close();
    expect([host.mapped.size, host.bound.size, host.readBack('state')]).toEqual([0, 0, String(XENBUS_STATE.closed)]);
  });

  test('what is under way when the frontend closes is dropped and given back', () => {
    const { host, front, disk } = rig();
    front.connect();
    host.grant(100).bytes.fill(1);
    host.choose = (_name, options) => options - 1;
    front.push(front.slot({ op: OP.WRITE, id: 1, sector: 0, segments: [whole(100)] }));
    host.kick();
    host.settle(host.nowNs + 1000);
    expect(host.mapped.get(100)).toBe(1);
    host.writeFront('state', XENBUS_STATE.closed);
    host.settle();
    expect([host.mapped.size, disk.overlayBlocks, front.answers()]).toEqual([0, 0, []]);
  });
});

describe('faults', () => {
  const faulty = (fault: FaultName, argument: number, config: Partial<DiskConfig> = {}) => {
    const made = rig(config);
    made.front.connect();
    made.host.fault = (name) => (name === fault ? argument : 0);
    return made;
  };

  test.each([[1, 1], [8, 4], [16, 7]])('block.short:%i moves %i of 8 sectors, and all that the guest learns is an error', (argument, sectors) => {
    const { host, front, disk, image } = faulty('block.short', argument);
    const page = host.grant(100);
    page.bytes.fill(0xab);
    expect(front.ask({ op: OP.READ, id: 1, sector: 3, segments: [whole(100, 0, 1), whole(100, 2, 7)] })).toBe(BLKIF_RSP.ERROR);
    expect(page.bytes).toEqual(Uint8Array.of(...image.slice(3 * 512, (3 + sectors) * 512), ...new Uint8Array(4096 - sectors * 512).fill(0xab)));
    page.bytes.fill(0xcd);
    expect(front.ask({ op: OP.WRITE, id: 2, sector: 3, segments: [whole(100)] })).toBe(BLKIF_RSP.ERROR);
    expect(disk.read(3 * 512, 4096)).toEqual(Uint8Array.of(...new Uint8Array(sectors * 512).fill(0xcd), ...image.slice((3 + sectors) * 512, 11 * 512)));
    expect([...host.mapped.keys()], 'its pages are given back').toEqual([8]);
  });

  test('a disk of larger sectors moves whole ones, and none of a single one falls short', () => {
    const { host, front, disk } = faulty('block.short', 16, { sectorBytes: 4096 });
    for (const gref of [100, 101]) host.grant(gref).bytes.fill(1);
    expect(front.ask({ op: OP.WRITE, id: 1, sector: 0, segments: [whole(100), whole(101)] })).toBe(BLKIF_RSP.ERROR);
    expect([disk.read(4095, 1)[0], disk.read(4096, 1)[0]]).toEqual([1, imageBytes()[4096]]);
    expect(front.ask({ op: OP.WRITE, id: 2, sector: 0, segments: [whole(100)] })).toBe(BLKIF_RSP.OKAY);
    expect(front.ask({ op: OP.FLUSH_DISKCACHE, id: 3, sector: 0 })).toBe(BLKIF_RSP.OKAY);
    expect(front.ask({ op: OP.DISCARD, id: 4, sector: 0, discardSectors: 16 })).toBe(BLKIF_RSP.ERROR);
    expect([disk.read(0, 1)[0], disk.read(4096, 1)[0]]).toEqual([0, imageBytes()[4096]]);
  });

  test('block.reorder lets each request overtake those under way, but none a barrier', () => {
    const { host, front } = faulty('block.reorder', 1);
    host.grant(100);
    for (let id = 0; id < 7; id++) front.push(front.slot({ op: id === 3 ? OP.WRITE_BARRIER : OP.WRITE, id, sector: id, segments: [whole(100, 0, 0)] }));
    host.kick();
    host.settle();
    expect(front.answers().map(({ id }) => id)).toEqual([2, 1, 0, 3, 6, 5, 4]);
  });
});

describe('a disk', () => {
  test('reads past the end of its image as zeros, and larger than memory is no matter', () => {
    const disk = new Disk(blankImage(2 ** 45));
    disk.write(2 ** 44 + 5, new Uint8Array([1, 2, 3]));
    expect([...disk.read(2 ** 44 + 4, 6)]).toEqual([0, 1, 2, 3, 0, 0]);
    expect([...new Disk(bytesImage(new Uint8Array([9]))).read(0, 3)]).toEqual([9, 0, 0]);
  });

  test('has the digest of its content, and survives being saved', () => {
    const one = new Disk(bytesImage(imageBytes()));
    const other = new Disk(bytesImage(imageBytes()));
    const empty = one.digest();
    one.write(5000, new Uint8Array(100).fill(7));
    one.write(5050, new Uint8Array(10).fill(8));
    other.write(5050, new Uint8Array(50).fill(7));
    other.write(5000, new Uint8Array(50).fill(7));
    expect(one.digest()).not.toBe(other.digest());
    other.write(5050, new Uint8Array(10).fill(8));
    expect(one.digest()).toBe(other.digest());
    expect(one.digest()).not.toBe(empty);
    const again = new Disk(bytesImage(imageBytes()));
    again.restore(structuredClone(one.save()));
    expect(again.digest()).toBe(one.digest());
    expect(again.read(4990, 200)).toEqual(one.read(4990, 200));
  });
});
