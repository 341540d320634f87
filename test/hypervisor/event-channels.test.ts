// Event channels beyond what the recordings hold: back ends, pollers, timers, the FIFO queues.
import { describe, expect, test } from 'vitest';
import { connectBackend, disconnectBackend, notifyFromBackend } from '../../src/hypervisor/event-channels.ts';
import { SmallGuest } from './small-guest.ts';

const EVTCHN = 32;
const OP = { bind_virq: 1, close: 3, send: 4, status: 5, bind_ipi: 7, unmask: 9, reset: 10, init_control: 11, expand_array: 12, set_priority: 13 } as const;

const bindIpi = (guest: SmallGuest): number => {
  expect(guest.call(EVTCHN, OP.bind_ipi, guest.words(0, 0))).toBe(0);
  return guest.readWord(1);
};
const send = (guest: SmallGuest, port: number): number => guest.call(EVTCHN, OP.send, guest.words(port));

describe('back ends', () => {
  test('an event to an unbound port is dropped, to a connected one it reaches the back end', () => {
    const guest = new SmallGuest();
    expect(send(guest, 1)).toBe(0);
    expect(guest.backend).toEqual([]);
    expect(connectBackend(guest.state.hv, 1, 1, 17)).toBe(true);
    expect(send(guest, 1)).toBe(0);
    expect(guest.backend).toEqual([1]);
  });

  test('the guest sees a connected port as interdomain with domain 0', () => {
    const guest = new SmallGuest();
    connectBackend(guest.state.hv, 1, 1, 17);
    expect(guest.call(EVTCHN, OP.status, guest.words(0x7ff0, 1, 0, 0, 0, 0))).toBe(0);
    expect([2, 3, 4, 5].map((index) => guest.readWord(index))).toEqual([2, 0, 0, 17]);
  });

  test('a back end cannot take a port twice, nor one that waits for another domain', () => {
    const guest = new SmallGuest();
    expect(connectBackend(guest.state.hv, 1, 2)).toBe(true);
    expect(connectBackend(guest.state.hv, 1, 2)).toBe(false);
    expect(connectBackend(guest.state.hv, 1, bindIpi(guest))).toBe(false);
    expect(connectBackend(guest.state.hv, 1, 60)).toBe(false);
  });

  test('its notification makes the port pending and asks for an upcall; after close nothing happens', () => {
    const guest = new SmallGuest();
    const { hv, vcpu } = guest.state;
    connectBackend(hv, 1, 1);
    notifyFromBackend(hv, 1, 1);
    expect(guest.pending(1)).toBe(true);
    expect(hv.machine.readU8(vcpu.vcpuInfoMaddr)).toBe(1);
    expect(guest.call(EVTCHN, OP.close, guest.words(1))).toBe(0);
    expect(guest.pending(1)).toBe(false);
    notifyFromBackend(hv, 1, 1);
    expect(guest.pending(1)).toBe(false);
  });

  test('a back end that leaves puts the port back to waiting', () => {
    const guest = new SmallGuest();
    connectBackend(guest.state.hv, 1, 1);
    disconnectBackend(guest.state.hv, 1, 1);
    expect(guest.state.d1.events.ports[1]?.binding).toEqual({ kind: 'unbound', remoteDomId: 0 });
  });
});

/** A guest that has switched to the FIFO ABI: control block in f0, first array page f1. */
function fifoGuest(): SmallGuest & { word: (port: number) => number; head: (queue: number) => number; ready: () => number } {
  const guest = new SmallGuest();
  const { hv, mfns } = guest.state;
  const control = mfns.get('f0') as number;
  const array = mfns.get('f1') as number;
  expect(guest.call(EVTCHN, OP.init_control, guest.words(control, 0, 8, 0, 0, 0))).toBe(0);
  expect(guest.readWord(4) & 0xff).toBe(17);
  expect(guest.call(EVTCHN, OP.expand_array, guest.words(array, 0))).toBe(0);
  return Object.assign(guest, {
    word: (port: number) => hv.machine.readU32(array * 4096 + port * 4),
    head: (queue: number) => hv.machine.readU32(control * 4096 + 8 + 8 + queue * 4),
    ready: () => hv.machine.readU32(control * 4096 + 8),
  });
}
const PENDING = 0x8000_0000;
const MASKED = 0x4000_0000;
const LINKED = 0x2000_0000;

describe('the FIFO ABI', () => {
  test('events queue up in order: head, links, tail', () => {
    const guest = fifoGuest();
    const ports = [bindIpi(guest), bindIpi(guest), bindIpi(guest)] as const;
    for (const port of ports) send(guest, port);
    expect(guest.head(7)).toBe(ports[0]);
    expect(guest.ready()).toBe(1 << 7);
    expect(guest.word(ports[0])).toBe(PENDING + LINKED + ports[1]);
    expect(guest.word(ports[1])).toBe(PENDING + LINKED + ports[2]);
    expect(guest.word(ports[2])).toBe(PENDING + LINKED);
  });

  test('a second event on a linked port adds nothing', () => {
    const guest = fifoGuest();
    const port = bindIpi(guest);
    send(guest, port);
    send(guest, port);
    expect(guest.head(7)).toBe(port);
    expect(guest.word(port)).toBe(PENDING + LINKED);
  });

  test('a masked event is pending but not queued until it is unmasked', () => {
    const guest = fifoGuest();
    const { hv, mfns } = guest.state;
    const port = bindIpi(guest);
    hv.machine.writeU32((mfns.get('f1') as number) * 4096 + port * 4, MASKED);
    send(guest, port);
    expect(guest.word(port)).toBe(PENDING + MASKED);
    expect(guest.ready()).toBe(0);
    expect(guest.call(EVTCHN, OP.unmask, guest.words(port))).toBe(0);
    expect(guest.word(port)).toBe(PENDING + LINKED);
    expect(guest.head(7)).toBe(port);
  });

  test('priorities have queues of their own; one below the lowest is refused', () => {
    const guest = fifoGuest();
    const port = bindIpi(guest);
    expect(guest.call(EVTCHN, OP.set_priority, guest.words(port, 16))).toBe(-22);
    expect(guest.call(EVTCHN, OP.set_priority, guest.words(port, 3))).toBe(0);
    send(guest, port);
    expect(guest.head(3)).toBe(port);
    expect(guest.ready()).toBe(1 << 3);
  });

  test('after the guest took an event, the next one starts the queue anew', () => {
    const guest = fifoGuest();
    const { hv, mfns } = guest.state;
    const [first, second] = [bindIpi(guest), bindIpi(guest)];
    send(guest, first as number);
    // The guest consumes: clears PENDING and LINKED, the head and the ready bit.
    hv.machine.writeU32((mfns.get('f1') as number) * 4096 + (first as number) * 4, 0);
    hv.machine.writeU32((mfns.get('f0') as number) * 4096 + 8, 0);
    send(guest, second as number);
    expect(guest.head(7)).toBe(second);
    expect(guest.word(first as number)).toBe(0);
  });

  test('events pending in the old ABI come back when their array page does', () => {
    const guest = new SmallGuest();
    const { mfns, hv } = guest.state;
    const port = bindIpi(guest);
    send(guest, port);
    expect(guest.call(EVTCHN, OP.init_control, guest.words(mfns.get('f0') as number, 0, 0, 0, 0, 0))).toBe(0);
    expect(guest.call(EVTCHN, OP.expand_array, guest.words(mfns.get('f1') as number, 0))).toBe(0);
    expect(hv.machine.readU32((mfns.get('f1') as number) * 4096 + port * 4)).toBe(PENDING + LINKED);
  });

  test('refusals: a page table, a foreign frame, a second block, a bad offset, an array without a block', () => {
    const guest = new SmallGuest();
    const { mfns } = guest.state;
    const mfn = (name: string): number => mfns.get(name) as number;
    expect(guest.call(EVTCHN, OP.expand_array, guest.words(mfn('f1'), 0))).toBe(-95);
    for (const name of ['scratch_l1', 'foreign', 'gdt', 'hole']) expect(guest.call(EVTCHN, OP.init_control, guest.words(mfn(name), 0, 0, 0, 0, 0)), name).toBe(-22);
    for (const offset of [4, 4032, 4096]) expect(guest.call(EVTCHN, OP.init_control, guest.words(mfn('f0'), 0, offset, 0, 0, 0))).toBe(-22);
    expect(guest.call(EVTCHN, OP.init_control, guest.words(mfn('f0'), 0, 0, 1, 0, 0))).toBe(-2);
    expect(guest.call(EVTCHN, OP.init_control, guest.words(mfn('f0'), 0, 0, 0, 0, 0))).toBe(0);
    expect(guest.call(EVTCHN, OP.init_control, guest.words(mfn('f2'), 0, 0, 0, 0, 0))).toBe(-22);
  });

  test('a reset lets the pages go and returns to two levels', () => {
    const guest = fifoGuest();
    const { hv, mfns, d1 } = guest.state;
    const f0 = mfns.get('f0') as number;
    const held = hv.frames.refCount[f0] as number;
    expect(guest.call(EVTCHN, OP.reset, guest.words(0x7ff0))).toBe(0);
    expect(d1.events.fifo).toBeUndefined();
    expect(hv.frames.refCount[f0]).toBe(held - 1);
    const port = bindIpi(guest);
    send(guest, port);
    expect(guest.pending(port)).toBe(true);
  });

  test('a control block that the guest scribbles over harms nobody', () => {
    const guest = fifoGuest();
    const { hv, mfns } = guest.state;
    const ports = [bindIpi(guest), bindIpi(guest)];
    for (let word = 0; word < 1024; word++) hv.machine.writeU32((mfns.get('f1') as number) * 4096 + word * 4, 0x3fff_ffff);
    for (let word = 0; word < 18; word++) hv.machine.writeU32((mfns.get('f0') as number) * 4096 + 8 + word * 4, 0xffff_ffff);
    for (const port of ports) expect(send(guest, port)).toBe(0);
    for (const port of ports) expect(guest.call(EVTCHN, OP.close, guest.words(port))).toBe(0);
  });
});
