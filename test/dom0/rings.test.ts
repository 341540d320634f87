import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { textToBytes } from '../../src/base/byte-text.ts';
import { CONSOLE_OUT_BYTES, CONSOLE_RING } from '../../src/abi/console-ring.ts';
import { EVENT } from '../../src/abi/events.ts';
import { indexAdd, indexDistance } from '../../src/abi/ring-index.ts';
import { XS, XS_RING, XS_RING_BYTES, XS_RING_ERROR } from '../../src/abi/xenstore.ts';
import { ConsoleBackend } from '../../src/dom0/console.ts';
import { writeDomainEntries } from '../../src/dom0/domain-entries.ts';
import { StoreRing } from '../../src/dom0/store-ring.ts';
import { Xenstored } from '../../src/dom0/xenstored.ts';
import { testPort, type TestPort } from './ring-page.ts';

const F = XS_RING.fields;

/** The guest's side of the store ring, as a driver would be. */
class Guest {
  readonly port: TestPort = testPort();
  readonly store = new Xenstored();
  readonly ring: StoreRing;
  received = '';

  constructor(startIndex = 0) {
    writeDomainEntries(this.store, { domId: 1, name: 'g', memoryKib: 4096, maxMemoryKib: 4096, vcpus: 1, storeMfn: 1, storePort: 1, consoleMfn: 2, consolePort: 2 });
    for (const field of [F.req_cons, F.req_prod, F.rsp_cons, F.rsp_prod]) this.port.page.writeU32(field.at, startIndex);
    this.ring = new StoreRing(this.store, 1, this.port);
    this.ring.connect();
  }

  /** Puts at most `most` bytes of `bytes` into the ring; returns how many went. */
  put(bytes: Uint8Array, most = Infinity): number {
    const { page } = this.port;
    const prod = page.readU32(F.req_prod.at);
    const room = XS_RING_BYTES - indexDistance(page.readU32(F.req_cons.at), prod);
    const count = Math.min(room, bytes.length, most);
    for (let i = 0; i < count; i++) page.writeU8(F.req.at + (indexAdd(prod, i) % XS_RING_BYTES), bytes[i] as number);
    page.writeU32(F.req_prod.at, indexAdd(prod, count));
    return count;
  }

  take(most = Infinity): void {
    const { page } = this.port;
    const cons = page.readU32(F.rsp_cons.at);
    const count = Math.min(most, indexDistance(cons, page.readU32(F.rsp_prod.at)));
    for (let i = 0; i < count; i++) this.received += String.fromCharCode(page.readU8(F.rsp.at + (indexAdd(cons, i) % XS_RING_BYTES)));
    page.writeU32(F.rsp_cons.at, indexAdd(cons, count));
  }

  /** Whole messages received so far: [type, reqId, payload]. */
  messages(): [number, number, string][] {
    const found: [number, number, string][] = [];
    let rest = this.received;
    while (rest.length >= 16) {
      const view = new DataView(textToBytes(rest.slice(0, 16)).buffer);
      const length = view.getUint32(12, true);
      if (rest.length < 16 + length) break;
      found.push([view.getUint32(0, true), view.getUint32(4, true), rest.slice(16, 16 + length)]);
      rest = rest.slice(16 + length);
    }
    this.received = rest;
    return found;
  }
}

function message(type: number, payload: string, reqId = 0, length = payload.length): Uint8Array {
  const bytes = new Uint8Array(16 + payload.length);
  [type, reqId, 0, length].forEach((value, index) => new DataView(bytes.buffer).setUint32(index * 4, value, true));
  bytes.set(textToBytes(payload), 16);
  return bytes;
}

describe('the store ring', () => {
  test('a request is answered, rung for and logged', () => {
    const guest = new Guest();
    guest.put(message(XS.DIRECTORY, 'device/vbd\0', 7));
    guest.ring.run();
    guest.take();
    expect(guest.messages()).toEqual([[XS.ERROR, 7, 'ENOENT\0']]);
    expect(guest.port.notified).toBe(1);
    expect(guest.port.emitted).toEqual([
      { kind: EVENT.xenstoreRequest, values: [XS.DIRECTORY, 7, 0], text: 'device/vbd\0' },
      { kind: EVENT.xenstoreReply, values: [XS.ERROR, 7, 0], text: 'ENOENT\0' },
    ]);
    guest.ring.run();
    expect(guest.port.notified, 'nothing new, no ring').toBe(1);
  });

  test('messages pass whole however they are cut, with indices that wrap at 2^32', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 1500 }), { minLength: 1, maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 5, maxLength: 40 }), fc.constantFrom(0, 0xffff_fff0, 0xffff_f000), (sizes, cuts, startIndex) => {
        const guest = new Guest(startIndex);
        const values = sizes.map((size, index) => String.fromCharCode(97 + index).repeat(size));
        let outgoing = values.flatMap((value, index) => [...message(XS.WRITE, `data/v${index}\0${value}`, index * 2), ...message(XS.READ, `data/v${index}\0`, index * 2 + 1)]);
        for (let turn = 0; turn < 2000 && (outgoing.length > 0 || turn < 60); turn++) {
          const cut = cuts[turn % cuts.length] as number;
          outgoing = outgoing.slice(guest.put(Uint8Array.from(outgoing), cut));
          guest.ring.run();
          guest.take(turn % 3 === 0 ? cut : Infinity);
        }
        guest.ring.run();
        guest.take();
        expect(outgoing).toEqual([]);
        expect(guest.messages()).toEqual(values.flatMap((value, index) => [[XS.WRITE, index * 2, 'OK\0'], [XS.READ, index * 2 + 1, value]]));
      }),
      { seed: 41, numRuns: 60 },
    );
  });

  test('a guest that does not read its answers is not heard for ever', () => {
    const guest = new Guest();
    for (let i = 0; i < 200; i++) {
      guest.put(message(XS.READ, 'name\0', i));
      guest.ring.run();
    }
    const taken = guest.port.emitted.filter((event) => event.kind === EVENT.xenstoreRequest).length;
    expect(taken).toBeLessThan(100);
    for (let i = 0; i < 200; i++) {
      guest.take();
      guest.ring.run();
    }
    expect(guest.messages().length).toBeGreaterThan(taken);
  });

  test.each([
    ['a request index too far ahead', (guest: Guest) => guest.port.page.writeU32(F.req_prod.at, 5000), XS_RING_ERROR.ringIndex],
    ['a response index that makes no sense', (guest: Guest) => (guest.port.page.writeU32(F.rsp_cons.at, 17), guest.put(message(XS.READ, 'name\0'))), XS_RING_ERROR.ringIndex],
    ['a message longer than any may be', (guest: Guest) => guest.put(message(XS.READ, 'name\0', 0, 5000)), XS_RING_ERROR.protocol],
  ] as const)('%s makes the daemon ignore the domain for good', (_what, act, reason) => {
    const guest = new Guest();
    act(guest);
    guest.ring.run();
    expect(guest.port.page.readU32(F.error.at)).toBe(reason);
    for (const field of [F.req_cons, F.req_prod, F.rsp_cons, F.rsp_prod]) guest.port.page.writeU32(field.at, 0);
    guest.put(message(XS.READ, 'name\0'));
    guest.ring.run();
    guest.take();
    expect(guest.messages()).toEqual([]);
  });

  test('random bytes and indices crash nothing', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(2075), fc.nat(255)), { maxLength: 200 }), fc.array(fc.nat(), { minLength: 4, maxLength: 4 }), (writes, indices) => {
        const guest = new Guest();
        for (const [at, value] of writes) guest.port.page.writeU8(at, value);
        [F.req_cons, F.req_prod, F.rsp_cons, F.rsp_prod].forEach((field, i) => guest.port.page.writeU32(field.at, (indices[i] as number) % 2100));
        for (let i = 0; i < 4; i++) guest.ring.run();
      }),
      { seed: 42, numRuns: 300 },
    );
  });

  test('a message under way survives saving', () => {
    const guest = new Guest();
    const bytes = message(XS.READ, 'name\0', 3);
    guest.put(bytes.subarray(0, 18));
    guest.ring.run();
    const saved = JSON.parse(JSON.stringify(guest.ring.save())) as unknown;
    const other = new StoreRing(guest.store, 1, guest.port);
    other.restore(saved);
    guest.put(bytes.subarray(18));
    other.run();
    guest.take();
    expect(guest.messages()).toEqual([[XS.READ, 3, 'g']]);
  });

  test('a slow daemon says nothing before its time, neither replies nor events of watches, whoever rings; and then all of it', () => {
    const guest = new Guest();
    let asked = 0;
    guest.put(message(XS.WATCH, 'device\0tok\0'));
    guest.ring.run();
    guest.take();
    guest.messages();
    const slow = { ...guest.port, page: guest.port.page, nowNs: () => guest.port.atNs, fault: () => (asked++, 3) };
    let ring = new StoreRing(guest.store, 1, slow);
    guest.store.writeAsDom0('/local/domain/1/device/vbd/0/state', '1');
    ring.run();
    expect(guest.port.runsAtNs).toEqual([300_000]);
    guest.port.atNs = 299_999;
    guest.put(message(XS.READ, 'name\0', 4));
    const saved = JSON.parse(JSON.stringify(ring.save())) as unknown;
    ring = new StoreRing(guest.store, 1, slow);
    ring.restore(saved);
    ring.run();
    guest.take();
    expect(guest.messages()).toEqual([]);
    guest.port.atNs = 300_000;
    ring.run();
    guest.take();
    expect(guest.messages()).toEqual([[XS.WATCH_EVENT, 0, 'device/vbd/0/state\0tok\0'], [XS.READ, 4, 'g']]);
    expect([asked, guest.port.runsAtNs.length], 'what has waited is not made to wait again').toEqual([1, 1]);
    ring.run();
    expect(asked).toBe(2);
  });

  test('an event that another one causes waits to be given', () => {
    const guest = new Guest();
    guest.put(message(XS.WATCH, 'device\0tok\0'));
    guest.ring.run();
    guest.take();
    guest.messages();
    expect(guest.ring.hasOutput()).toBe(false);
    guest.store.writeAsDom0('/local/domain/1/device/vbd/0/state', '1');
    expect(guest.ring.hasOutput()).toBe(true);
    guest.ring.run();
    guest.take();
    expect(guest.messages().map(([type, , payload]) => [type, payload])).toEqual([[XS.WATCH_EVENT, 'device/vbd/0/state\0tok\0']]);
  });
});

describe('the console ring', () => {
  const C = CONSOLE_RING.fields;
  const print = (port: TestPort, text: string): void => {
    const prod = port.page.readU32(C.out_prod.at);
    [...text].forEach((char, i) => port.page.writeU8(C.out.at + (indexAdd(prod, i) % CONSOLE_OUT_BYTES), char.charCodeAt(0)));
    port.page.writeU32(C.out_prod.at, indexAdd(prod, text.length));
  };
  const typed = (port: TestPort): string => {
    const cons = port.page.readU32(C.in_cons.at);
    const count = indexDistance(cons, port.page.readU32(C.in_prod.at));
    let text = '';
    for (let i = 0; i < count; i++) text += String.fromCharCode(port.page.readU8(C.in.at + (indexAdd(cons, i) % 1024)));
    port.page.writeU32(C.in_cons.at, indexAdd(cons, count));
    return text;
  };

  test('what the guest prints reaches the world and the log, over the end of the ring too', () => {
    const port = testPort();
    const backend = new ConsoleBackend(port);
    port.page.writeU8(C.connection.at, 1);
    backend.connect();
    expect(port.page.readU8(C.connection.at)).toBe(0);
    for (const field of [C.out_cons, C.out_prod]) port.page.writeU32(field.at, 0xffff_fff8);
    print(port, 'hello, world of rings');
    backend.run();
    expect(port.printed).toBe('hello, world of rings');
    expect(port.notified).toBe(1);
    expect(port.emitted).toEqual([{ kind: EVENT.consoleOut, values: [], text: 'hello, world of rings' }]);
    backend.run();
    expect(port.notified).toBe(1);
  });

  test('what is typed reaches the guest in order, however slowly it reads', () => {
    const port = testPort();
    let backend = new ConsoleBackend(port);
    const text = Array.from({ length: 5000 }, (_, index) => String.fromCharCode(32 + (index % 90))).join('');
    backend.input(textToBytes(text));
    let got = '';
    for (let i = 0; i < 20; i++) {
      got += typed(port);
      const saved = JSON.parse(JSON.stringify(backend.save())) as unknown;
      backend = new ConsoleBackend(port);
      backend.restore(saved);
      backend.run();
    }
    expect(got).toBe(text);
  });

  test('indices that make no sense are left alone', () => {
    const port = testPort();
    const backend = new ConsoleBackend(port);
    port.page.writeU32(C.out_prod.at, 3000);
    port.page.writeU32(C.in_prod.at, 3000);
    backend.input(textToBytes('x'));
    backend.run();
    expect([port.printed, port.notified, port.page.readU32(C.out_cons.at)]).toEqual(['', 0, 0]);
  });
});
