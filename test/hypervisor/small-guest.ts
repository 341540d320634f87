// A scripted guest for tests of hypercalls: the conformance world's d1 with a page of arguments, a
// world whose clock and timers the test moves, and what was emitted.
import { allocUnboundPort } from '../../src/hypervisor/event-channels.ts';
import { dispatchHypercall } from '../../src/hypervisor/dispatch.ts';
import { HypercallArgs, type HypercallOutcome } from '../../src/hypervisor/hypercall.ts';
import { hypercallRows } from '../../src/hypervisor/hypercall-rows.ts';
import { setUpcallMask } from '../../src/hypervisor/shared-info.ts';
import { XEN_BUILDS, type AbiName } from '../../src/hypervisor/personality.ts';
import { timerFired } from '../../src/hypervisor/time.ts';
import type { TimerKind } from '../../src/hypervisor/world-port.ts';
import { ConformWorld, KERNEL_VADDR, type ConformState } from '../../src/replay/conform-world.ts';

const ARG_AT = 0x400;

export class SmallGuest {
  readonly state: ConformState;
  nowNs = 0;
  readonly timers = new Map<TimerKind, number>();
  runnable = true;
  readonly shutdowns: { reason: number; text: string }[] = [];
  readonly backend: number[] = [];
  readonly emitted: { kind: number; values: readonly number[]; bytes: Uint8Array | undefined }[] = [];

  constructor(abi: AbiName = 'pv32pae') {
    this.state = new ConformWorld({ hypercallRows, build: XEN_BUILDS.release }).fresh(abi);
    const { d1, vcpu, hv, d2 } = this.state;
    Object.assign(hv.world, {
      nowNs: () => this.nowNs,
      wallClockAtZeroSec: () => 1_234_567_890,
      setTimer: (_d: number, _v: number, kind: TimerKind, atNs: number | undefined) => (atNs === undefined ? this.timers.delete(kind) : this.timers.set(kind, atNs)),
      vcpuRunnable: (_d: number, _v: number, runnable: boolean) => { this.runnable = runnable; },
      notifyBackend: (_d: number, port: number) => this.backend.push(port),
      domainShutdown: (_d: number, reason: number, text: string) => this.shutdowns.push({ reason, text }),
      emit: (kind: number, _d: number, _v: number, values: readonly number[], bytes: Uint8Array | undefined) => this.emitted.push({ kind, values, bytes }),
    });
    for (const domain of [d1, d2]) {
      const first = domain.vcpus[0];
      if (first !== undefined) first.vcpuInfoMaddr = domain.sharedInfoMfn * 4096;
    }
    setUpcallMask(hv, vcpu, 1);
    vcpu.initialised = true;
    for (let port = 1; port <= 2; port++) allocUnboundPort(hv, d1, 0);
  }

  /** Machine address of byte `at` of the argument page. */
  maddr(at = 0): number {
    const { hv, mfns } = this.state;
    const l1 = mfns.get('live_l1') as number;
    const vaddr = KERNEL_VADDR + ARG_AT + at;
    const entryBytes = this.state.d1.abi.pteBytes;
    const slot = (vaddr >>> 12) % (4096 / entryBytes);
    return (hv.machine.readU32(l1 * 4096 + slot * entryBytes) >>> 12) * 4096 + (vaddr % 4096);
  }
  /** Writes 32-bit words to the argument page; gives its guest address. */
  words(...words: readonly number[]): number {
    words.forEach((word, index) => this.state.hv.machine.writeU32(this.maddr(index * 4), word >>> 0));
    return KERNEL_VADDR + ARG_AT;
  }
  bytes(bytes: Uint8Array, at = 0): number {
    this.state.hv.machine.writeBytes(this.maddr(at), bytes);
    return KERNEL_VADDR + ARG_AT + at;
  }
  readWord(index: number): number {
    return this.state.hv.machine.readU32(this.maddr(index * 4));
  }

  outcome(number: number, ...args: readonly number[]): HypercallOutcome {
    return dispatchHypercall(this.state.hv, this.state.vcpu, number, new HypercallArgs().set(args));
  }
  call(number: number, ...args: readonly number[]): number {
    const outcome = this.outcome(number, ...args);
    return outcome.kind === 'done' ? outcome.rc : Number.NaN;
  }

  /** Lets time pass; due timers fire in order. */
  advance(toNs: number): void {
    for (;;) {
      const due = [...this.timers].filter(([, atNs]) => atNs <= toNs).sort((a, b) => a[1] - b[1])[0];
      if (due === undefined) break;
      this.timers.delete(due[0]);
      this.nowNs = Math.max(this.nowNs, due[1]);
      timerFired(this.state.hv, 1, 0, due[0]);
    }
    this.nowNs = toNs;
  }
  pending(port: number): boolean {
    const at = this.state.d1.sharedInfoMfn * 4096 + 2048;
    return ((this.state.hv.machine.readU8(at + (port >>> 3)) >>> (port & 7)) & 1) === 1;
  }
}
