// info, dump and pack as a user calls them, and protoc as the judge of what is in the file.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { UsageError } from '../../src/base/assert.ts';
import { blake3, bytesToHex } from '../../src/base/hash.ts';
import { register as dump } from '../../src/cli/commands/dump.ts';
import { register as info } from '../../src/cli/commands/info.ts';
import { register as pack } from '../../src/cli/commands/pack.ts';
import { bytesToBase64, type JsonValue } from '../../src/log/event-decoder.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { recordBytes, storm, WORLD, zoo } from './synthetic.ts';

const ROOT = join(import.meta.dirname, '..', '..');
let folder = '';
const path = (name: string): string => join(folder, name);
const IMAGE = new TextEncoder().encode('a kernel');

beforeAll(async () => {
  await loadHashes();
  folder = mkdtempSync(join(tmpdir(), 'rexen-log-'));
  const world = { ...WORLD, images: [{ name: 'kernel', sizeBytes: IMAGE.length, blake3: blake3(IMAGE) }] };
  writeFileSync(path('storm.rxr'), recordBytes((encoder) => storm(encoder, 3000), { world }));
  writeFileSync(path('zoo.rxr'), recordBytes((encoder) => zoo(encoder, 600)));
  writeFileSync(path('cut.rxr'), readFileSync(path('storm.rxr')).subarray(0, -100));
  writeFileSync(path('vmlinux'), IMAGE);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => {
  process.exitCode = undefined;
  vi.restoreAllMocks();
});

/** Runs a command line in this process. */
async function rexen(...args: string[]): Promise<{ out: string; err: string; code: number }> {
  let out = '';
  let err = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => { out += String(text); return true; });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => { err += String(text); return true; });
  const program = new Command('rexen').exitOverride();
  for (const register of [info, dump, pack]) register(program);
  try {
    await program.parseAsync(['node', 'rexen', ...args]);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    err += error.message;
    process.exitCode = 2;
  } finally {
    vi.restoreAllMocks();
  }
  const code = Number(process.exitCode ?? 0);
  process.exitCode = undefined;
  return { out, err, code };
}

describe('rexen info', () => {
  test('tells what there is, and its numbers add up', async () => {
    const { out, code } = await rexen('info', path('storm.rxr'), '--json');
    const facts = JSON.parse(out) as { events: number; bytes: number; eventsByKind: Record<string, number>; outcome: string; digest: string; truncated: boolean; images: unknown };
    expect(code).toBe(0);
    expect(facts.outcome).toBe('shutdown');
    expect(facts.truncated).toBe(false);
    expect(Object.values(facts.eventsByKind).reduce((sum, count) => sum + count, 0)).toBe(facts.events);
    expect(facts.bytes).toBe(readFileSync(path('storm.rxr')).length);
    expect(facts.images).toEqual([{ name: 'kernel', sizeBytes: 8, blake3: bytesToHex(blake3(IMAGE)), embedded: false }]);
    const text = await rexen('info', path('storm.rxr'));
    expect(text.out).toContain(facts.digest);
  });

  test('of a recording that was cut short: what is left, one sentence, exit code 2', async () => {
    const { out, err, code } = await rexen('info', path('cut.rxr'), '--json');
    expect(JSON.parse(out)).toMatchObject({ outcome: 'truncated', truncated: true });
    expect(err).toMatch(/^rexen: .*cut\.rxr: the recording was cut short; its first \d+ events are whole and can be used\n$/);
    expect(code).toBe(2);
  });
});

describe('rexen dump', () => {
  test('prints a line for each event, with names instead of numbers', async () => {
    const { out, code } = await rexen('dump', path('storm.rxr'), '--to', '3');
    expect(code).toBe(0);
    expect(out.split('\n')).toEqual([
      '0:d1v0:187 hypercall event_channel_op(send, arg=0xc040bef0) = 0',
      '1:d1v0:187 evtchnSend port=3 remoteDomId=1 remotePort=4 result=0',
      '2:d1v0:187 evtchnPending port=4',
      '3:d1v0:187 upcall ip=0xc0101002 handler=0xc0100100',
      '',
    ]);
    expect((await rexen('dump', path('storm.rxr'), '--kind', 'choice')).out.split('\n')[0]).toMatch(/^\d+:d1v0:\d+ choice name=slice options=3 picked=[012]$/);
  });

  test('selects by kind, range and domain', async () => {
    const events = async (...args: string[]): Promise<{ index: number; kind: string; domain: number }[]> => (JSON.parse((await rexen('dump', path('zoo.rxr'), '--json', ...args)).out) as { events: { index: number; kind: string; domain: number }[] }).events;
    const all = await events();
    expect(all.map((event) => event.index)).toEqual(Array.from({ length: 600 }, (_, index) => index));
    expect(await events('--kind', 'hypercall,pt_update', '--from', '100', '--to', '300', '--domain', '1')).toEqual(
      all.filter((event) => (event.kind === 'hypercall' || event.kind === 'ptUpdate') && event.index >= 100 && event.index <= 300 && event.domain === 1),
    );
    expect(await events('--from', '600')).toEqual([]);
  });

  test('refuses a kind that is none, and numbers that are none', async () => {
    expect(await rexen('dump', path('zoo.rxr'), '--kind', 'hypercal')).toMatchObject({ code: 2, err: expect.stringMatching(/no such kind of event; the kinds are hypercall, upcall/) });
    expect(await rexen('dump', path('zoo.rxr'), '--from', '-1')).toMatchObject({ code: 2, err: '--from -1: give a whole number' });
  });
});

describe('rexen pack', () => {
  test('embeds the image it finds by its hash, under whatever name, and keeps the digest', async () => {
    const before = JSON.parse((await rexen('info', path('storm.rxr'), '--json')).out) as { digest: string };
    expect(await rexen('pack', path('storm.rxr'), '-o', path('packed.rxr'))).toMatchObject({ code: 2, err: expect.stringMatching(/storm\.rxr: its image kernel \(8 bytes, blake3 .*\) was not found.*--images$/) });
    const packed = await rexen('pack', path('storm.rxr'), '-o', path('packed.rxr'), '--images', folder, '--json');
    expect(JSON.parse(packed.out)).toMatchObject({ digest: before.digest, images: 1 });
    expect(JSON.parse((await rexen('info', path('packed.rxr'), '--json')).out)).toMatchObject({ digest: before.digest, images: [{ name: 'kernel', embedded: true }] });
    // From here on the image is not needed any more, not even to pack in place with another compression.
    expect((await rexen('pack', path('packed.rxr'), '--compress', 'none')).code).toBe(0);
    expect(JSON.parse((await rexen('info', path('packed.rxr'), '--json')).out)).toMatchObject({ digest: before.digest, compression: 'none', images: [{ embedded: true }] });
  });

  test('refuses a recording that was cut short, and leaves it alone', async () => {
    const before = readFileSync(path('cut.rxr'));
    expect(await rexen('pack', path('cut.rxr'), '--images', folder)).toMatchObject({ code: 2, err: expect.stringMatching(/cannot be packed/) });
    expect(readFileSync(path('cut.rxr')).equals(before)).toBe(true);
  });
});

describe('protoc', () => {
  const installed = spawnSync('protoc', ['--version']).status === 0;
  test.runIf(!installed)('is needed in CI, for it is the judge of the schema', () => {
    if (process.env['CI'] !== undefined) expect.fail('protoc is not installed: apt-get install protobuf-compiler');
    console.log('skipped: protoc is not installed (apt-get install protobuf-compiler)');
  });

  test.runIf(installed)('reads the same events from an uncompressed recording as dump --json shows', async () => {
    writeFileSync(path('plain.rxr'), recordBytes((encoder) => zoo(encoder, 600), { compression: 'none' }));
    const text = execFileSync('protoc', ['--decode=rexen.Recording', `-I${join(ROOT, 'schemas')}`, join(ROOT, 'schemas', 'rexen.proto')], { input: readFileSync(path('plain.rxr')), maxBuffer: 1 << 28, encoding: 'latin1' });
    const recording = parseTextFormat(text) as { packet: TextMessage[] };
    const events = recording.packet.flatMap((packet) => ((packet['chunk']?.[0] as TextMessage | undefined)?.['events']?.[0] as TextMessage | undefined)?.['event'] ?? []);
    const dumped = (JSON.parse((await rexen('dump', path('zoo.rxr'), '--json')).out) as { events: { event: JsonValue }[] }).events;
    expect(events.length).toBe(600);
    expect(events.map(asJson)).toEqual(dumped.map(({ event }) => JSON.parse(JSON.stringify(event), (_, value: unknown) => (typeof value === 'number' ? String(value) : value)) as unknown));
  });
});

// -- protobuf's text form, as far as protoc writes it: names, braces, numbers, C strings ------------

type TextMessage = { [name: string]: (TextMessage | string)[] };

function parseTextFormat(text: string): TextMessage {
  const root: TextMessage = {};
  const stack = [root];
  for (const line of text.split('\n')) {
    const trimmed = line.trim();
    const top = stack.at(-1) as TextMessage;
    if (trimmed === '') continue;
    if (trimmed === '}') stack.pop();
    else if (trimmed.endsWith(' {')) {
      const inner: TextMessage = {};
      (top[trimmed.slice(0, -2)] ??= []).push(inner);
      stack.push(inner);
    } else {
      const colon = trimmed.indexOf(': ');
      (top[trimmed.slice(0, colon)] ??= []).push(trimmed.slice(colon + 2));
    }
  }
  expect(stack.length).toBe(1);
  return root;
}

const ESCAPES: Record<string, number> = { n: 10, r: 13, t: 9, '"': 34, "'": 39, '\\': 92 };
function unescape(text: string): Uint8Array {
  const bytes: number[] = [];
  for (let at = 1; at < text.length - 1; at++) {
    if (text[at] !== '\\') {
      bytes.push(text.charCodeAt(at));
      continue;
    }
    const octal = /^[0-7]{3}/.exec(text.slice(at + 1))?.[0];
    if (octal !== undefined) {
      bytes.push(parseInt(octal, 8));
      at += 3;
    } else bytes.push(ESCAPES[text[++at] as string] as number);
  }
  return Uint8Array.from(bytes);
}

/** protobuf's JSON form, with all numbers as strings. */
function asJson(message: TextMessage | string): unknown {
  if (typeof message === 'string') return message.startsWith('"') ? bytesToBase64(unescape(message)) : message;
  return Object.fromEntries(Object.entries(message).map(([name, values]) => [name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()), asJson(values[0] as TextMessage | string)]));
}
