// Progress for long work: on a terminal only, on stderr, and gone when the work is done.
import { SingleBar } from 'cli-progress';

export interface Progress {
  update(value: number, note: string): void;
  stop(): void;
}

const QUIET: Progress = { update() {}, stop() {} };

/** `total` undefined: how long it takes is not known, only the note is shown. */
export function startProgress(label: string, total: number | undefined, wanted: boolean): Progress {
  if (!wanted || process.stderr.isTTY !== true) return QUIET;
  const format = total === undefined ? `${label} {note}` : `${label} [{bar}] {percentage}% {note}`;
  const bar = new SingleBar({ format, stream: process.stderr, clearOnComplete: true, hideCursor: true, fps: 8 });
  bar.start(total ?? 1, 0, { note: '' });
  return {
    update: (value, note) => bar.update(total === undefined ? 0 : value, { note }),
    stop: () => bar.stop(),
  };
}
