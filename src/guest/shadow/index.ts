// The back ends on the shadow-paging host (../../shadow): a machine like a bare one, whose tables the
// processor does not walk. They differ from native, and from each other, in group `mmu` alone: in how the
// host hears of a change.
//
//   lguest   the kernel stores and calls: this entry of this address space has changed
//   vmi      the kernel announces pages as tables and has the host store entries
//   kvm      the kernel stores and says nothing: the store traps; in lazy mode entries go in a queue
import type { BackendName } from '../index.ts';
import type { Platform } from '../kernel/kernel.ts';
import { nativePlatform } from '../native/index.ts';
import { REG, type MachinePort } from '../operations.ts';
import type { ParavirtOps, PvMmu } from '../paravirt-ops/index.ts';
import { SHAPES, type Paging, type TableShape } from '../pte.ts';
import { kvmMmu } from './kvm.ts';
import { lguestMmu } from './lguest.ts';
import { CallQueue } from './queue.ts';
import { vmiMmu } from './vmi.ts';

export type ShadowBackend = Exclude<BackendName, 'xen' | 'native'>;

/** Words of the host's page behind those of a loader: kHz of the counter, seconds since 1970 when the counter was 0. */
export const HOST_WORDS = { tscKhz: 12, wallClockSec: 16 } as const;

const MMU: Readonly<Record<ShadowBackend, (m: MachinePort, shape: TableShape, queue: CallQueue) => PvMmu>> = { lguest: lguestMmu, vmi: vmiMmu, kvm: kvmMmu };

export function shadowPlatform(m: MachinePort, paging: Paging, name: ShadowBackend): Platform {
  const native = nativePlatform(m, paging);
  const { ops } = native;
  const queue = new CallQueue(m);
  let words = 0;
  let tscKhz = 1_000_000;
  let bootSec = 0;
  const now = function* () { return Math.floor(((yield* ops.cpu.read_tsc()) / tscKhz) * 1e6); };
  const pv: ParavirtOps = {
    ...ops,
    info: { ...ops.info, name, paravirt_enabled: true },
    init: {
      ...ops.init,
      attach(kernel) {
        ops.init.attach(kernel);
        words = m.registers.reg(REG.esi);
      },
      banner: () => `Booting paravirtualized kernel on ${name}`,
      *memory_setup() {
        tscKhz = yield m.load32(words + HOST_WORDS.tscKhz);
        bootSec = yield m.load32(words + HOST_WORDS.wallClockSec);
        return yield* ops.init.memory_setup();
      },
    },
    time: { ...ops.time, sched_clock: now, *get_wallclock() { return bootSec + Math.floor((yield* now()) / 1e9); }, *get_cpu_khz() { return tscKhz; } },
    mmu: MMU[name](m, SHAPES[paging], queue),
  };
  return { ...native, ops: pv };
}
