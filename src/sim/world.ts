// One world on one virtual clock. The run loop, step by step:
//
//   1. what came from outside enters      (inputs: script, person or recording)
//   2. what is due happens                (timers, back ends: plain records in the agenda)
//   3. the scheduler picks a vCPU         (a choice if several can run); none: the clock jumps
//   4. the vCPU runs until its budget is used up or it leaves with a CpuExit
//   5. the hypervisor acts on the exit
//
// A step is counted whenever 1 to 3 are passed; all three are functions of the state alone, so a
// replay makes the same steps. Not here: the log (a sink is handed in) and the host's clock.
import { assert } from '../base/assert.ts';
import { EVENT, TIMER_KIND, valueIndex } from '../abi/events.ts';
import type { FaultName } from '../abi/faults.ts';
import type { MachineMemory } from '../machine/memory.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import type { Vcpu } from '../hypervisor/domain.ts';
import type { TimerKind, WorldPort } from '../hypervisor/world-port.ts';
import type { Cpu } from '../x86/cpu.ts';
import type { CpuExit } from '../x86/exit.ts';
import type { Disk } from '../dom0/disk.ts';
import { CHOICE_NAMES, type ChoiceName, type Choices } from './choices.ts';
import { VirtualClock } from './clock.ts';
import { EventQueue, type Agenda } from './event-queue.ts';
import { createFaults, deliverLate, disturbDomains, endPause, type FaultInjector } from './fault-sites.ts';
import { FrameHashes } from './frame-hashes.ts';
import type { InputSource } from './input.ts';
import { deliverInput } from './input-delivery.ts';
import { endOfTime, outcomeOfSilence, turnOfDom0 } from './silence.ts';
import { SHUTDOWN_OUTCOME, type Outcome } from './outcome.ts';
import { enterVcpu, leaveVcpu, switchedTo, vcpuTimer, type Hosts } from './vcpu-host.ts';
import { Services } from './services.ts';
import type { WorldSpec } from './spec.ts';
import type { Advance, EventSink, Observers, WorldProfile } from './world-faces.ts';

export type { Advance, EventSink, Observers, Service, WorldProfile } from './world-faces.ts';
/** The service of domain 0 that carries out commands. */
export const DOM0_SERVICE = 'dom0';
/** Latencies of back ends are drawn as one of so many multiples of that unit. */
const LATENCY_STEPS = 16;
const LATENCY_UNIT_NS = 500;
/** A hypercall may be preempted after this much counted work plus a choice of up to as much again. */
const PREEMPT_WORK_UNITS = 512;

export class World implements WorldPort {
  readonly spec: WorldSpec;
  readonly machine: MachineMemory;
  readonly clock: VirtualClock;
  readonly queue = new EventQueue();
  readonly choices: Choices;
  readonly observers: Observers;
  readonly frameHashes: FrameHashes;
  readonly faults: FaultInjector;
  readonly services: Services;
  readonly hosts: Hosts = new Map(); // of guests on shadow page tables, by domain
  /** Set once, right after construction: the hypervisor needs the world as its port. */
  hv!: Hypervisor;
  sink: EventSink | undefined;
  profile: WorldProfile | undefined;
  /** A domain's disk with what has been written to it. */
  disk: (domId: number, vdev: string) => Disk | undefined = () => undefined;
  input: InputSource;
  eventCount = 0;
  /** Passes through the top of the run loop. */
  steps = 0;
  ended: { outcome: Outcome; text: string } | undefined;
  #definedNames = new Set<number>();
  #current: Vcpu | undefined;
  #last: Vcpu | undefined;
  #sliceLeft = NaN;
  /** The slice was left in its middle, because the allowance of advance() was used up: what is delivered at an entry is not delivered again when it goes on. */
  #midSlice = false;
  #otherInsns = NaN;
  #workUnits = 0;
  #preemptAt = NaN;
  #nextDigestInsns: number;
  #runnable: Vcpu[] = [];
  #endDigested = false;
  /** No step is made from this virtual time on. */
  readonly #lastNs: number;
  /** State digests taken, inputs that have entered. */
  digestCount = 0;
  inputsTaken = 0;

  constructor(spec: WorldSpec, machine: MachineMemory, choices: Choices, input: InputSource, observers: Observers) {
    this.spec = spec;
    this.machine = machine;
    this.choices = choices;
    this.input = input;
    this.observers = observers;
    this.frameHashes = new FrameHashes(machine, () => this.#dropWriteFastPaths());
    this.clock = new VirtualClock(spec.nsPerInsn);
    this.services = new Services(this.queue, () => this.nowNs());
    this.faults = createFaults(this);
    this.#lastNs = spec.maxVirtualSec * 1e9;
    this.#sliceLeft = this.#otherInsns = this.#preemptAt = 0; // from NaN: see base/wide.ts
    this.#nextDigestInsns = spec.digestEveryInsns > 0 ? spec.digestEveryInsns : Infinity;
  }

  #dropWriteFastPaths(): void {
    for (const domain of this.hv.domains.values()) for (const vcpu of domain.vcpus) vcpu.cpu?.dropWriteFastPaths();
  }

  /** Instructions retired by all vCPUs. */
  insns(): number {
    return this.#otherInsns + (this.#current?.cpu?.retired() ?? 0);
  }

  /**
   * Runs at most `insnsAllowed` instructions, and not on once there are `untilEvents` events. Call
   * again after 'running', or after 'idle' once there is input. Where a run is interrupted changes
   * nothing of what happens; it stops at the first point of rest (before a step, after it, between
   * two instructions) at which the count is reached.
   */
  advance(insnsAllowed: number, untilEvents = Infinity): Advance {
    const stopAt = this.insns() + insnsAllowed;
    for (;;) {
      if (this.ended !== undefined) return this.#atEnd(this.ended);
      if (this.eventCount >= untilEvents || this.sink?.over === true) return { kind: 'running' };
      if (this.#sliceLeft === 0) {
        const idle = this.#step();
        if (idle !== undefined) return idle;
        if (this.ended !== undefined) continue;
        if (this.eventCount >= untilEvents) return { kind: 'running' };
      }
      const insns = this.insns();
      if (insns >= stopAt) return { kind: 'running' };
      if (insns >= this.spec.maxInstructions) {
        this.end('limit', `${this.spec.maxInstructions} instructions were run without an end; allow more with --max-instructions`);
        continue;
      }
      if (insns >= this.#nextDigestInsns) {
        this.#nextDigestInsns += this.spec.digestEveryInsns;
        this.digestCount++;
        this.sink?.stateDigest?.(this.eventCount, insns);
      }
      this.#runSlice(Math.min(this.#sliceLeft, stopAt - insns, this.spec.maxInstructions - insns, this.#nextDigestInsns - insns));
    }
  }

  /** Every run has a state digest at its end, however short it was. */
  #atEnd(ended: { outcome: Outcome; text: string }): Advance {
    if (!this.#endDigested) {
      this.#endDigested = true;
      this.digestCount++;
      this.sink?.stateDigest?.(this.eventCount, this.insns());
    }
    return { kind: 'ended', ...ended };
  }

  /** 1 to 3 of the run loop. Returns an idle answer if only the host can go on. */
  #step(): Advance | undefined {
    for (;;) {
      this.steps++;
      this.#midSlice = false;
      this.#takeInputs();
      this.#fireDue();
      if (this.ended === undefined && this.nowNs() >= this.#lastNs) endOfTime(this);
      if (this.ended !== undefined) return undefined;
      if (this.spec.faults !== undefined) disturbDomains(this);
      const vcpu = this.#pick();
      if (vcpu !== undefined) {
        this.#makeCurrent(vcpu);
        const deadline = this.queue.nextAtNs();
        this.#sliceLeft = deadline === Infinity ? this.spec.timesliceInsns : Math.min(this.spec.timesliceInsns, this.clock.insnsUntil(deadline, this.insns()));
        return undefined;
      }
      const inputNs = this.input.idleUntilNs(this.steps);
      const untilNs = Math.min(this.queue.nextAtNs(), inputNs ?? Infinity);
      if (inputNs === undefined) return { kind: 'idle', untilNs };
      if (untilNs === Infinity) {
        const { outcome, text } = outcomeOfSilence(this.hv);
        this.end(outcome, text);
        return undefined;
      }
      this.jumpTo(Math.min(untilNs, this.#lastNs));
    }
  }

  /** Lets idle time pass; never backwards. */
  jumpTo(untilNs: number): void {
    const now = this.nowNs();
    if (untilNs <= now) return;
    this.#emitWorld(EVENT.idle, [untilNs]);
    this.clock.idleNs += untilNs - now;
    this.#updateTsc();
  }

  #takeInputs(): void {
    for (;;) {
      const input = this.input.take(this.steps, this.nowNs());
      if (input === undefined) return;
      this.inputsTaken++;
      if (input.kind === 'stop') {
        this.#emitWorld(EVENT.stopRequested, [this.steps]);
        this.end('quit', 'ended by the user');
        return;
      }
      deliverInput(this, input);
      this.observers.quiescent?.();
    }
  }

  #fireDue(): void {
    for (;;) {
      const due = this.queue.takeDue(this.nowNs());
      if (due === undefined) return;
      this.#perform(due.what, due.atNs);
      this.observers.quiescent?.();
    }
  }

  #perform(what: Agenda, atNs: number): void {
    switch (what.kind) {
      case 'timer':
        this.emit(EVENT.timerFired, what.domId, what.vcpuId, [valueIndex(TIMER_KIND, what.timer), atNs]);
        vcpuTimer(this, what.domId, what.vcpuId, what.timer);
        return;
      case 'backend':
        return this.services.get(what.domId, what.service)?.run();
      case 'notify':
        return deliverLate(this, what);
      case 'unpause':
        return endPause(this, what.domId);
    }
  }

  #pick(): Vcpu | undefined {
    const runnable = this.#runnable;
    if (runnable.length <= 1) return runnable[0];
    return runnable[this.choose('scheduler.next', runnable.length)];
  }

  #makeCurrent(vcpu: Vcpu): void {
    if (this.#current === vcpu) return;
    if (this.#current !== undefined) this.#otherInsns += this.#current.cpu?.retired() ?? 0;
    this.#current = vcpu;
    this.#otherInsns -= vcpu.cpu?.retired() ?? 0;
    this.#updateTsc();
    const switched = this.#last !== undefined && this.#last !== vcpu;
    this.#last = vcpu;
    if (!switched) return;
    this.emit(EVENT.vcpuSwitch, vcpu.domain.domId, vcpu.vcpuId, []);
    switchedTo(this, vcpu);
  }

  /** The TSC is num ticks an instruction plus den ticks a nanosecond of idle time: exact integers. */
  #updateTsc(): void {
    const cpu = this.#current?.cpu;
    if (cpu === undefined) return;
    cpu.setTsc(BigInt(this.#otherInsns) * BigInt(this.clock.num) + BigInt(this.clock.idleNs) * BigInt(this.clock.den), this.clock.num);
  }

  #runSlice(budget: number): void {
    const vcpu = this.#current as Vcpu;
    const cpu = vcpu.cpu;
    assert(cpu !== undefined, () => `d${vcpu.domain.domId}v${vcpu.vcpuId} has no processor`);
    const before = cpu.retired();
    const sliceBefore = this.#sliceLeft;
    let exit: CpuExit;
    if (this.profile === undefined) {
      if (!this.#midSlice) enterVcpu(this, vcpu);
      exit = cpu.run(budget);
      this.#onExit(vcpu, exit);
    } else exit = this.#runProfiled(this.profile, vcpu, cpu, budget);
    this.observers.quiescent?.();
    const ran = cpu.retired() - before;
    const left = sliceBefore - ran;
    this.#midSlice = exit.kind === 'budget' && left > 0;
    if (this.#midSlice) {
      this.#sliceLeft = left;
      return;
    }
    // What a slice ends at may have changed: a timer set nearer, a back end that is due.
    const deadline = this.queue.nextAtNs();
    this.#sliceLeft = this.#sliceLeft === 0 || left <= 0 || this.nowNs() >= deadline ? 0 : Math.min(left, this.clock.insnsUntil(deadline, this.insns()));
  }

  #onExit(vcpu: Vcpu, exit: CpuExit): void {
    if (exit.kind !== 'budget') this.#workUnits = 0;
    if (exit.kind !== 'budget' && !leaveVcpu(this, vcpu, exit)) this.#sliceLeft = 0;
  }

  #runProfiled(profile: WorldProfile, vcpu: Vcpu, cpu: Cpu, budget: number): CpuExit {
    profile.running = true;
    const entering = profile.clock();
    if (!this.#midSlice) enterVcpu(this, vcpu);
    const running = profile.clock();
    const exit = cpu.run(budget);
    const leaving = profile.clock();
    this.#onExit(vcpu, exit);
    profile.processorMs += leaving - running;
    profile.hypervisorMs += running - entering + profile.clock() - leaving;
    profile.running = false;
    return exit;
  }

  end(outcome: Outcome, text: string): void {
    this.ended ??= { outcome, text };
    this.#sliceLeft = 0;
  }

  /**
   * Everything that this class itself holds, for a checkpoint: a field is in here, or it is wiring that
   * the next world of the same spec has too (WIRING in test/sim/snapshot.test.ts). vCPUs go by reference.
   */
  saveOwn() {
    return {
      eventCount: this.eventCount, steps: this.steps, ended: this.ended, digestCount: this.digestCount, inputsTaken: this.inputsTaken,
      queue: this.queue.save(), idleNs: this.clock.idleNs, definedNames: this.#definedNames, servicePorts: this.services.ports,
      current: this.#current, last: this.#last, runnable: this.#runnable, sliceLeft: this.#sliceLeft, midSlice: this.#midSlice,
      otherInsns: this.#otherInsns, workUnits: this.#workUnits, preemptAt: this.#preemptAt, nextDigestInsns: this.#nextDigestInsns, endDigested: this.#endDigested, faults: this.faults.save(),
    };
  }

  restoreOwn(saved: ReturnType<World['saveOwn']>): void {
    ({ eventCount: this.eventCount, steps: this.steps, ended: this.ended, digestCount: this.digestCount, inputsTaken: this.inputsTaken } = saved);
    this.queue.restore(saved.queue);
    this.clock.idleNs = saved.idleNs;
    ({ definedNames: this.#definedNames, servicePorts: this.services.ports, current: this.#current, last: this.#last, runnable: this.#runnable } = saved);
    ({ sliceLeft: this.#sliceLeft, midSlice: this.#midSlice, otherInsns: this.#otherInsns, workUnits: this.#workUnits, preemptAt: this.#preemptAt } = saved);
    ({ nextDigestInsns: this.#nextDigestInsns, endDigested: this.#endDigested } = saved);
    this.faults.restore(saved.faults);
  }

  // -- WorldPort -----------------------------------------------------------------------------------

  nowNs(): number {
    return this.clock.atInsns(this.insns());
  }

  wallClockAtZeroSec(): number {
    return this.spec.wallClockAtZeroSec;
  }

  tscKhz(): number {
    return this.clock.tscKhz();
  }

  setTimer(domId: number, vcpuId: number, kind: TimerKind, deadlineNs: number | undefined): void {
    this.queue.cancel((what) => what.kind === 'timer' && what.domId === domId && what.vcpuId === vcpuId && what.timer === kind);
    if (deadlineNs !== undefined) this.queue.add(Math.max(deadlineNs, this.nowNs()), { kind: 'timer', domId, vcpuId, timer: kind });
  }

  vcpuRunnable(domId: number, vcpuId: number, runnable: boolean): void {
    const at = this.#runnable.findIndex((vcpu) => vcpu.domain.domId === domId && vcpu.vcpuId === vcpuId);
    if (!runnable && at >= 0) this.#runnable.splice(at, 1);
    if (!runnable || at >= 0) return;
    const vcpu = this.hv.vcpu(domId, vcpuId);
    assert(vcpu !== undefined, () => `d${domId}v${vcpuId} does not exist`);
    this.#runnable.push(vcpu);
    this.#runnable.sort((a, b) => a.domain.domId - b.domain.domId || a.vcpuId - b.vcpuId);
  }

  yielded(): void {
    this.#sliceLeft = 0;
    if (this.#runnable.length === 1) turnOfDom0(this);
  }

  notifyBackend(domId: number, port: number): void {
    const service = this.services.behindPort(domId, port);
    if (service !== undefined) this.services.schedule(domId, service, this.latencyNs());
  }

  /** How long dom0 takes to notice something. */
  latencyNs(): number {
    return (1 + this.choose('backend.latency', LATENCY_STEPS)) * LATENCY_UNIT_NS;
  }

  domainShutdown(domId: number, reason: number, text: string): void {
    if (this.services.get(0, DOM0_SERVICE)?.domainShutdown?.(domId, reason) === true) return;
    const outcome = SHUTDOWN_OUTCOME[reason] ?? 'crash';
    if (outcome !== 'crash' && this.goesOn()) return;
    this.#printLastWords();
    this.end(outcome, text);
  }

  /** A domain is running that is not only there for others. */
  goesOn(): boolean {
    const services = this.spec.domains.filter(({ service }) => service === true).map(({ name }) => name);
    return [...this.hv.domains.values()].some(({ life, name }) => life.kind === 'running' && !services.includes(name));
  }

  /** xenconsoled outlives the guests: what they printed right before the end (a panic's last lines) is not lost with them. */
  #printLastWords(): void {
    for (const what of this.queue.takeAll((entry) => entry.kind === 'backend' && entry.service === 'console')) this.#perform(what, this.nowNs());
  }

  preempt(workUnits: number): boolean {
    if (this.#workUnits === 0) this.#preemptAt = PREEMPT_WORK_UNITS;
    this.#workUnits += workUnits;
    const forced = this.spec.faults !== undefined && this.faults.ask('hypercall.preempt', this.#current?.domain.domId ?? 0) > 0;
    if (this.#workUnits < this.#preemptAt && !forced) return false;
    if (this.#preemptAt === PREEMPT_WORK_UNITS && !forced) {
      this.#preemptAt += this.choose('hypercall.preempt', PREEMPT_WORK_UNITS);
      if (this.#workUnits < this.#preemptAt) return false;
    }
    this.#workUnits = 0;
    return true;
  }

  choose(name: string, options: number): number {
    if (options <= 1) return 0;
    const number = this.nameNumber(name);
    const picked = this.choices.pick(name as ChoiceName, options);
    this.#emitWorld(EVENT.choice, [number, options, picked]);
    return picked;
  }

  /** What stands for the name in the log, which hears of it once. */
  nameNumber(name: string): number {
    const number = CHOICE_NAMES.indexOf(name as ChoiceName) + 1;
    assert(number > 0, () => `choice ${name} has no row`);
    if (!this.#definedNames.has(number)) {
      this.#definedNames.add(number);
      this.#emitWorld(EVENT.nameDefined, [number], new TextEncoder().encode(name));
    }
    return number;
  }

  fault(name: FaultName, domId: number): number {
    return this.faults.ask(name, domId);
  }

  emit(kind: number, domId: number, vcpuId: number, values: readonly number[], bytes?: Uint8Array): void {
    this.eventCount++;
    const sink = this.sink;
    if (sink === undefined) return;
    const current = this.#current;
    const ran = current?.cpu?.retired() ?? 0;
    const retired = current !== undefined && current.vcpuId === vcpuId && current.domain.domId === domId ? ran : this.#retiredElsewhere(domId, vcpuId);
    sink.event(kind, domId, vcpuId, retired, this.clock.atInsns(this.#otherInsns + ran), values, bytes);
  }

  /** An event of the world itself: it stands at the current vCPU's position, or at d0v0:0 before any ran. */
  #emitWorld(kind: number, values: readonly number[], bytes?: Uint8Array): void {
    const vcpu = this.#current;
    this.emit(kind, vcpu?.domain.domId ?? 0, vcpu?.vcpuId ?? 0, values, bytes);
  }

  /** Of a vCPU that is not the current one. */
  #retiredElsewhere(domId: number, vcpuId: number): number {
    return this.hv?.vcpu(domId, vcpuId)?.cpu?.retired() ?? 0;
  }

  consoleOut(domId: number, bytes: Uint8Array): void {
    this.observers.consoleOut?.(domId, bytes);
    this.input.consoleOutput(domId, new TextDecoder('latin1').decode(bytes), this.nowNs());
  }
}
