// The Xen back end: every group of ParavirtOps for a domU of one vCPU.
import { Drivers } from '../drivers/index.ts';
import type { DriverPlan } from '../drivers/plan.ts';
import type { Kernel, Platform } from '../kernel/kernel.ts';
import { noApic } from '../native/instructions.ts';
import type { MachinePort } from '../operations.ts';
import { SHAPES, type Paging } from '../pte.ts';
import { Batch } from './batch.ts';
import { HvcConsole } from './console.ts';
import { xenCpu } from './cpu.ts';
import { XenEvents } from './events.ts';
import { xenInit } from './init.ts';
import { xenMmu } from './mmu.ts';
import { Pinning } from './pinning.ts';
import { XenState, type XenOptions } from './state.ts';

export interface XenPlatform extends Platform {
  readonly xen: XenState;
  readonly events: XenEvents;
  /** Of a guest with a plan, once it has started. */
  devices?: Drivers;
}

export function xenPlatform(m: MachinePort, paging: Paging, options: XenOptions, plan?: DriverPlan): XenPlatform {
  const shape = SHAPES[paging];
  const xen = new XenState(m, shape, options);
  const batch = new Batch(xen);
  const pinning = new Pinning(xen, batch);
  const events = new XenEvents(xen);
  const mmu = xenMmu(xen, batch, pinning);
  const ops = {
    info: { name: 'xen', paravirt_enabled: true, kernel_rpl: 1, shared_kernel_pmd: false },
    init: xenInit(xen, batch, pinning, mmu),
    time: events.time(), cpu: xenCpu(xen, batch, pinning), irq: events.irq(), apic: noApic, mmu,
  } as const;
  const platform: XenPlatform = {
    ops, xen, events,
    console: new HvcConsole(xen, events),
    *drivers(kernel: Kernel) {
      kernel.traps.onIrq(events.timerPort, () => kernel.scheduler.tick());
      yield m.compute(1);
      if (plan === undefined) return;
      platform.devices = new Drivers(kernel, xen, events, plan);
      yield* platform.devices.start();
    },
  };
  return platform;
}
