// Loads the hash functions (WebAssembly, so asynchronous) and installs them for the core rooms.
import { createBLAKE3, type IHasher } from 'hash-wasm';
import { installHashes } from '../base/hash.ts';

let loading: Promise<void> | undefined;

/** Call once and await before recording, replaying or reading; calling again costs nothing. */
export function loadHashes(): Promise<void> {
  loading ??= load();
  return loading;
}

async function load(): Promise<void> {
  // One hasher computes for all: running hashes are its saved states, restored for each update.
  const hasher: IHasher = await createBLAKE3();
  installHashes({
    blake3: (bytes) => hasher.init().update(bytes).digest('binary'),
    running: (saved) => {
      let state = saved ?? hasher.init().save();
      return {
        update: (bytes) => {
          hasher.load(state).update(bytes);
          state = hasher.save();
        },
        snapshot: () => hasher.load(state).digest('binary'),
        save: () => state.slice(),
      };
    },
  });
}
