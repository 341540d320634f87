// A frontend for tests: drives a block ring from the guest's side, in either layout.
import { BLKIF_LAYOUTS, BLKIF_OP, BLKIF_RESPONSE, type BlkifProtocol } from '../../src/abi/blkif.ts';
import { ringSlots, SRING } from '../../src/abi/device-ring.ts';
import { XENBUS_STATE } from '../../src/abi/xenbus.ts';
import type { BlkSegment } from '../../src/dom0/blkif-request.ts';
import type { DeviceHost } from './device-host.ts';
import { PlainPage } from './ring-page.ts';

export interface FrontOptions {
  readonly protocol?: BlkifProtocol;
  readonly order?: number;
  readonly persistent?: boolean;
  /** Where the free-running indices begin. */
  readonly startIndex?: number;
  readonly firstGref?: number;
  readonly port?: number;
}

export interface Answer {
  readonly id: number;
  readonly operation: number;
  readonly status: number;
}

export class BlockFront {
  readonly host: DeviceHost;
  readonly protocol: BlkifProtocol;
  readonly pages: PlainPage[];
  readonly slots: number;
  readonly port: number;
  reqProd: number;
  rspCons: number;

  constructor(host: DeviceHost, options: FrontOptions = {}) {
    const { protocol = 'x86_64-abi', order = 0, persistent = false, startIndex = 0, firstGref = 8, port = 5 } = options;
    this.host = host;
    this.protocol = protocol;
    this.port = port;
    this.reqProd = this.rspCons = startIndex;
    this.pages = Array.from({ length: 2 ** order }, (_, index) => host.grant(firstGref + index));
    this.slots = ringSlots(this.pages.length * 4096, BLKIF_LAYOUTS[protocol].entryBytes);
    for (const field of Object.values(SRING.fields)) this.#header.writeU32(field.at, startIndex);
    this.#header.writeU32(SRING.fields.rsp_event.at, (startIndex + 1) >>> 0);
    this.#header.writeU32(SRING.fields.req_event.at, (startIndex + 1) >>> 0);
    host.unbound.add(port);
    if (order === 0) host.writeFront('ring-ref', firstGref);
    else {
      host.writeFront('ring-page-order', order);
      this.pages.forEach((_page, index) => host.writeFront(`ring-ref${index}`, firstGref + index));
    }
    host.writeFront('event-channel', port);
    host.writeFront('protocol', protocol);
    host.writeFront('feature-persistent', persistent ? 1 : 0);
  }

  get #header(): PlainPage {
    return this.pages[0] as PlainPage;
  }

  connect(): void {
    this.host.writeFront('state', XENBUS_STATE.initialised);
    this.host.settle();
    if (this.host.readBack('state') !== String(XENBUS_STATE.connected)) throw new Error(`the back end is in state ${this.host.readBack('state')}`);
    this.host.writeFront('state', XENBUS_STATE.connected);
    this.host.settle();
  }

  close(): void {
    for (const state of [XENBUS_STATE.closing, XENBUS_STATE.closed]) {
      this.host.writeFront('state', state);
      this.host.settle();
    }
  }

  free(): number {
    return this.slots - ((this.reqProd - this.rspCons) >>> 0);
  }

  /** A slot as bytes. */
  slot(fields: { op: number; id: number; sector: number; segments?: readonly BlkSegment[]; count?: number; discardSectors?: number; indirect?: { op: number; grefs: readonly number[] } }): Uint8Array {
    const at = BLKIF_LAYOUTS[this.protocol];
    const bytes = new Uint8Array(at.entryBytes);
    const view = new DataView(bytes.buffer);
    const u64 = (where: number, value: number): void => {
      view.setUint32(where, value >>> 0, true);
      view.setUint32(where + 4, Math.floor(value / 0x1_0000_0000) >>> 0, true);
    };
    const { segments = [], indirect } = fields;
    view.setUint8(0, fields.op);
    if (indirect === undefined) view.setUint8(1, fields.count ?? segments.length);
    else {
      view.setUint8(1, indirect.op);
      view.setUint16(2, fields.count ?? segments.length, true);
      indirect.grefs.forEach((gref, index) => view.setUint32(at.indirectGrefs + 4 * index, gref, true));
    }
    u64(at.id, fields.id);
    u64(at.sector, fields.sector);
    if (fields.op === BLKIF_OP.DISCARD) u64(at.discardSectors, fields.discardSectors ?? 0);
    else if (indirect === undefined) writeSegments(bytes, at.segments, segments);
    return bytes;
  }

  /** Puts a slot into the ring and shows it to the back end. */
  push(bytes: Uint8Array): void {
    const at = SRING.sizeBytes + (this.reqProd % this.slots) * BLKIF_LAYOUTS[this.protocol].entryBytes;
    this.ringBytes(at, bytes);
    this.reqProd = (this.reqProd + 1) >>> 0;
    this.#header.writeU32(SRING.fields.req_prod.at, this.reqProd);
  }

  ringBytes(at: number, bytes: Uint8Array): void {
    bytes.forEach((byte, index) => (this.pages[Math.floor((at + index) / 4096)] as PlainPage).writeU8((at + index) % 4096, byte));
  }

  answers(): Answer[] {
    const answers: Answer[] = [];
    const { entryBytes, responseBytes } = BLKIF_LAYOUTS[this.protocol];
    for (const prod = this.#header.readU32(SRING.fields.rsp_prod.at); this.rspCons !== prod; this.rspCons = (this.rspCons + 1) >>> 0) {
      const at = SRING.sizeBytes + (this.rspCons % this.slots) * entryBytes;
      const bytes = Uint8Array.from({ length: responseBytes }, (_, index) => (this.pages[Math.floor((at + index) / 4096)] as PlainPage).readU8((at + index) % 4096));
      const view = new DataView(bytes.buffer);
      answers.push({ id: view.getUint32(BLKIF_RESPONSE.id, true) + view.getUint32(BLKIF_RESPONSE.id + 4, true) * 0x1_0000_0000, operation: view.getUint8(BLKIF_RESPONSE.operation), status: view.getInt16(BLKIF_RESPONSE.status, true) });
    }
    this.#header.writeU32(SRING.fields.rsp_event.at, (this.rspCons + 1) >>> 0);
    return answers;
  }

  /** One request, alone: its status. */
  ask(fields: Parameters<BlockFront['slot']>[0]): number {
    this.push(this.slot(fields));
    this.host.kick();
    this.host.settle();
    const answers = this.answers();
    if (answers.length !== 1 || answers[0]?.id !== fields.id || answers[0].operation !== (fields.indirect?.op ?? fields.op)) throw new Error(`answers: ${JSON.stringify(answers)}`);
    return answers[0].status;
  }
}

export function writeSegments(bytes: Uint8Array, at: number, segments: readonly BlkSegment[]): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  segments.forEach(({ gref, firstSector, lastSector }, index) => {
    view.setUint32(at + 8 * index, gref, true);
    view.setUint8(at + 8 * index + 4, firstSector);
    view.setUint8(at + 8 * index + 5, lastSector);
  });
}
