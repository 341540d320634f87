// Names for addresses: where they come from, what hostile tables do, and where a stack of a 64-bit guest leads.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { storedImage } from '../../src/node/image-store.ts';
import { specOf } from '../../src/node/recorded-world.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { backtraceLines } from '../../src/replay/backtrace.ts';
import { nextInstruction } from '../../src/replay/instruction-bisect.ts';
import { readKallsyms } from '../../src/replay/kallsyms.ts';
import { imageSymbols, Symbols, symbolsFrom } from '../../src/replay/symbols.ts';
import { Timeline } from '../../src/replay/timeline.ts';
import { imagesOf, recordBoot } from './boots.ts';

const seed = 20260105;

interface Row {
  readonly vaddr: bigint;
  readonly text: string;
}
interface Form {
  readonly wordBytes: 4 | 8;
  readonly addresses: 'absolute' | 'offsets before' | 'percpu before' | 'offsets behind';
  readonly markerBytes: 4 | 8;
  /** Linux 6.2: the order of the names between markers and tokens. */
  readonly order?: boolean;
}

const le = (value: bigint | number, sizeBytes: number): number[] => Array.from({ length: sizeBytes }, (_, index) => Number((BigInt.asUintN(64, BigInt(value)) >> BigInt(8 * index)) & 0xffn));

/** The tables as scripts/kallsyms.c lays them out, with "on" and "_s" as tokens, somewhere in a larger file. */
function tables(rows: readonly Row[], { wordBytes, addresses, markerBytes, order = false }: Form): Uint8Array {
  const tokens = Array.from({ length: 256 }, (_, index) => (index === 1 ? 'on' : index === 2 ? '_s' : index < 0x20 || index > 0x7e ? `#${index}` : String.fromCharCode(index)));
  const out = Array.from({ length: 1024 }, (_, index) => (index * 7) & 0xff);
  const align = (): void => { while (out.length % wordBytes !== 0) out.push(0); };
  const base = rows.find(({ vaddr }) => vaddr >= 0x1000_0000n)?.vaddr ?? 0n;
  const putAddresses = (): void => {
    align();
    if (addresses === 'absolute') out.push(...rows.flatMap(({ vaddr }) => le(vaddr, wordBytes)));
    else out.push(...rows.flatMap(({ vaddr }) => le(addresses === 'percpu before' ? (vaddr < 0x1000_0000n ? vaddr : base - 1n - vaddr) : vaddr - base, 4)));
    align();
    if (addresses !== 'absolute') out.push(...le(base, wordBytes));
  };
  if (addresses !== 'offsets behind') putAddresses();
  align();
  out.push(...le(rows.length, 4));
  align();
  const from = out.length;
  const markers: number[] = [];
  rows.forEach(({ text }, index) => {
    if (index % 256 === 0) markers.push(out.length - from);
    const packed = [...text.replaceAll('on', '\x01').replaceAll('_s', '\x02')].map((each) => each.charCodeAt(0));
    out.push(...(packed.length < 128 ? [packed.length] : [(packed.length & 127) | 128, packed.length >> 7]), ...packed);
  });
  align();
  out.push(...markers.flatMap((marker) => le(marker, markerBytes)));
  if (order) out.push(...rows.flatMap((_, index) => [0, index >> 8, index & 0xff]));
  align();
  const offsets: number[] = [];
  const start = out.length;
  for (const token of tokens) {
    offsets.push(out.length - start);
    out.push(...[...token].map((each) => each.charCodeAt(0)), 0);
  }
  align();
  out.push(...offsets.flatMap((offset) => le(offset, 2)));
  if (addresses === 'offsets behind') putAddresses();
  return Uint8Array.from([...out, ...Array.from({ length: 64 }, () => 0)]);
}

/** So many words where markers could be, before tokens that are right. */
function markersBefore(words: number, value: (index: number) => number): Uint8Array {
  const right = tables(KERNEL64, { wordBytes: 8, addresses: 'percpu before', markerBytes: 4 });
  const tokensAt = right.findIndex((_, at) => right[at] === 0x23 && right[at + 1] === 0x30 && right[at + 2] === 0);
  const bytes = new Uint8Array(80_000 + 4 * words + right.length - tokensAt);
  const view = new DataView(bytes.buffer);
  for (let index = 0; index < words; index++) view.setUint32(80_000 + 4 * index, value(index), true);
  bytes.set(right.subarray(tokensAt), 80_000 + 4 * words);
  return bytes;
}

const KERNEL64 = Array.from({ length: 700 }, (_, index): Row => ({ vaddr: index < 5 ? BigInt(index * 64) : 0xffff_ffff_8100_0000n + BigInt(index * 48), text: `${index % 3 === 0 ? 'T' : 'd'}${index === 600 ? 'long_'.repeat(40) : ''}_some_function_${index}` }));
const KERNEL32 = KERNEL64.slice(5).map(({ vaddr, text }): Row => ({ vaddr: (vaddr & 0x0fff_ffffn) | 0xc000_0000n, text }));

describe('the symbols that a stripped Linux kernel has in its data are found', () => {
  test.each([
    ['Linux 6.1, 64 bits, per-CPU offsets as they are', KERNEL64, { wordBytes: 8, addresses: 'percpu before', markerBytes: 4 }],
    ['Linux 6.2, with the order of the names', KERNEL64, { wordBytes: 8, addresses: 'percpu before', markerBytes: 4, order: true }],
    ['Linux 6.4, offsets behind the tokens', KERNEL64.slice(5), { wordBytes: 8, addresses: 'offsets behind', markerBytes: 4 }],
    ['Linux 5.4, 32 bits', KERNEL32, { wordBytes: 4, addresses: 'offsets before', markerBytes: 4 }],
    ['Linux 2.6.24, 32 bits, addresses', KERNEL32, { wordBytes: 4, addresses: 'absolute', markerBytes: 4 }],
    ['Linux 3, 64 bits, addresses and wide markers', KERNEL64.slice(5), { wordBytes: 8, addresses: 'absolute', markerBytes: 8 }],
  ] as const)('%s', (_what, rows, form) => {
    const expected = rows.map(({ vaddr, text }) => ({ vaddr: Number(form.wordBytes === 8 ? BigInt.asIntN(64, vaddr) : vaddr), type: text[0], name: text.slice(1) }));
    expect(readKallsyms(tables(rows, form), form.wordBytes)).toEqual(expected);
  });

  test('whatever was made of the tables, there are names or none, and no end to nothing', () => {
    const whole = tables(KERNEL64, { wordBytes: 8, addresses: 'percpu before', markerBytes: 4 });
    fc.assert(fc.property(fc.nat(whole.length), fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }), fc.boolean(), (cut, flips, wide) => {
      const bytes = whole.slice(0, flips.length % 2 === 0 ? cut : whole.length);
      for (const [at, value] of flips) if (at < bytes.length) bytes[at] = value;
      const rows = readKallsyms(bytes, wide ? 8 : 4);
      expect(rows.length === 0 || rows.length === KERNEL64.length).toBe(true);
    }), { seed, numRuns: 200 });
  });

  // The first two took more than 45 s once: a kernel is anybody's file.
  test.each([
    ['tokens of digits all over', Uint8Array.from({ length: 400_000 }, (_, index) => (index % 2 === 0 ? 0x30 + ((index / 2) % 10) : 0))],
    ['words that rise as markers do, before tokens', markersBefore(120_000, (index) => index * 256 + 7)],
    ['pairs of words that are markers of something, before tokens', markersBefore(20_000, (index) => (index % 2) * 300)],
  ] as const)('a file with %s has no names, and is soon given up', { timeout: 30_000 }, (_what, bytes) => {
    expect(readKallsyms(bytes, 8)).toEqual([]);
  });

  test("Debian's kernel names its entries", ({ skip }) => {
    if (storedImage('debian-linux-cloud') === undefined) skip('not here: run `npx rexen fetch debian-linux-cloud`');
    return imagesOf({ domains: [{ kernel: { name: 'debian-linux-cloud' } }] } as unknown as Parameters<typeof imagesOf>[0]).then(({ domains: [images] }) => {
      const symbols = symbolsFrom(images?.kernel.bytes as Uint8Array);
      expect(symbols.count).toBeGreaterThan(50_000);
      // What the ELF note says and what the table says come from different places.
      expect(symbols.at(images?.kernel.entry as number)).toBe('startup_xen');
    });
  });
});

test('a name that would write something else to a terminal is none, and offsets into per-CPU areas are no addresses', () => {
  const symbols = new Symbols([{ vaddr: -4096, name: 'good' }, { vaddr: -2048, name: 'bad\x1b[2J' }, { vaddr: 0x40, name: 'percpu' }]);
  expect(symbols.text(-2048)).toBe('0xfffffffffffff800 <good+0x800>');
  expect(symbols.at(0x44)).toBeUndefined();
});

test('a 64-bit Linux: the code at its instruction pointer and the way it came there have names', { timeout: 120_000 }, async ({ skip }) => {
  if (storedImage('debian-linux-cloud') === undefined || storedImage('debian-linux-cloud-initramfs') === undefined) skip('not here: run `npx rexen fetch debian-linux-cloud` and `debian-linux-cloud-initramfs`');
  const { bytes } = await recordBoot('linux-bare', { change: (spec) => ({ ...spec, maxInstructions: 4_000_000 }) });
  const recording = openRecording(bytesSource('linux.rxr', bytes), { codec: zlibCodec() });
  const spec = specOf(recording);
  const images = (await imagesOf(spec)).domains;
  const symbols = imageSymbols(images);
  const timeline = new Timeline({ recording, spec, images, everyInsns: 0 });
  timeline.seek({ event: 1000 });
  const stack = backtraceLines(timeline.world, symbols);
  expect(stack[0]).toMatch(/^at 0xffffffff8[0-9a-f]{7} <\w+/);
  expect(stack.slice(1).join()).toMatch(/<xen_start_kernel\+/);
  expect(nextInstruction(timeline, symbols).code[0]).toMatch(/^0xffffffff8[0-9a-f]{7} <[\w.]+(\+0x[0-9a-f]+)?> {2}[0-9A-F]{2}/i);
});
