// A recording of inputs alone (`--log inputs`): what a replay needs, and now and then one digest of
// everything else. The digest covers the canonical bytes of every event so far, recorded or not, and the
// state; so such a recording verifies as much as a full one, and only says less about where it broke.
import { eventsToChunks, type BatchedEvents } from '../log/batched-encoder.ts';
import { EventsDigest } from '../log/digest.ts';
import type { StateDigest, World } from '../log/packets.ts';
import { blake3 } from '../base/hash.ts';
import type { EventSink } from '../sim/world.ts';

export type LogMode = 'all' | 'inputs';

/** The option of a recording's header that says so; a full recording has none. */
export const INPUTS_OPTION = { name: 'log', value: 'inputs' } as const;
export const logModeOf = (world: World): LogMode => (world.options.some(({ name, value }) => name === INPUTS_OPTION.name && value === INPUTS_OPTION.value) ? 'inputs' : 'all');
/** The one part of its state digests. */
export const WHOLE_PART = 'events and state';
/** How often a recording of inputs has a digest, unless the user says otherwise. */
export const INPUTS_DIGEST_EVERY_INSNS = 10_000_000;

export class WholeDigest {
  readonly #digest = new EventsDigest();
  readonly #events: BatchedEvents;

  constructor(nsPerInsn: { num: number; den: number }) {
    this.#events = eventsToChunks({ chunk: (chunk) => void this.#digest.add(chunk.bytes) }, { numerator: nsPerInsn.num, denominator: nsPerInsn.den });
  }

  event(...[kind, domId, vcpuId, retired, nowNs, values, bytes]: Parameters<EventSink['event']>): void {
    this.#events.emit(kind, domId, vcpuId, retired, nowNs, values, bytes);
  }

  /** One digest of all events so far and of the state's parts. */
  over(parts: StateDigest['parts']): StateDigest['parts'] {
    this.#events.endChunk();
    const all = [this.#digest.last, ...parts.map((part) => part.digest)];
    const joined = new Uint8Array(all.reduce((sum, digest) => sum + digest.length, 0));
    let at = 0;
    for (const digest of all) {
      joined.set(digest, at);
      at += digest.length;
    }
    return [{ name: WHOLE_PART, digest: blake3(joined) }];
  }
}
