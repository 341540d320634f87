/**
 * The committed guest images are what their sources say: built again, they are the same bytes.
 *
 * The bytes depend on the compiler, so the comparison needs the one that made them (Debian 12's
 * gcc 12.2 with gcc-multilib). Without `gcc -m32` the test is skipped, loudly; in CI
 * (`CI=true`), which installs it, that is a failure. Another gcc version still has to build the
 * images, and then only their ELF identification and type are compared.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '../..');
const IMAGES = ['bench-paging.elf', 'pv-i386-legacy.elf', 'pv-i386-net.elf', 'pv-i386-nopae.elf', 'pv-i386-pae.elf'];
const GCC_OF_THE_IMAGES = '12.2.0';

const scratch = mkdtempSync(join(tmpdir(), 'rexen-guests-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** The version of a gcc that can make 32-bit freestanding code, or undefined. */
function usableGcc(): string | undefined {
  const source = join(scratch, 'probe.c');
  writeFileSync(source, 'int probe(void) { return 0; }\n');
  const probe = spawnSync('gcc', ['-m32', '-nostdlib', '-static', '-no-pie', '-Wl,-e,probe', '-o', join(scratch, 'probe'), source]);
  if (probe.status !== 0) return undefined;
  return execFileSync('gcc', ['-dumpfullversion'], { encoding: 'utf8' }).trim();
}

const gcc = usableGcc();
const inCi = process.env['CI'] === 'true';
if (gcc === undefined && !inCi) {
  console.warn('SKIPPED: gcc -m32 is missing (Debian: apt-get install gcc gcc-multilib), so the guest images were not rebuilt.');
}

test('only the known images are committed', () => {
  expect(readdirSync(join(ROOT, 'scenarios/guests/images')).sort()).toEqual(IMAGES);
});

test.runIf(inCi)('CI has the compiler that the comparison needs', () => {
  expect(gcc, 'gcc -m32 is missing: .ci/run must install gcc and gcc-multilib').toBeDefined();
});

describe.skipIf(gcc === undefined)('rebuilding the guest images from their sources', () => {
  const built = join(scratch, 'a much longer directory name, to show that no path gets into an image');

  beforeAll(() => {
    execFileSync(join(ROOT, 'scenarios/guests/pv-i386/build.sh'), [built], { stdio: 'pipe' });
  });

  for (const name of IMAGES) {
    test(`${name} comes out as committed`, () => {
      const committed = readFileSync(join(ROOT, 'scenarios/guests/images', name));
      const fresh = readFileSync(join(built, name));
      if (gcc === GCC_OF_THE_IMAGES) {
        expect(fresh.equals(committed), `${name} differs from its sources: run scenarios/guests/pv-i386/build.sh and commit the result`).toBe(true);
      } else {
        console.warn(`gcc ${gcc} is not ${GCC_OF_THE_IMAGES}: ${name} was built, but only its ELF header is compared.`);
        expect(fresh.subarray(0, 0x20)).toEqual(committed.subarray(0, 0x20));
      }
    });
  }
});
