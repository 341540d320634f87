// Who runs: processes take turns of a quantum, kernel threads (drivers) run when the kernel is about to
// go back to user mode or has nothing to do. One processor, no preemption inside the kernel.
//
// A kernel thread is a task that gives up its turn by yielding BLOCK: it is looked at again after the
// next interrupt, or when wake() is called.
import { Operation, REG, type Task } from '../operations.ts';
import type { Kernel } from './kernel.ts';
import type { Process } from './process.ts';

/** Short, so that small programs are interrupted too. */
const QUANTUM_NS = 50_000;
/** What a context switch of machine code pushes and pops besides the operations below. */
const SWITCH_INSNS = 30;

/** Yielded by kernel threads only: nothing to do until woken. */
export const BLOCK = new Operation();

interface Thread {
  readonly name: string;
  readonly task: Task;
  ready: boolean;
  answer: number;
}

export class Scheduler {
  readonly #kernel: Kernel;
  readonly #ready: Process[] = [];
  readonly #sleeping: Process[] = [];
  readonly #threads: Thread[] = [];
  /** Ended, and nobody's child: their stacks are freed when another process runs. */
  readonly #dead: Process[] = [];
  current: Process | undefined;
  needsSwitch = false;
  /** Everybody that ever was, by path: their histories outlive them. */
  readonly histories = new Map<string, readonly string[]>();
  #live = 0;
  #pids = 1;
  #tickAtNs = 0;
  #alarmNs = Infinity;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  nextPid(): number {
    return this.#pids++;
  }
  add(process: Process): void {
    this.#live++;
    this.histories.set(process.path, process.history);
    this.#ready.push(process);
  }
  addThread(name: string, task: Task): void {
    this.#threads.push({ name, task, ready: true, answer: 0 });
  }
  /** Processes that have not ended. */
  get liveProcesses(): number {
    return this.#live;
  }
  /** Threads are woken at that time, if nothing wakes them before. Forgotten with the next interrupt of the timer. */
  wakeThreadsAt(atNs: number): void {
    this.#alarmNs = Math.min(this.#alarmNs, atNs);
  }
  /** Something happened that threads may wait for. */
  wakeThreads(): void {
    for (const thread of this.#threads) thread.ready = true;
  }
  hasReadyThreads(): boolean {
    return this.#threads.some((thread) => thread.ready);
  }
  wake(process: Process): void {
    if (process.state !== 'waiting') return;
    process.state = 'ready';
    this.#ready.push(process);
  }
  sleep(process: Process, untilNs: number): void {
    process.state = 'sleeping';
    process.wakeAtNs = untilNs;
    this.#sleeping.push(process);
  }
  /** The process has ended; `orphan`: nobody will wait for it. */
  ended(process: Process, orphan: boolean): void {
    process.state = 'zombie';
    this.#live--;
    this.wakeThreads();
    if (orphan) this.#dead.push(process);
  }
  bury(process: Process): void {
    this.#dead.push(process);
  }

  /** Goes to user mode as somebody; the first time. Does not return. */
  *run(): Task {
    yield* this.pick();
    yield* this.#kernel.traps.backToUser();
  }

  /** The timer's interrupt. */
  tick(): void {
    this.#tickAtNs = 0;
    this.#alarmNs = Infinity;
    this.needsSwitch = true;
  }

  /** Chooses who runs next and makes it current; waits if nobody can. Interrupts are off. */
  *pick(): Task {
    const { ops } = this.#kernel;
    this.needsSwitch = false;
    const now = yield* ops.time.sched_clock();
    if (this.current?.state === 'ready') this.#ready.push(this.current);
    for (;;) {
      // One may have done what another waits for.
      while (this.hasReadyThreads()) yield* this.#runThreads();
      this.#wakeSleepers(yield* ops.time.sched_clock());
      const next = this.#ready.shift();
      if (next !== undefined) {
        yield* this.#switch(next);
        yield* this.#setTick(now);
        return;
      }
      if (this.#live === 0 && this.#threads.length === 0) return yield* this.#finish();
      yield* this.#idle();
    }
  }

  *#idle(): Task {
    const { ops, options } = this.#kernel;
    // The planted mistake: events come in before the wait, and nobody looks what they have woken.
    if (options.planted === 'lost-wakeup') yield* ops.irq.irq_enable();
    yield* this.#setTick(0);
    yield* ops.irq.safe_halt();
    yield* ops.irq.irq_disable();
  }

  /** The next interrupt of the timer: the end of the quantum if others are ready, or the first sleeper's. */
  *#setTick(now: number): Task {
    const wake = this.#sleeping.reduce((least, { wakeAtNs }) => Math.min(least, wakeAtNs), this.#alarmNs);
    const atNs = Math.min(wake, this.#ready.length > 0 ? now + QUANTUM_NS : Infinity);
    const wanted = atNs === Infinity ? 0 : atNs;
    if (wanted === this.#tickAtNs || (wanted === 0 && this.#tickAtNs === 0)) return;
    this.#tickAtNs = wanted;
    yield* this.#kernel.ops.time.set_next_event(wanted);
  }

  #wakeSleepers(now: number): void {
    for (let i = 0; i < this.#sleeping.length; ) {
      const process = this.#sleeping[i] as Process;
      if (process.wakeAtNs > now) i++;
      else {
        this.#sleeping.splice(i, 1);
        process.state = 'ready';
        this.#ready.push(process);
      }
    }
  }

  *#switch(next: Process): Task {
    const { ops, memory, m } = this.#kernel;
    if (next !== this.current) {
      yield* ops.cpu.lazy_mode.enter();
      yield* ops.cpu.load_esp0(next);
      yield* ops.cpu.load_tls(next);
      yield* ops.cpu.lazy_mode.leave();
      yield m.compute(SWITCH_INSNS);
      this.current = next;
      m.registers.setReg(REG.esp, next.frameVaddr);
    }
    if (next.mm !== undefined) yield* memory.switchTo(next.mm);
    for (const process of this.#dead.splice(0)) if (process !== next) this.#kernel.frames.put(process.stackPfn);
    yield* this.#kernel.traps.resume(next);
  }

  *#runThreads(): Task {
    for (let i = 0; i < this.#threads.length; ) {
      const thread = this.#threads[i] as Thread;
      if (!thread.ready) {
        i++;
        continue;
      }
      thread.ready = false;
      if (yield* this.#runThread(thread)) this.#threads.splice(i, 1);
      else i = thread.ready ? i : i + 1;
    }
  }

  /** Until it blocks (false) or has ended (true). */
  *#runThread(thread: Thread): Task<boolean> {
    for (;;) {
      const next = thread.task.next(thread.answer);
      if (next.done === true) return true;
      if (next.value === BLOCK) {
        thread.answer = 0;
        return false;
      }
      thread.answer = yield next.value;
    }
  }

  /** Nobody is left. */
  *#finish(): Task {
    const kernel = this.#kernel;
    yield* kernel.memory.switchTo(kernel.initMm);
    // The last process's stack is still this code's own.
    const missing = kernel.framesAtStart - kernel.frames.freeCount - this.#dead.length;
    yield* kernel.print(missing === 0 ? 'all processes have ended; every frame is back' : `all processes have ended; ${missing} frames are missing`);
    yield* kernel.ops.init.shutdown('poweroff');
  }
}
