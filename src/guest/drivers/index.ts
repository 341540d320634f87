// The drivers of the guest on Xen: found through xenbus, each a thread, with jobs that say what is to be done.
//
//   xenbus thread    watches device/, starts a frontend for what appears; ends when jobs and processes have
//   frontends        frontend.ts, blkfront.ts, netfront.ts
//   control, hvc     control.ts (shutdown, suspend), hvc-input.ts
//   jobs             disk-job.ts, net-job.ts
import type { Kernel } from '../kernel/kernel.ts';
import { BLOCK } from '../kernel/scheduler.ts';
import type { Task } from '../operations.ts';
import type { XenEvents } from '../xen/events.ts';
import type { XenState } from '../xen/state.ts';
import { BlkFront, Disk } from './blkfront.ts';
import { Control } from './control.ts';
import { diskJob } from './disk-job.ts';
import type { Frontend } from './frontend.ts';
import { HvcInput } from './hvc-input.ts';
import { Machinery } from './machinery.ts';
import { NetFront } from './netfront.ts';
import { netJob, type Interface } from './net-job.ts';
import { NetStack } from './net-stack.ts';
import type { DriverPlan } from './plan.ts';

export class Drivers {
  readonly machinery: Machinery;
  readonly #plan: DriverPlan;
  readonly #input: HvcInput;
  readonly #control: Control;
  readonly #disks = new Map<string, Disk>();
  /** By the interface's number. */
  readonly #interfaces = new Map<string, Interface>();
  #fronts: Frontend[] = [];
  #jobs = 0;

  constructor(kernel: Kernel, xen: XenState, events: XenEvents, plan: DriverPlan) {
    this.machinery = new Machinery(kernel, xen, events);
    this.#plan = plan;
    this.#input = new HvcInput(this.machinery);
    this.#control = new Control(this.machinery, () => this.#input.start());
  }

  /** Checksums of the frames that an interface has handed to the network above it. */
  framesReceived(vif: number): readonly number[] {
    return this.#interfaces.get(String(vif))?.stack?.framesSeen ?? [];
  }
  disk(name: string): Disk | undefined {
    return this.#disks.get(name);
  }

  /** Before the first process. */
  *start(): Task {
    const { machinery } = this;
    yield* machinery.grants.setUp();
    yield* this.#control.setUp();
    yield* machinery.ports.listen(machinery.xen.startInfo.storePort);
    yield* this.#input.start();
    const { scheduler } = machinery.kernel;
    scheduler.addThread('hvc', this.#input.life(() => this.#control.powerOff()));
    scheduler.addThread('control', this.#control.life());
    for (const job of this.#plan.disks ?? []) this.#addJob(`job of ${job.disk}`, diskJob(machinery, this.#diskOf(job.disk), job));
    for (const job of this.#plan.nets ?? []) {
      const face: Interface = { name: `vif${job.vif}`, ip: job.ip, stack: undefined };
      this.#interfaces.set(String(job.vif), face);
      this.#addJob(`job of ${face.name}`, netJob(machinery, face, job));
    }
    scheduler.addThread('xenbus', this.#xenbus());
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

  #diskOf(name: string): Disk {
    let disk = this.#disks.get(name);
    if (disk === undefined) this.#disks.set(name, (disk = new Disk(name)));
    return disk;
  }

  // -- xenbus ---------------------------------------------------------------------------------------

  *#xenbus(): Task {
    const { machinery } = this;
    const { kernel, store } = machinery;
    const watch = yield* store.watch('device');
    const { scheduler, ops } = kernel;
    // Told to shut down it does not wait for processes, only for its own jobs.
    while (this.#jobs > 0 || (scheduler.liveProcesses > 0 && !machinery.stopping)) {
      yield* store.pump();
      if (watch.fired) {
        watch.fired = false;
        yield* this.#discover();
      } else yield BLOCK;
    }
    machinery.stopping = machinery.leaving = true;
    machinery.wake();
    while (!this.#fronts.every(({ ended }) => ended)) {
      yield* store.pump();
      yield BLOCK;
    }
    yield* store.unwatch(watch);
    const grants = machinery.grants.usedCount;
    const ports = machinery.ports.openCount;
    yield* machinery.say(grants + ports === 0 ? 'every grant and port is back' : `${grants} grants and ${ports} ports are not back`);
    const { reason } = this.#control;
    if (reason !== undefined) yield* ops.init.shutdown(reason);
  }

  *#discover(): Task {
    const { store, kernel } = this.machinery;
    this.#fronts = this.#fronts.filter(({ ended }) => !ended);
    for (const deviceClass of ['vbd', 'vif'] as const) {
      for (const id of yield* store.list(`device/${deviceClass}`)) {
        const node = `device/${deviceClass}/${id}`;
        if (this.#fronts.some((front) => front.node === node) || (yield* store.read(`${node}/state`)) === undefined) continue;
        // undefined: the toolstack is not done with it, more changes follow; or nobody wants it.
        const front = deviceClass === 'vbd' ? yield* this.#blkFront(node) : yield* this.#netFront(node, id);
        if (front === undefined) continue;
        this.#fronts.push(front);
        kernel.scheduler.addThread(node, front.life());
      }
    }
  }

  *#blkFront(node: string): Task<Frontend | undefined> {
    const { store } = this.machinery;
    const backend = yield* store.read(`${node}/backend`);
    const name = backend === undefined ? undefined : yield* store.read(`${backend}/dev`);
    return name === undefined ? undefined : new BlkFront(this.machinery, node, this.#diskOf(name));
  }

  *#netFront(node: string, id: string): Task<Frontend | undefined> {
    const { store } = this.machinery;
    const face = this.#interfaces.get(id);
    const mac = yield* store.read(`${node}/mac`);
    if (face === undefined || mac === undefined || (yield* store.read(`${node}/backend`)) === undefined) return undefined;
    // Plugged in again it is the same interface, and those who use it go on.
    face.stack ??= new NetStack(mac.toLowerCase(), face.ip);
    this.machinery.wake();
    return new NetFront(this.machinery, node, face.name, face.stack);
  }
}
