// The drivers of the guest on Xen: found through xenbus, each a thread, with jobs that say what is to be done.
//
//   xenbus thread    watches device/, starts a frontend for what appears; ends when jobs and processes have
//   frontends        frontend.ts, blkfront.ts
//   jobs             disk-job.ts
import type { Kernel } from '../kernel/kernel.ts';
import { BLOCK } from '../kernel/scheduler.ts';
import type { Task } from '../operations.ts';
import type { XenEvents } from '../xen/events.ts';
import type { XenState } from '../xen/state.ts';
import { BlkFront, Disk } from './blkfront.ts';
import { diskJob } from './disk-job.ts';
import type { Frontend } from './frontend.ts';
import { Machinery } from './machinery.ts';
import type { DriverPlan } from './plan.ts';

export class Drivers {
  readonly machinery: Machinery;
  readonly #plan: DriverPlan;
  readonly #disks = new Map<string, Disk>();
  #fronts: Frontend[] = [];
  #jobs = 0;

  constructor(kernel: Kernel, xen: XenState, events: XenEvents, plan: DriverPlan) {
    this.machinery = new Machinery(kernel, xen, events);
    this.#plan = plan;
  }

  /** Before the first process. */
  *start(): Task {
    const { machinery } = this;
    yield* machinery.grants.setUp();
    yield* machinery.ports.listen(machinery.xen.startInfo.storePort);
    for (const job of this.#plan.disks ?? []) this.#addJob(`job of ${job.disk}`, diskJob(machinery, this.#disk(job.disk), job));
    machinery.kernel.scheduler.addThread('xenbus', this.#xenbus());
  }

  #addJob(name: string, task: Task): void {
    this.#jobs++;
    this.machinery.kernel.scheduler.addThread(name, this.#counted(task));
  }
  *#counted(task: Task): Task {
    yield* task;
    this.#jobs--;
    this.machinery.wake();
  }

  #disk(name: string): Disk {
    let disk = this.#disks.get(name);
    if (disk === undefined) this.#disks.set(name, (disk = new Disk(name)));
    return disk;
  }

  // -- xenbus ---------------------------------------------------------------------------------------

  *#xenbus(): Task {
    const { machinery } = this;
    const { kernel, store } = machinery;
    const watch = yield* store.watch('device');
    while (this.#jobs > 0 || kernel.scheduler.liveProcesses > 0) {
      yield* store.pump();
      if (watch.fired) {
        watch.fired = false;
        yield* this.#discover();
      } else yield BLOCK;
    }
    machinery.stopping = true;
    machinery.wake();
    while (!this.#fronts.every(({ ended }) => ended)) {
      yield* store.pump();
      yield BLOCK;
    }
    yield* store.unwatch(watch);
    const grants = machinery.grants.usedCount;
    const ports = machinery.ports.openCount;
    yield* machinery.say(grants + ports === 0 ? 'every grant and port is back' : `${grants} grants and ${ports} ports are not back`);
  }

  *#discover(): Task {
    const { store, kernel } = this.machinery;
    this.#fronts = this.#fronts.filter(({ ended }) => !ended);
    for (const id of yield* store.list('device/vbd')) {
      const node = `device/vbd/${id}`;
      if (this.#fronts.some((front) => front.node === node)) continue;
      const backend = yield* store.read(`${node}/backend`);
      const name = backend === undefined ? undefined : yield* store.read(`${backend}/dev`);
      // The toolstack is not done with it: more changes follow.
      if (name === undefined || (yield* store.read(`${node}/state`)) === undefined) continue;
      const front = new BlkFront(this.machinery, node, this.#disk(name));
      this.#fronts.push(front);
      kernel.scheduler.addThread(node, front.life());
    }
  }
}
