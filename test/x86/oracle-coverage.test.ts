// No instruction row without an oracle: each is met in a vector, or this table says where it is asked.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { Code, Decoder, Mnemonic } from 'iced-x86';
import { expect, test } from 'vitest';
import { ROWS } from '../../src/x86/rows/index.ts';
import { HINTS, isApproximate, LONG_SIMD_CODES, SIMD_CODES } from '../oracle/generate/simd.ts';
import { GROUPS } from '../oracle/groups.ts';
import { LONG_GROUPS } from '../oracle/long/cases.ts';
import { parseVector } from '../oracle/vector.ts';
import { UNDEFINED_FLAGS } from '../oracle/undefined-flags.ts';

/** Rows that no vector of user code can meet, and why or where else they are asked. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  ...Object.fromEntries(['Iretq', 'Sysexitq', 'Syscall', 'Sysexit'].map((name) => [name, 'long-system.test.ts'])),
  ...Object.fromEntries(['Smsw', 'Sgdt', 'Sidt', 'Int1'].map((name) => [name, 'image control'])),
  ...Object.fromEntries(['Sldt', 'Str'].map((name) => [name, 'image segments'])),
  ...Object.fromEntries(['Sysenter'].map((name) => [name, 'image tasks'])),
  ...Object.fromEntries(['Tzcnt', 'Lzcnt'].map((name) => [name, 'BSF and BSR on an i686; this processor has the newer meaning'])),
  ...Object.fromEntries(['Rdtscp', 'Xgetbv', 'Vmcall', 'Vmmcall', 'PrefetchReserved'].map((name) => [name, 'not of the i686'])),
};

/** What ring 3 only sees refused: the images run these in ring 0. */
const IN_IMAGES = ['Hlt', 'Cli', 'Sti', 'Clts', 'Lgdt', 'Lidt', 'Lldt', 'Ltr', 'Lmsw', 'Invlpg', 'Wbinvd', 'Rdmsr', 'Wrmsr', 'In', 'Out'];

/** How often each mnemonic and each encoding (by iced's names) is met. */
function met(): Map<string, number> {
  const counts = new Map<string, number>();
  for (const group of [...GROUPS, ...LONG_GROUPS.map(({ name }) => ({ name, bits: 64 as const }))]) {
    const text = gunzipSync(readFileSync(join(import.meta.dirname, '..', 'oracle', 'vectors', `${group.name}.txt.gz`))).toString('latin1');
    const codes = new Map<string, number>();
    for (const line of text.trimEnd().split('\n')) {
      const code = line.slice(0, line.indexOf(' '));
      codes.set(code, (codes.get(code) ?? 0) + 1);
    }
    for (const [code, times] of codes) {
      const decoder = new Decoder(group.bits ?? 32, parseVector(`${code} r0 f2 > .`).input.code, 0);
      while (decoder.canDecode) {
        const instruction = decoder.decode();
        const name = Mnemonic[instruction.mnemonic] ?? '';
        for (const key of [name, `${Code[instruction.code] ?? ''} by code`]) counts.set(key, (counts.get(key) ?? 0) + times);
        instruction.free();
      }
      decoder.free();
    }
  }
  return counts;
}

test('every instruction row is asked of a real processor, or it is said where else', () => {
  const counts = met();
  expect(Object.keys(ROWS).filter((name) => !counts.has(name) && ELSEWHERE[name] === undefined)).toEqual([]);
  // The table may not outlive its reasons.
  expect(Object.keys(ELSEWHERE).filter((name) => counts.has(name))).toEqual([]);
  expect(IN_IMAGES.filter((name) => !counts.has(name))).toEqual([]);
});

test('every encoding of MMX, SSE and SSE2 is asked of a real processor', () => {
  const counts = met();
  expect(SIMD_CODES.length).toBeGreaterThan(280);
  expect(SIMD_CODES.map(({ name }) => name).filter((name) => (counts.get(`${name} by code`) ?? 0) < 2)).toEqual([]);
  const long = LONG_SIMD_CODES.filter((code) => !HINTS.test(code.name) && !isApproximate(code));
  expect(long.map(({ name }) => name).filter((name) => (counts.get(`${name} by code`) ?? 0) < 2)).toEqual([]);
});

test('every row of undefined flags names instructions that vectors meet', () => {
  const counts = met();
  expect(UNDEFINED_FLAGS.flatMap((row) => row.names).filter((name) => !counts.has(name))).toEqual([]);
});
