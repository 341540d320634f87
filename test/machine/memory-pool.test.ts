// A machine on another's memory is a new machine.
import { expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { MemoryPool } from '../../src/machine/memory-pool.ts';
import { forkStorm } from '../../src/guest/workloads.ts';
import { subjectOf } from '../../src/node/explore-worker.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { exploreSeed } from '../../src/replay/explore.ts';
import { applySettings } from '../../src/sim/settings.ts';
import { GUEST_SETUPS, playGuest } from '../../src/testing/index.ts';

const options = { frameCount: 32, arenaBytes: 1024 * 1024 };

test('a memory that was given back is zero when it is taken again, and only for a machine of its size', () => {
  const pool = new MemoryPool();
  const first = new MachineMemory({ ...options, pool });
  first.u8.fill(0xff, first.reserve(4096), first.ramBase - first.arenaLeftBytes);
  for (let mfn = 0; mfn < 32; mfn++) first.fillFrame(mfn, 0xff);
  pool.giveBack(first);
  expect(new MachineMemory({ frameCount: 64, arenaBytes: options.arenaBytes, pool }).wasm).not.toBe(first.wasm);
  const second = new MachineMemory({ ...options, pool });
  expect(second.wasm).toBe(first.wasm);
  expect(second.u8.every((byte) => byte === 0)).toBe(true);
  expect(new MachineMemory({ ...options, pool }).wasm).not.toBe(first.wasm);
});

test.each(['planted', 'pv-i386-pae'])('%s: a seed is explored on used memory as on new', async (name) => {
  await loadHashes();
  const plain = await findScenario(name);
  const subject = await subjectOf({ ...plain, spec: applySettings(plain.spec, ['faults=upcall.delay:4']) });
  const { spec, images, expect: expected } = subject;
  for (let seed = 1; seed <= 4; seed++) expect(exploreSeed(subject, 'random', seed, new Map())).toEqual(exploreSeed({ spec, images, expect: expected }, 'random', seed, new Map()));
});

test.each(GUEST_SETUPS.filter(({ pinning }) => pinning === undefined || pinning === 'late'))('a guest runs on used memory as on new: $name', (setup) => {
  const pool = new MemoryPool();
  const program = forkStorm(1, 2);
  const plain = playGuest(setup, program);
  for (let time = 0; time < 2; time++) expect(playGuest(setup, program, { pool })).toEqual(plain);
  expect(plain.problems).toEqual([]);
});
