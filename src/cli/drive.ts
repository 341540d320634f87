// Runs a world to its end in slices, so that the host can show progress, read keys and be interrupted
// in between. With a person at the console, idle virtual time is paced to the host's clock.
import type { LiveInput } from '../sim/input.ts';
import type { Outcome } from '../sim/outcome.ts';
import type { World } from '../sim/world.ts';

const SLICE_INSNS = 20_000_000;
/** A guest that keeps the hypervisor busy makes few instructions a second: Ctrl-C is to be heard all the same. */
const SLICE_EVENTS = 50_000;
/** With a person typing, slices are short, so that a key is seen at once. */
const LIVE_SLICE_INSNS = 2_000_000;
const LIVE_POLL_MS = 20;

export interface DriveOptions {
  readonly live?: LiveInput;
  /** Instructions and events between two calls of onSlice, at most. */
  readonly sliceInsns?: number;
  readonly sliceEvents?: number;
  readonly onSlice?: () => void;
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when the world has ended. SIGINT ends it through `live` when there is one. */
export async function drive(world: World, options: DriveOptions): Promise<{ outcome: Outcome; text: string }> {
  for (;;) {
    const result = world.advance(Math.min(options.live === undefined ? SLICE_INSNS : LIVE_SLICE_INSNS, options.sliceInsns ?? Infinity), world.eventCount + Math.min(SLICE_EVENTS, options.sliceEvents ?? Infinity));
    options.onSlice?.();
    if (result.kind === 'ended') return result;
    if (result.kind === 'idle') await letTimePass(world, options.live as LiveInput, result.untilNs);
    else await nextTurn();
  }
}

/** Sleeps until the next entry of the agenda is due by the wall clock, or a key came. */
async function letTimePass(world: World, live: LiveInput, untilNs: number): Promise<void> {
  const startNs = world.nowNs();
  const startMs = performance.now();
  for (;;) {
    const passedNs = Math.floor((performance.now() - startMs) * 1e6);
    if (live.waiting()) {
      world.jumpTo(Math.min(untilNs, startNs + passedNs));
      return;
    }
    if (startNs + passedNs >= untilNs) {
      world.jumpTo(untilNs);
      return;
    }
    await pause(LIVE_POLL_MS);
  }
}
