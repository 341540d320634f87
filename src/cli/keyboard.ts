// Keys of a person at the terminal, as input for a guest's console. Ctrl-] ends the run, as in xl console.
import type { LiveInput } from '../sim/input.ts';

const CTRL_CLOSE_BRACKET = 0x1d;

export function listenToKeys(live: LiveInput, domId: number, stop: () => void): { close(): void } {
  const { stdin } = process;
  const raw = stdin.isTTY === true;
  if (raw) stdin.setRawMode(true);
  const onData = (chunk: Buffer): void => {
    const end = chunk.indexOf(CTRL_CLOSE_BRACKET);
    const bytes = end < 0 ? chunk : chunk.subarray(0, end);
    if (bytes.length > 0) live.push({ kind: 'console', domId, bytes: Uint8Array.from(bytes) });
    if (end >= 0) stop();
  };
  stdin.on('data', onData);
  stdin.resume();
  return {
    close() {
      stdin.off('data', onData);
      if (raw) stdin.setRawMode(false);
      stdin.pause();
    },
  };
}
