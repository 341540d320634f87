// Two recordings part at an event; their states part at an instruction before it, which is found and named.
import { expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { specOf } from '../../src/node/recorded-world.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { bisectInstructions } from '../../src/replay/instruction-bisect.ts';
import { compareWorlds } from '../../src/replay/state-diff.ts';
import { Symbols, symbolsFrom } from '../../src/replay/symbols.ts';
import { Timeline } from '../../src/replay/timeline.ts';
import { imagesOf, recordBoot } from './boots.ts';

async function timelineOf(xenBuild: 'debug' | 'release'): Promise<Timeline> {
  const { bytes } = await recordBoot('pv-i386-nopae', { change: (spec) => ({ ...spec, xenBuild, digestEveryInsns: 0 }) });
  const recording = openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec() });
  const spec = specOf(recording);
  return new Timeline({ recording, spec, images: (await imagesOf(spec)).domains, everyInsns: 100_000 });
}

test('a debug build of Xen overwrites the arguments of hypercalls: the very instruction is found, with its code and registers', async () => {
  const [a, b] = [await timelineOf('release'), await timelineOf('debug')];
  const images = await imagesOf(specOf(a.recording));
  const symbols = new Map([[1, symbolsFrom(images.domains[0]?.kernel.bytes as Uint8Array)]]);
  const hypercalls = [...a.recording.events()].filter((event) => event.kind === EVENT.hypercall);
  const found = bisectInstructions(a, b, 200_000, symbols);
  expect(hypercalls.map(({ retired }) => retired)).toContain(found.insns);
  expect(found.instruction).toContain('int 82h');
  expect(found.instruction).toContain('<hypercall_page');
  expect(found.leftOut).toEqual(['domain 1']);
  expect(found.verdict).toContain('processor d1v0 differs');
  expect(found.verdict).toContain('0xdeadf00d');
  expect(found.comparisons).toBeLessThan(25);
  expect(found.eventsA.at(-1)).toContain('hypercall');
  // One before, all is the same but the build's name.
  const before = (found.insns as number) - 1;
  a.seek({ insns: before });
  b.seek({ insns: before });
  expect(compareWorlds(a.world, b.world, symbols).differences).toEqual([]);
});

test('words of memory that differ are shown with the mapping that leads to them, and lists are bounded', async () => {
  const [a, b] = [await timelineOf('release'), await timelineOf('release')];
  for (const timeline of [a, b]) timeline.seek({ event: 1500 });
  expect(compareWorlds(a.world, b.world, undefined).differences).toEqual([]);
  const { guestTableMfn } = b.world.hv.vcpu(1, 0) as NonNullable<ReturnType<typeof b.world.hv.vcpu>>;
  expect(guestTableMfn).toBeGreaterThan(0);
  const shared = b.world.hv.domain(1)?.sharedInfoMfn as number;
  b.world.machine.writeU32(shared * 4096 + 0x30, 0x1234);
  for (let mfn = 0x120; mfn < 0x1a0; mfn++) b.world.hv.frames.refCount[mfn] = 77;
  const { differences, more } = compareWorlds(a.world, b.world, undefined);
  expect(differences.find(({ what }) => what.startsWith(`memory mfn ${shared.toString(16)}+30`))).toMatchObject({ b: '0x1234' });
  expect(differences.find(({ what }) => what.startsWith('memory'))?.what).toMatch(/, at 0x[0-9a-f]+30 by the entry at maddr 0x[0-9a-f]+\)/);
  expect(differences.filter(({ what }) => what.endsWith('type')).length).toBe(24);
  expect(more['page types']).toBe(0x80 - 24);
});

test('addresses have names by symbol table or System.map', () => {
  const map = symbolsFrom(new TextEncoder().encode('c0100000 T _text\nc0101000 t start_kernel\nnonsense\n'));
  expect(map.text(0xc010_101c)).toBe('0xc010101c <start_kernel+0x1c>');
  expect(map.text(0xc010_0000)).toBe('0xc0100000 <_text>');
  const wide = symbolsFrom(new TextEncoder().encode('0000000000000000 A fixed_percpu_data\nffffffff81000000 T _stext\n'));
  expect(wide.text(-0x7f00_0000 + 16)).toBe('0xffffffff81000010 <_stext+0x10>');
  expect(new Symbols([]).text(0x10)).toBe('0x10');
});
