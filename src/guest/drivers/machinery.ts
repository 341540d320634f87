// What all drivers of one guest share, and how its threads wait.
import type { Kernel } from '../kernel/kernel.ts';
import { BLOCK } from '../kernel/scheduler.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { MachinePort, Task } from '../operations.ts';
import type { XenEvents } from '../xen/events.ts';
import { HC, wordBytes, type XenState } from '../xen/state.ts';
import { GrantTable } from './grants.ts';
import { Ports } from './ports.ts';
import { StoreClient } from './store-client.ts';

const EVTCHNOP_SEND = 4;

export class Machinery {
  readonly kernel: Kernel;
  readonly m: MachinePort;
  readonly xen: XenState;
  readonly events: XenEvents;
  readonly ports: Ports;
  readonly grants: GrantTable;
  readonly store: StoreClient;
  /** How often the domain has been restored: whatever was shared before is void. */
  restores = 0;
  /** The guest is to end: jobs give up at their next step. */
  stopping = false;
  /** They have: devices are given back. */
  leaving = false;
  /** Sentences about what did not go well. */
  readonly complaints: string[] = [];

  constructor(kernel: Kernel, xen: XenState, events: XenEvents) {
    this.kernel = kernel;
    this.m = xen.m;
    this.xen = xen;
    this.events = events;
    this.ports = new Ports(kernel, xen);
    this.grants = new GrantTable(kernel, xen, () => this.wake());
    this.store = new StoreClient(kernel, xen, events);
  }

  wake(): void {
    this.kernel.scheduler.wakeThreads();
  }
  *say(text: string): Task {
    yield* this.kernel.print(text);
  }
  *complain(text: string): Task {
    this.complaints.push(text);
    yield* this.say(text);
  }

  /** Blocks until the condition holds, at most until `deadlineNs`: then false. */
  *until(condition: () => boolean, deadlineNs = Infinity): Task<boolean> {
    while (!condition()) {
      if (deadlineNs !== Infinity) {
        if ((yield* this.events.now()) >= deadlineNs) return false;
        this.kernel.scheduler.wakeThreadsAt(deadlineNs);
      }
      yield BLOCK;
    }
    return true;
  }
  *sleep(ns: number): Task {
    yield* this.until(() => this.stopping, (yield* this.events.now()) + ns);
  }

  /** Rings the other end. One that has closed its port meanwhile is told by xenbus, and hears nothing. */
  *notify(port: number): Task {
    yield this.m.writeBytes(KERNEL_PAGES.scratch, wordBytes([port]));
    yield* this.xen.call(HC.event_channel_op, EVTCHNOP_SEND, KERNEL_PAGES.scratch);
  }
}
