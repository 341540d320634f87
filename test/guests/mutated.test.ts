// Guests with random bytes changed in their code: wild jumps, wild hypercalls, wild page tables. None
// may crash or hang the process, and the evaluator and the translator must agree on every event.
// REXEN_DEPTH=long tries many more.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { crc32 } from 'node:zlib';
import { PrngStream } from '../../src/base/prng.ts';
import { parseKernel, type KernelImage } from '../../src/hypervisor/build/kernel-image.ts';
import { storedImage } from '../../src/node/image-store.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import { SPEC_DEFAULTS, type WorldSpec } from '../../src/sim/spec.ts';

const IMAGES = resolve(import.meta.dirname, '../../scenarios/guests/images');
const LONG = process.env['REXEN_DEPTH'] === 'long';
const MUTANTS = LONG ? 300 : 5;
const MOST_INSNS = 2_000_000;

interface Guest {
  readonly name: string;
  readonly file: string;
  /** At most so many bytes of its code are changed: of a large guest few places run. */
  readonly mostChanges: number;
}
const ours = (name: string): Guest => ({ name, file: resolve(IMAGES, name), mostChanges: 8 });
const stored = (name: string): readonly Guest[] => [storedImage(name)].flatMap((image) => (image === undefined ? [] : [{ name, file: image.path, mostChanges: 1500 }]));
const GUESTS: readonly Guest[] = [ours('pv-i386-pae.elf'), ours('pv-i386-nopae.elf'), ...(LONG ? [...stored('grub-i386'), ...stored('grub-x86_64')] : [])];

function original({ file }: Guest): KernelImage {
  const image = parseKernel(new Uint8Array(readFileSync(file)));
  if ('problem' in image) throw new Error(image.problem);
  return image;
}

/** Some bytes of the code changed: replaced, or one bit flipped. */
function mutate(image: KernelImage, seed: number, most: number): KernelImage {
  const chance = new PrngStream(String(seed), 'mutant');
  const bytes = Uint8Array.from(image.bytes);
  const code = image.segments[0] as KernelImage['segments'][number];
  for (let count = 1 + chance.below(most); count > 0; count--) {
    const at = code.offset + chance.below(code.fileBytes);
    bytes[at] = chance.below(2) === 0 ? chance.below(256) : (bytes[at] as number) ^ (1 << chance.below(8));
  }
  return { ...image, bytes };
}

interface Life {
  readonly outcome: string;
  readonly text: string;
  readonly events: number;
  /** CRC-32 over all events in order, and over the registers at the end. */
  readonly crc: number;
}

function live(kernel: KernelImage, seed: number, tier: 'evaluate' | 'auto'): Life {
  const spec: WorldSpec = { ...SPEC_DEFAULTS, domains: [{ name: 'mutant', kernel: { name: 'mutant' }, cmdline: '', memoryMib: 16 }], input: [], maxInstructions: MOST_INSNS };
  let crc = 0;
  let events = 0;
  const add = (text: string): void => void (crc = crc32(text, crc));
  const world = buildWorld({
    spec, tier, images: [{ kernel, ramdisk: undefined }], choices: new SeededChoices(String(seed)), input: (domIdOf) => new ScriptedInput([], domIdOf),
    sink: () => ({
      event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
        events++;
        add(`${kind} ${domId} ${vcpuId} ${retired} ${nowNs} ${values.join()} ${bytes?.join() ?? ''}`);
      },
    }),
  });
  for (;;) {
    const advance = world.advance(MOST_INSNS);
    if (advance.kind === 'idle') throw new Error('a scripted world waits for a person');
    if (advance.kind !== 'ended') continue;
    add(world.hv.vcpu(1, 0)?.cpu?.registers().map((row) => `${row.name}=${row.value}`).join() ?? '');
    return { outcome: advance.outcome, text: advance.text, events, crc };
  }
}

describe.each(GUESTS)('mutants of $name', (guest) => {
  const image = original(guest);
  const mutant = (seed: number): KernelImage => mutate(image, seed, guest.mostChanges);
  beforeAll(loadHashes);

  test('end with a word, and the same with and without translation', { timeout: LONG ? 3_600_000 : 60_000 }, () => {
    const outcomes = new Set<string>();
    for (let seed = 1; seed <= MUTANTS; seed++) {
      const kernel = mutant(seed);
      const evaluated = live(kernel, seed, 'evaluate');
      expect(live(kernel, seed, 'auto'), `mutant ${seed}`).toEqual(evaluated);
      expect(evaluated.text, `mutant ${seed}`).not.toBe('');
      // What only ring 0 can cause would mean that a mutant got there.
      expect(evaluated.text, `mutant ${seed}`).not.toMatch(/cannot cause/);
      outcomes.add(evaluated.outcome);
    }
    expect(outcomes.size, 'mutants that all end alike were not changed enough').toBeGreaterThan(1);
  });

  test('differ from each other: the comparison can fail', () => {
    expect(live(mutant(1), 1, 'auto').crc).not.toBe(live(mutant(2), 1, 'auto').crc);
  });
});
