// Who stands around a world: sinks of its events, back ends of dom0, observers; and what advance() answers.
import type { ToolstackCommand } from '../dom0/toolstack.ts';
import type { Outcome } from './outcome.ts';

/** Takes every event in order. The recorder, the replay's comparison and tests are sinks. */
export interface EventSink {
  event(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): void;
  /** The state after `eventCount` events; called at deterministic points. */
  stateDigest?(eventCount: number, insns: number): void;
  /** The run need not go on: advance() returns as soon as the exit under way has been handled. */
  readonly over?: boolean;
}

/** A back end of dom0 as the world sees it. */
export interface Service {
  readonly name: string;
  /** The guest notified, or earlier work is due. */
  run(): void;
  /** Bytes typed by somebody, for services that take them. */
  input?(bytes: Uint8Array): void;
  /** What the toolstack is told to do with a domain. */
  command?(domId: number, command: ToolstackCommand): void;
  /** A domain has shut down. True: the run goes on whatever the other domains do, for this one comes back. */
  domainShutdown?(domId: number, reason: number): boolean;
  /** Its state is part of this other service's: not saved twice. */
  readonly partOf?: string;
  save(): unknown;
  /** Stands for save() in a state digest, where that is large. */
  digest?(): unknown;
  restore(state: unknown): void;
}

export interface Observers {
  consoleOut?(domId: number, bytes: Uint8Array): void;
  /** The hypervisor is at rest: an exit, an input or an entry of the agenda has been handled. May look, not touch. */
  quiescent?(): void;
}

export type Advance =
  /** The instruction allowance of this call is used up. */
  | { readonly kind: 'running' }
  /** Nothing can run before a person types or this virtual time has come (Infinity: nothing is due). */
  | { readonly kind: 'idle'; readonly untilNs: number }
  | { readonly kind: 'ended'; readonly outcome: Outcome; readonly text: string };

/** Where a run spends its time, in milliseconds of a clock that the host lends; never seen by guests. */
export interface WorldProfile {
  readonly clock: () => number;
  processorMs: number;
  /** Logging of what happened meanwhile included. */
  hypervisorMs: number;
  /** A vCPU has its turn: time counts for one of the two. */
  running: boolean;
}
