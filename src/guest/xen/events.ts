// Groups irq and time on Xen: event channels in the place of interrupt controllers, a byte of shared
// memory in that of the interrupt flag, Xen's time record and one-shot timer in that of clocks.
// Interrupt numbers are ports.
import { SHARED_INFO_32, VCPU_INFO_32, VCPU_TIME_INFO } from '../../abi/shared-info.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { Task } from '../operations.ts';
import type { PvIrq, PvTime } from '../paravirt-ops/index.ts';
import { HC, wordBytes, type XenState } from './state.ts';

/** Offsets in the shared page: vcpu_info 0, the two bitmaps, the wall clock. */
const [VCPU, SHARED, RECORD] = [VCPU_INFO_32.fields, SHARED_INFO_32.fields, VCPU_TIME_INFO.fields];
const AT = {
  pending: VCPU.evtchn_upcall_pending.at, mask: VCPU.evtchn_upcall_mask.at, pendingSel: VCPU.evtchn_pending_sel.at, time: VCPU.time.at,
  bitmapPending: SHARED.evtchn_pending.at, bitmapMask: SHARED.evtchn_mask.at, wcVersion: SHARED.wc_version.at, wcSec: SHARED.wc_sec.at,
} as const;
const TIME = { version: RECORD.version.at, tsc: RECORD.tsc_timestamp.at, systemTime: RECORD.system_time.at, mul: RECORD.tsc_to_system_mul.at, shift: RECORD.tsc_shift.at } as const;
const EVTCHNOP = { bind_virq: 1, send: 4, unmask: 9 } as const;
const VIRQ_TIMER = 0;
const SCHEDOP_BLOCK = 1;
const VCPUOP_STOP_PERIODIC_TIMER = 7;
const IF = 0x200;

export class XenEvents {
  readonly #xen: XenState;
  timerPort = 0;

  constructor(xen: XenState) {
    this.#xen = xen;
  }

  irq(): PvIrq {
    const xen = this.#xen;
    const { m, sharedVaddr } = xen;
    const enable = function* (): Task {
      yield* m.write8(sharedVaddr + AT.mask, 0);
      // Any hypercall delivers what came meanwhile; this one does nothing else.
      if ((yield* m.read8(sharedVaddr + AT.pending)) !== 0) yield* xen.call(HC.xen_version, 0);
    };
    const disable = (): Task => m.write8(sharedVaddr + AT.mask, 1);
    const halt = function* (): Task {
      // Unmasks, and does not wait if something is pending.
      yield* xen.must('to wait', HC.sched_op, SCHEDOP_BLOCK, 0);
    };
    return {
      *init_IRQ() { yield m.writeBytes(sharedVaddr + AT.bitmapMask, new Uint8Array(128).fill(0xff)); },
      *save_fl() { return (yield m.load8(sharedVaddr + AT.mask)) === 0 ? IF : 0; },
      *restore_fl(flags) { yield* (flags & IF) !== 0 ? enable() : disable(); },
      irq_disable: disable,
      irq_enable: enable,
      safe_halt: halt,
      *halt() {
        if ((yield m.load8(sharedVaddr + AT.mask)) === 0) yield* halt();
        else yield* xen.kernel.panic('halt with events masked');
      },
      pending_irqs: () => this.#pending(),
      *unmask_irq(port) {
        yield m.writeBytes(KERNEL_PAGES.irqScratch, wordBytes([port]));
        yield* xen.must('to unmask a port', HC.event_channel_op, EVTCHNOP.unmask, KERNEL_PAGES.irqScratch);
      },
      *mask_irq(port) { yield m.or32(sharedVaddr + AT.bitmapMask + (port >>> 5) * 4, 1 << (port & 31)); },
    };
  }

  /** Ports that are pending and not masked; they are not pending any more. */
  *#pending(): Task<readonly number[]> {
    const { m, sharedVaddr } = this.#xen;
    const ports: number[] = [];
    yield m.store8(sharedVaddr + AT.pending, 0);
    let words = yield m.exchange32(sharedVaddr + AT.pendingSel, 0);
    while (words !== 0) {
      const word = 31 - Math.clz32(words & -words);
      words = (words & (words - 1)) >>> 0;
      const at = sharedVaddr + AT.bitmapPending + word * 4;
      const masked = yield m.load32(sharedVaddr + AT.bitmapMask + word * 4);
      let bits = ((yield m.load32(at)) & ~masked) >>> 0;
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits = (bits & (bits - 1)) >>> 0;
        yield m.and32(at, ~(1 << bit));
        ports.push(word * 32 + bit);
      }
    }
    return ports;
  }

  // -- time -----------------------------------------------------------------------------------------

  time(): PvTime {
    const xen = this.#xen;
    const { m, sharedVaddr } = xen;
    return {
      time_init: () => this.#bindTimer(),
      *get_wallclock() {
        const seconds = yield m.load32(sharedVaddr + AT.wcSec);
        return seconds;
      },
      *set_wallclock() { return -1; },
      sched_clock: () => this.now(),
      *get_cpu_khz() {
        const mul = yield m.load32(sharedVaddr + AT.time + TIME.mul);
        const shift = ((yield m.load8(sharedVaddr + AT.time + TIME.shift)) << 24) >> 24;
        return Math.floor((1_000_000 * 0x1_0000_0000) / mul / 2 ** shift);
      },
      *set_next_event(deadlineNs) { yield* xen.must('a timer', HC.set_timer_op, deadlineNs >>> 0, Math.floor(deadlineNs / 0x1_0000_0000)); },
    };
  }

  *#bindTimer(): Task {
    const xen = this.#xen;
    yield* xen.must('to stop the periodic timer', HC.vcpu_op, VCPUOP_STOP_PERIODIC_TIMER, 0, 0);
    yield* xen.withStruct('the timer’s port', HC.event_channel_op, EVTCHNOP.bind_virq, [VIRQ_TIMER, 0, 0]);
    this.timerPort = yield xen.m.load32(KERNEL_PAGES.scratch + 8);
    yield* this.irq().unmask_irq(this.timerPort);
  }

  /** Nanoseconds since the domain's time began: Xen's stamp, and what the TSC has counted since. */
  *now(): Task<number> {
    const { m, sharedVaddr } = this.#xen;
    const at = sharedVaddr + AT.time;
    for (;;) {
      const version = yield m.load32(at + TIME.version);
      yield m.readBytes(at + TIME.tsc, 21);
      const { bytes } = m;
      const lo = yield m.tsc();
      const tsc = m.hi * 0x1_0000_0000 + lo;
      if ((version & 1) !== 0 || (yield m.load32(at + TIME.version)) !== version) continue;
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const stamp = view.getUint32(0, true) + view.getUint32(4, true) * 0x1_0000_0000;
      const base = view.getUint32(8, true) + view.getUint32(12, true) * 0x1_0000_0000;
      const shift = view.getInt8(20);
      const delta = shift >= 0 ? (tsc - stamp) * 2 ** shift : Math.floor((tsc - stamp) / 2 ** -shift);
      return base + Number((BigInt(delta) * BigInt(view.getUint32(16, true))) >> 32n);
    }
  }

  *send(port: number): Task {
    yield this.#xen.m.writeBytes(KERNEL_PAGES.scratch, wordBytes([port]));
    yield* this.#xen.must('to send an event', HC.event_channel_op, EVTCHNOP.send, KERNEL_PAGES.scratch);
  }
}
