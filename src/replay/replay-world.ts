// A world that runs along a recording: choices and inputs come from it, events and digests are compared
// with it.
import type { Recording } from '../log/reader.ts';
import type { DecodedChunks } from '../log/replay-encoder.ts';
import { buildWorld, type DomainImages } from '../sim/build-world.ts';
import type { WorldSpec } from '../sim/spec.ts';
import { StateDigester } from '../sim/state-digest.ts';
import type { EventSink, Observers, World } from '../sim/world.ts';
import { Replayer } from './replayer.ts';

export interface ReplayWorldOptions {
  readonly recording: Recording;
  readonly spec: WorldSpec;
  readonly images: readonly DomainImages[];
  readonly observers?: Observers;
  /** The recording's events, if somebody decodes them meanwhile. */
  readonly decoded?: DecodedChunks | undefined;
  /** Stands between the world and the comparison. */
  readonly wrap?: (sink: EventSink) => EventSink;
}

export interface ReplayWorld {
  readonly world: World;
  readonly replayer: Replayer;
  readonly digester: StateDigester;
}

export function buildReplayWorld(options: ReplayWorldOptions): ReplayWorld {
  const { recording, spec, images, observers = {}, wrap = (sink) => sink } = options;
  let digester: StateDigester | undefined;
  const replayer = new Replayer(recording, () => (digester as StateDigester).parts(), options.decoded);
  const world = buildWorld({
    spec, images, choices: replayer.choices, input: () => replayer.input, observers,
    sink: (made) => {
      digester = new StateDigester(made);
      return wrap(replayer);
    },
  });
  return { world, replayer, digester: digester as unknown as StateDigester };
}
