// Two real guests in one world: what one sends the other receives, once and as it was; a recording of
// it replays exactly; and what passed an interface can be had as a capture file.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { bytesToHex } from '../../src/base/hash.ts';
import { exportPcap } from '../../src/cli/export-pcap.ts';
import { MAC_BROADCAST, macAt } from '../../src/dom0/net/packet.ts';
import { bytesSource, openRecording, type Recording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { recordBoot, replayBytes } from '../replay/boots.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const SEEDS = LONG ? Array.from({ length: 25 }, (_, at) => String(at + 1)) : ['1'];
/** 00:16:3e:00:00:01 belongs to domain 1, …02 to domain 2. */
const FIRST_MAC = 0x0016_3e00_0001;
const LAST_WORD = 'last word 51e00d5a';

interface Frame {
  readonly domId: number;
  readonly sent: boolean;
  readonly bytes: Uint8Array;
  readonly nowNs: number;
}
const opened = (bytes: Uint8Array): Recording => openRecording(bytesSource('two.rxr', bytes), { codec: zlibCodec(1) });
const framesOf = (recording: Recording): Frame[] =>
  [...recording.events(0, recording.eventCount)].filter(({ kind }) => kind === EVENT.netFrame).map(({ domId, values, bytes, nowNs }) => ({ domId, sent: values[1] === 0, bytes: bytes as Uint8Array, nowNs }));

const scratch = mkdtempSync(join(tmpdir(), 'rexen-two-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('two domains on one switch', () => {
  test.each(SEEDS)('seed %s: both reach each other, and every frame between them arrives once, whole and in order', async (seed) => {
    const boot = await recordBoot('two-domains', { seed });
    for (const words of ['net: 10.77.0.101 answers', 'net: 10.77.0.102 answers', LAST_WORD, '100 rounds, all given back']) expect(boot.console).toContain(words);
    expect(boot.console).not.toContain('FAIL');
    const frames = framesOf(opened(boot.bytes));
    expect(frames.length).toBeGreaterThan(60);
    for (const domId of [1, 2]) {
      const other = 3 - domId;
      const sent = frames.filter((frame) => frame.sent && frame.domId === domId && [FIRST_MAC + other - 1, MAC_BROADCAST].includes(macAt(frame.bytes, 0)));
      const received = frames.filter((frame) => !frame.sent && frame.domId === other && macAt(frame.bytes, 6) === FIRST_MAC + domId - 1);
      expect(sent.length).toBeGreaterThan(10);
      expect(received.map(({ bytes }) => bytesToHex(bytes))).toEqual(sent.map(({ bytes }) => bytesToHex(bytes)));
      expect(received.every(({ nowNs }, at) => nowNs > (sent[at] as Frame).nowNs)).toBe(true);
    }
    // Other seeds give other orders, not other results.
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });

  test('the frames of an interface as a capture file, from events or from a replay of inputs alone', async () => {
    const [full, inputs] = await Promise.all(['all', 'inputs'].map(async (log) => {
      const boot = await recordBoot('two-domains', { log: log as 'all' | 'inputs' });
      const file = join(scratch, `${log}.rxr`);
      writeFileSync(file, boot.bytes);
      const output = join(scratch, `${log}.pcap`);
      const summary = await exportPcap(file, { output, vif: 'd2:0', until: undefined, images: [], progress: false });
      return { boot, file, summary, bytes: new Uint8Array(readFileSync(output)) };
    })) as unknown as readonly [Captured, Captured];
    const frames = framesOf(opened(full.boot.bytes)).filter(({ domId }) => domId === 2);
    expect(full.summary).toMatchObject({ interface: 'd2:0', frames: frames.length, bytes: full.bytes.length, complete: true });
    const view = new DataView(full.bytes.buffer, full.bytes.byteOffset, full.bytes.length);
    expect([view.getUint32(0, true), view.getUint16(4, true), view.getUint16(6, true), view.getUint32(20, true)]).toEqual([0xa1b2_3c4d, 2, 4, 1]);
    let at = 24;
    for (const { bytes, nowNs } of frames) {
      expect([view.getUint32(at, true) * 1e9 + view.getUint32(at + 4, true), view.getUint32(at + 8, true), view.getUint32(at + 12, true)]).toEqual([nowNs, bytes.length, bytes.length]);
      expect(bytesToHex(full.bytes.subarray(at + 16, at + 16 + bytes.length))).toBe(bytesToHex(bytes));
      at += 16 + bytes.length;
    }
    expect(at).toBe(full.bytes.length);
    expect(bytesToHex(inputs.bytes)).toBe(bytesToHex(full.bytes));
    await expect(exportPcap(full.file, { output: join(scratch, 'x'), vif: undefined, until: undefined, images: [], progress: false })).rejects.toThrow('say which interface, with --vif; its interfaces are: d1:0, d2:0');
    await expect(exportPcap(full.file, { output: join(scratch, 'x'), vif: 'd1:1', until: undefined, images: [], progress: false })).rejects.toThrow('there is no interface d1:1; its interfaces are: d1:0, d2:0');
    const cut = await exportPcap(full.file, { output: join(scratch, 'cut.pcap'), vif: 'd1:0', until: { event: 1000 }, images: [], progress: false });
    expect([cut.complete, cut.frames > 0, cut.frames < frames.length]).toEqual([false, true, true]);
  });
});

interface Captured {
  readonly boot: { readonly bytes: Uint8Array };
  readonly file: string;
  readonly summary: object;
  readonly bytes: Uint8Array;
}
