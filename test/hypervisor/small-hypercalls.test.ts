// Scheduling, timers, vCPU operations, versions, callbacks and what a domU is refused.
import { describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { setUpcallMask, markUpcallPending } from '../../src/hypervisor/shared-info.ts';
import { timeScale } from '../../src/hypervisor/time.ts';
import { pauseDomain, resumeDomain } from '../../src/hypervisor/vcpu-state.ts';
import type { AbiName } from '../../src/hypervisor/personality.ts';
import { SmallGuest } from './small-guest.ts';

const NR = {
  set_trap_table: 0, stack_switch: 3, set_callbacks: 4, fpu_taskswitch: 5, sched_op_compat: 6, set_debugreg: 8, get_debugreg: 9, set_timer_op: 15, xen_version: 17,
  console_io: 18, vcpu_op: 24, set_segment_base: 25, sched_op: 29, nmi_op: 28, callback_op: 30, event_channel_op: 32, physdev_op: 33, sysctl: 35, domctl: 36, platform_op: 7, argo_op: 39, xenpmu_op: 40,
} as const;
const VIRQ_TIMER = 0;
const bindTimer = (guest: SmallGuest): number => {
  expect(guest.call(NR.event_channel_op, 1, guest.words(VIRQ_TIMER, 0, 0))).toBe(0);
  return guest.readWord(2);
};

describe('block and poll', () => {
  test('block enables events and waits; an event wakes', () => {
    const guest = new SmallGuest();
    const { hv, vcpu } = guest.state;
    expect(guest.call(NR.sched_op, 1, 0)).toBe(0);
    expect(vcpu.blocked).toBe(true);
    expect(guest.runnable).toBe(false);
    expect(hv.machine.readU8(vcpu.vcpuInfoMaddr + 1)).toBe(0);
    const port = bindTimer(guest);
    expect(guest.call(NR.set_timer_op, 5000, 0)).toBe(0);
    guest.advance(5000);
    expect(guest.pending(port)).toBe(true);
    expect(vcpu.blocked).toBe(false);
    expect(guest.runnable).toBe(true);
  });

  test('block does not wait when an event is pending already', () => {
    const guest = new SmallGuest();
    markUpcallPending(guest.state.hv, guest.state.vcpu);
    expect(guest.call(NR.sched_op, 1, 0)).toBe(0);
    expect(guest.state.vcpu.blocked).toBe(false);
  });

  test('poll wakes for its one port, not for another', () => {
    const guest = new SmallGuest();
    const { vcpu, hv } = guest.state;
    const ports = [0, 1].map(() => {
      expect(guest.call(NR.event_channel_op, 7, guest.words(0, 0))).toBe(0);
      return guest.readWord(1);
    });
    const list = guest.words(0, 1, 0, 0, ports[0] as number) + 16;
    hv.machine.writeU32(guest.maddr(0), list);
    expect(guest.call(NR.sched_op, 3, list - 16)).toBe(0);
    expect(vcpu.blocked).toBe(true);
    setUpcallMask(hv, vcpu, 1);
    // Another port asks for an upcall, which wakes whatever the poll says; masked, it does not.
    hv.machine.writeU8(guest.state.d1.sharedInfoMfn * 4096 + 2176, 0xff);
    expect(guest.call(NR.event_channel_op, 4, guest.words(ports[1] as number))).toBe(0);
    expect(vcpu.blocked).toBe(true);
    expect(guest.call(NR.event_channel_op, 4, guest.words(ports[0] as number))).toBe(0);
    expect(vcpu.blocked).toBe(false);
  });

  test('poll ends at its timeout, and refuses too many ports and ports that are none', () => {
    const guest = new SmallGuest();
    const { vcpu } = guest.state;
    guest.nowNs = 1000;
    expect(guest.call(NR.sched_op, 3, guest.words(0, 0, 9000, 0))).toBe(0);
    expect(vcpu.blocked).toBe(true);
    guest.advance(9000);
    expect(vcpu.blocked).toBe(false);
    expect(guest.call(NR.sched_op, 3, guest.words(0, 129, 0, 0))).toBe(-22);
    const base = guest.words(0, 1, 0, 0, 50);
    guest.state.hv.machine.writeU32(guest.maddr(0), base + 16);
    expect(guest.call(NR.sched_op, 3, base)).toBe(-22);
  });
});

describe('the end of a domain', () => {
  test('shutdown stops it with the reason, or with the code given before', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.sched_op, 5, guest.words(3))).toBe(0);
    expect(guest.call(NR.sched_op, 2, guest.words(0))).toBe(0);
    expect(guest.shutdowns.map(({ reason }) => reason)).toEqual([3]);
    expect(guest.state.d1.life).toEqual({ kind: 'shutdown', reason: 3 });
  });

  test('the old form has the reason in the register', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.sched_op_compat, 2, 1)).toBe(0);
    expect(guest.state.d1.life).toEqual({ kind: 'shutdown', reason: 1 });
  });

  test('the last vCPU to go down powers the domain off', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.vcpu_op, 2, 0, 0)).toBe(0);
    expect(guest.state.d1.life).toEqual({ kind: 'shutdown', reason: 0 });
  });

  test('a suspended domain goes on when it is resumed, one that was switched off does not', () => {
    const guest = new SmallGuest();
    const { hv, d1 } = guest.state;
    guest.call(NR.sched_op, 2, guest.words(2));
    expect([d1.life, guest.runnable]).toEqual([{ kind: 'shutdown', reason: 2 }, false]);
    expect(resumeDomain(hv, d1)).toBe(true);
    expect([d1.life, guest.runnable]).toEqual([{ kind: 'running' }, true]);
    guest.call(NR.sched_op, 2, guest.words(0));
    expect(resumeDomain(hv, d1)).toBe(false);
  });

  test('a paused domain wakes, but does not run until it may', () => {
    const guest = new SmallGuest();
    const { hv, d1, vcpu } = guest.state;
    guest.call(NR.sched_op, 1, 0);
    pauseDomain(hv, d1, true);
    setUpcallMask(hv, vcpu, 0);
    const port = bindTimer(guest);
    guest.call(NR.set_timer_op, 10, 0);
    guest.advance(10);
    expect([guest.pending(port), vcpu.blocked, guest.runnable]).toEqual([true, false, false]);
    pauseDomain(hv, d1, false);
    expect(guest.runnable).toBe(true);
  });

  test('another domain cannot be shut down', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.sched_op, 4, guest.words(2, 0))).toBe(-1);
    expect(guest.call(NR.sched_op, 4, guest.words(9, 0))).toBe(-3);
  });

  test('there are two watchdogs', () => {
    const guest = new SmallGuest();
    expect([1, 2, 3].map(() => guest.call(NR.sched_op, 6, guest.words(0, 10)))).toEqual([1, 2, -28]);
    expect(guest.call(NR.sched_op, 6, guest.words(1, 0))).toBe(0);
    expect(guest.call(NR.sched_op, 6, guest.words(1, 10))).toBe(-22);
    expect(guest.call(NR.sched_op, 6, guest.words(3, 10))).toBe(-22);
  });

  test('a watchdog that is not fed ends the domain, one that is given back does not', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.sched_op, 6, guest.words(0, 10))).toBe(1);
    expect(guest.call(NR.sched_op, 6, guest.words(0, 30))).toBe(2);
    guest.advance(9e9);
    expect(guest.call(NR.sched_op, 6, guest.words(1, 10))).toBe(0);
    guest.advance(18e9);
    expect(guest.call(NR.sched_op, 6, guest.words(1, 0))).toBe(0);
    guest.advance(29e9);
    expect(guest.state.d1.life.kind).toBe('running');
    guest.advance(30e9);
    expect(guest.state.d1.life).toEqual({ kind: 'shutdown', reason: 4 });
  });
});

describe('timers', () => {
  test('a one-shot timer fires once; 0 cancels it', () => {
    const guest = new SmallGuest();
    const port = bindTimer(guest);
    guest.call(NR.set_timer_op, 7000, 0);
    guest.call(NR.set_timer_op, 0, 0);
    guest.advance(10_000);
    expect(guest.pending(port)).toBe(false);
  });

  test('a deadline that looks like a wrapped clock fires after 100 ms', () => {
    const guest = new SmallGuest();
    guest.call(NR.set_timer_op, 0, 0x8000_0000);
    expect(guest.timers.get('singleshot')).toBe(100_000_000);
  });

  test('a single-shot deadline in the past raises the interrupt at once', () => {
    const guest = new SmallGuest();
    const port = bindTimer(guest);
    guest.nowNs = 5000;
    expect(guest.call(NR.vcpu_op, 8, 0, guest.words(4000, 0, 0))).toBe(0);
    expect(guest.pending(port)).toBe(true);
  });

  test('a periodic timer ticks until it is stopped; less than a millisecond is refused', () => {
    const guest = new SmallGuest();
    const port = bindTimer(guest);
    expect(guest.call(NR.vcpu_op, 6, 0, guest.words(999_999, 0))).toBe(-22);
    expect(guest.call(NR.vcpu_op, 6, 0, guest.words(2_000_000, 0))).toBe(0);
    let ticks = 0;
    for (let ms = 1; ms <= 10; ms++) {
      guest.advance(ms * 1_000_000);
      if (guest.pending(port)) ticks++;
      guest.state.hv.machine.writeU8(guest.state.d1.sharedInfoMfn * 4096 + 2048, 0);
    }
    expect(ticks).toBe(5);
    expect(guest.call(NR.vcpu_op, 7, 0, 0)).toBe(0);
    expect(guest.timers.has('periodic')).toBe(false);
  });

  test.each([[1e9, 0x8000_0000, 1], [2e9, 0x8000_0000, 0], [125e6, 0x8000_0000, 4], [3e9, Math.floor((1e9 * 2 ** 32) / 1.5e9), -1]])('a clock of %d Hz scales to nanoseconds', (hz, mul, shift) => {
    expect(timeScale(hz)).toEqual({ mul, shift });
    const ticks = 12_345_678_900n;
    const shifted = shift >= 0 ? ticks << BigInt(shift) : ticks >> BigInt(-shift);
    const ns = Number((shifted * BigInt(mul)) >> 32n);
    expect(Math.abs(ns - (Number(ticks) / hz) * 1e9)).toBeLessThan(20);
  });
});

describe('vcpu_op', () => {
  test('vcpu_info moves once, with everything marked pending', () => {
    const guest = new SmallGuest();
    const { hv, vcpu, mfns } = guest.state;
    const f0 = mfns.get('f0') as number;
    expect(guest.call(NR.vcpu_op, 10, 0, guest.words(f0, 0, 4090, 0))).toBe(-6);
    expect(guest.call(NR.vcpu_op, 10, 0, guest.words(mfns.get('scratch_l1') as number, 0, 0, 0))).toBe(-13);
    expect(guest.call(NR.vcpu_op, 10, 0, guest.words(f0, 0, 64, 0))).toBe(0);
    expect(vcpu.vcpuInfoMaddr).toBe(f0 * 4096 + 64);
    expect(hv.machine.readU8(f0 * 4096 + 64)).toBe(1);
    expect(hv.machine.readU8(f0 * 4096 + 65)).toBe(1);
    expect(hv.machine.readU32(f0 * 4096 + 68)).toBe(0xffff_ffff);
    expect(hv.machine.readU32(f0 * 4096 + 96) % 2).toBe(0);
    expect(guest.call(NR.vcpu_op, 10, 0, guest.words(f0, 0, 128, 0))).toBe(-16);
  });

  test('the run state accounts for time spent blocked', () => {
    const guest = new SmallGuest();
    const { vcpu } = guest.state;
    vcpu.runstate = { state: 0, sinceNs: 0, timesNs: [0, 0, 0, 0] };
    bindTimer(guest);
    guest.call(NR.set_timer_op, 3000, 0);
    guest.nowNs = 1000;
    guest.call(NR.sched_op, 1, 0);
    guest.advance(3000);
    expect(vcpu.runstate).toEqual({ state: 1, sinceNs: 3000, timesNs: [1000, 0, 2000, 0] });
    guest.nowNs = 3500;
    expect(guest.call(NR.vcpu_op, 4, 0, guest.words(0))).toBe(0);
    // State, entry time, then four times of 8 bytes: runnable since 3000, up to now.
    expect([0, 1, 3, 5, 7].map((index) => guest.readWord(index))).toEqual([1, 3000, 1000, 500, 2000]);
    // The registered area holds what was booked at the last change; the guest adds the rest itself.
    const area = guest.words(0, 0) + 64;
    guest.state.hv.machine.writeU32(guest.maddr(0), area);
    expect(guest.call(NR.vcpu_op, 5, 0, area - 64)).toBe(0);
    expect([16, 17, 19, 21, 23].map((index) => guest.readWord(index))).toEqual([1, 3000, 1000, 0, 2000]);
  });

  test('vCPUs that are not there, commands that are not there', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.vcpu_op, 3, 1, 0)).toBe(-2);
    expect(guest.call(NR.vcpu_op, 3, 0, 0)).toBe(1);
    expect(guest.call(NR.vcpu_op, 99, 0, 0)).toBe(-38);
    expect(guest.call(NR.vcpu_op, 12, 0, 0)).toBe(-22);
    expect(guest.call(NR.vcpu_op, 0, 0, guest.words(0))).toBe(-17);
  });
});

describe('xen_version', () => {
  test('64-bit Xen is 4.23, Xen 3 is 3.4', () => {
    expect(new SmallGuest('pv64').call(NR.xen_version, 0, 0)).toBe(262_167);
    expect(new SmallGuest('xen3-pae').call(NR.xen_version, 0, 0)).toBe(0x3_0004);
  });

  test('a 32-bit guest learns where Xen begins', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.xen_version, 5, guest.words(0))).toBe(0);
    expect(guest.readWord(0)).toBe(0xf580_0000);
  });

  test('features of submap 0; other submaps do not exist', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.xen_version, 6, guest.words(1, 0))).toBe(-22);
    expect(guest.call(NR.xen_version, 6, guest.words(0, 0))).toBe(0);
    expect(guest.readWord(1)).toBe(0x1e_20f0);
  });

  test('the rest: page size, handle, texts, privileged ones', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.xen_version, 7, 0)).toBe(4096);
    expect(guest.call(NR.xen_version, 7, guest.words(0))).toBe(-22);
    for (const command of [1, 2, 3, 4, 8, 9]) expect(guest.call(NR.xen_version, command, guest.words(0)), String(command)).toBe(0);
    for (const command of [1, 3, 5]) expect(guest.call(NR.xen_version, command, 0), String(command)).toBe(-14);
    expect(guest.call(NR.xen_version, 10, guest.words(64))).toBe(-1);
    expect(guest.call(NR.xen_version, 11, 0)).toBeGreaterThan(0);
    expect(guest.call(NR.xen_version, 11, guest.words(1))).toBe(-105);
    expect(guest.call(NR.xen_version, 77, 0)).toBe(-38);
  });
});

describe('entry points and small registers', () => {
  test('the trap table: selectors get the kernel\'s ring, address 0 ends it, no table clears all', () => {
    const guest = new SmallGuest();
    const { vcpu } = guest.state;
    // vector, flags, selector; address
    expect(guest.call(NR.set_trap_table, guest.words(0x0060_0703, 0xc010_0000, 0x0063_040e, 0xc010_0040, 0, 0))).toBe(0);
    expect(vcpu.traps[3]).toEqual({ cs: 0x61, address: 0xc010_0000, dpl: 3, maskEvents: true });
    expect(vcpu.traps[14]).toEqual({ cs: 0x63, address: 0xc010_0040, dpl: 0, maskEvents: true });
    expect(guest.call(NR.set_trap_table, 0x30_0000)).toBe(-14);
    expect(guest.call(NR.set_trap_table, 0)).toBe(0);
    expect(vcpu.traps.every((gate) => gate === undefined)).toBe(true);
  });

  test('callbacks by both interfaces', () => {
    const guest = new SmallGuest();
    const { vcpu } = guest.state;
    expect(guest.call(NR.set_callbacks, 0x60, 0xc000_1000, 0x61, 0xc000_2000)).toBe(0);
    expect(vcpu.eventCallback).toEqual({ cs: 0x61, address: 0xc000_1000, maskEvents: true });
    expect(vcpu.failsafeCallback).toMatchObject({ cs: 0x61, address: 0xc000_2000 });
    expect(guest.call(NR.callback_op, 0, guest.words(0x0001_0001, 0x61, 0xc000_3000))).toBe(0);
    expect(vcpu.failsafeCallback).toEqual({ cs: 0x61, address: 0xc000_3000, maskEvents: true });
    expect(guest.call(NR.callback_op, 0, guest.words(2, 0x61, 0xc000_3000))).toBe(-38);
    expect(guest.call(NR.callback_op, 1, guest.words(0))).toBe(-22);
    expect(guest.call(NR.callback_op, 9, 0)).toBe(-22);
    expect(guest.call(NR.nmi_op, 0, guest.words(0xc000_4000))).toBe(0);
    expect(vcpu.traps[2]?.address).toBe(0xc000_4000);
    expect(guest.call(NR.nmi_op, 1, 0)).toBe(0);
    expect(vcpu.traps[2]).toBeUndefined();
  });

  test('stack_switch, TS, debug registers', () => {
    const guest = new SmallGuest();
    const { vcpu } = guest.state;
    expect(guest.call(NR.stack_switch, 0xe020, 0xc020_0000)).toBe(0);
    expect([vcpu.kernelSs, vcpu.kernelSp]).toEqual([0xe021, 0xc020_0000]);
    expect(guest.call(NR.fpu_taskswitch, 1)).toBe(0);
    expect(vcpu.taskSwitched).toBe(true);
    expect(guest.call(NR.set_debugreg, 0, 0x1234)).toBe(0);
    expect(guest.call(NR.get_debugreg, 0)).toBe(0x1234);
    expect(guest.call(NR.set_debugreg, 7, 0x2000)).toBe(-1);
    expect(guest.call(NR.set_debugreg, 7, 0x0002_0001)).toBe(-1);
    expect(guest.call(NR.set_debugreg, 9, 0)).toBe(-19);
    expect(guest.call(NR.get_debugreg, 7)).toBe(0x400);
    expect(guest.call(NR.set_segment_base, 0, 0)).toBe(-38);
  });
});

describe('devices and what is not for a domU', () => {
  test('output through Xen becomes an event', () => {
    const guest = new SmallGuest();
    const text = Uint8Array.from('hello\n', (char) => char.charCodeAt(0));
    expect(guest.call(NR.console_io, 0, text.length, guest.bytes(text))).toBe(0);
    expect(guest.emitted.find(({ kind }) => kind === EVENT.xenConsole)?.bytes).toEqual(text);
    expect(guest.call(NR.console_io, 0, 5, 0)).toBe(-14);
    expect(guest.call(NR.console_io, 1, 5, 0)).toBe(0);
    expect(guest.call(NR.console_io, 9, 5, 0)).toBe(-38);
  });

  test('I/O privilege level and bitmap are virtual', () => {
    const guest = new SmallGuest();
    expect(guest.call(NR.physdev_op, 6, guest.words(4))).toBe(-22);
    expect(guest.call(NR.physdev_op, 6, guest.words(1))).toBe(0);
    expect(guest.state.vcpu.iopl).toBe(1);
    expect(guest.call(NR.physdev_op, 7, guest.words(0x10_0000, 65_537))).toBe(-22);
    expect(guest.call(NR.physdev_op, 13, guest.words(0))).toBe(-1);
    expect(guest.call(NR.physdev_op, 99, guest.words(0))).toBe(-38);
  });

  test('privileged interfaces: first the copy, then the version, then the refusal', () => {
    const guest = new SmallGuest();
    for (const nr of [NR.sysctl, NR.domctl, NR.platform_op]) {
      expect(guest.call(nr, 0), String(nr)).toBe(-14);
      expect(guest.call(nr, guest.words(0, 1)), String(nr)).toBe(-13);
    }
    expect(guest.call(NR.domctl, guest.words(0, 0x18))).toBe(-1);
    // Argo is not built into a Xen of the default configuration; the PMU is, and is off.
    expect([guest.call(NR.argo_op, 1, 0, 0, 0, 0), guest.call(NR.xenpmu_op, 0, 0)]).toEqual([-38, -95]);
    expect(guest.call(60)).toBe(-38);
  });
});

describe('the memory map', () => {
  const MEMORY_OP = 12;
  const MEMORY_MAP = 9;
  test('there is none where no toolstack gave one', () => {
    const guest = new SmallGuest();
    expect(guest.call(MEMORY_OP, MEMORY_MAP, guest.words(1, 0))).toBe(-38);
  });

  test.each<[AbiName, number]>([['pv32pae', 1], ['pv64', 2]])('is one piece of RAM as large as the domain may become (%s)', (abi, word) => {
    const guest = new SmallGuest(abi);
    guest.state.d1.memoryMapPages = 0x20_0000;
    const at = guest.words();
    const buffer = at + 64;
    const [low, high] = [buffer >>> 0, abi === 'pv64' ? Math.floor(buffer / 2 ** 32) : 0];
    const ask = (room: number, wanted: boolean): number => guest.call(MEMORY_OP, MEMORY_MAP, word === 2 ? guest.words(room, 0, wanted ? low : 0, wanted ? high : 0) : guest.words(room, wanted ? low : 0));
    expect([ask(128, false), guest.readWord(0), guest.readWord(16)]).toEqual([0, 1, 0]);
    expect([ask(0, true), guest.readWord(0), guest.readWord(18)]).toEqual([0, 0, 0]);
    expect([ask(128, true), guest.readWord(0), ...[16, 17, 18, 19, 20, 21].map((index) => guest.readWord(index))]).toEqual([0, 1, 0, 0, 0, 2, 1, 0]);
    expect(guest.call(MEMORY_OP, MEMORY_MAP, 0x10)).toBe(-14);
  });
});
