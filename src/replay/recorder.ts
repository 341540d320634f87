// A run that is written down: the sink that encodes every event into chunks for a writer.
import { MAX_KIND, eventRow } from '../abi/events.ts';
import { BatchedEvents } from '../log/batched-encoder.ts';
import type { RecordingTarget } from '../log/encoding-writer.ts';
import type { StateDigest } from '../log/packets.ts';
import type { EventSink } from '../sim/world.ts';
import { WholeDigest, type LogMode } from './whole-digest.ts';

/** Counts events by kind: what every summary shows. */
export class KindCounts {
  readonly #counts = new Float64Array(MAX_KIND + 1);

  add(kind: number): void {
    this.#counts[kind] = (this.#counts[kind] as number) + 1;
  }

  byName(): Record<string, number> {
    const named: Record<string, number> = {};
    this.#counts.forEach((count, kind) => {
      const row = eventRow(kind);
      if (row !== undefined && count > 0) named[row.name] = count;
    });
    return named;
  }
}

export class Recorder implements EventSink {
  readonly counts = new KindCounts();
  readonly #events: BatchedEvents;
  readonly #target: RecordingTarget;
  readonly #digestState: () => StateDigest['parts'];
  readonly #flushInputs: boolean;
  readonly #whole: WholeDigest | undefined;

  /** `flushInputs`: an input is in the log before the guest sees it (a person is typing). */
  constructor(target: RecordingTarget, nsPerInsn: { num: number; den: number }, digestState: () => StateDigest['parts'], flushInputs: boolean, log: LogMode = 'all') {
    this.#whole = log === 'inputs' ? new WholeDigest(nsPerInsn) : undefined;
    this.#events = new BatchedEvents(target);
    this.#target = target;
    this.#digestState = digestState;
    this.#flushInputs = flushInputs;
  }

  event(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): void {
    this.counts.add(kind);
    if (this.#whole !== undefined) {
      this.#whole.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
      if (eventRow(kind)?.role !== 'input') return;
    }
    this.#events.emit(kind, domId, vcpuId, retired, nowNs, values, bytes);
    if (this.#flushInputs && eventRow(kind)?.role === 'input') this.#events.endChunk();
  }

  stateDigest(eventCount: number): void {
    // What came before is handed over too: a recording that is killed loses at most what came since, and what is on its way to another thread.
    this.#events.endChunk();
    const parts = this.#digestState();
    this.#target.stateDigest(this.#whole === undefined ? { atEvent: eventCount, parts } : { atEvent: this.#events.eventCount, parts: this.#whole.over(parts) });
  }

  /** Hands over the last events. The writer's finish() comes next. */
  finish(): void {
    this.#events.endChunk();
  }
}
