// Who changed a word of memory last: the answer of a search is the one of running instruction by instruction.
import { expect, test } from 'vitest';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { specOf } from '../../src/node/recorded-world.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { Timeline } from '../../src/replay/timeline.ts';
import { maddrOf, mfnOfPfn, whoChangedWord } from '../../src/replay/who-word.ts';
import { imagesOf, recordBoot } from './boots.ts';

const FROM = 1_180_000;
const TO = 1_186_000;
/** In the midst of it. */
const EVENT_BETWEEN = 1020;

test('words of the stack, of rings and of tables: found where stepping sees them change last, also back to their old value', async () => {
  const recording = openRecording(bytesSource('test.rxr', (await recordBoot('pv-i386-pae')).bytes), { codec: zlibCodec(1) });
  const spec = specOf(recording);
  const open = async (everyInsns: number): Promise<Timeline> => new Timeline({ recording, spec, images: (await imagesOf(spec)).domains, everyInsns });
  const stepping = await open(0);
  stepping.seek({ insns: FROM });
  const { machine } = stepping.world;
  const changes = new Map<number, { insns: number; before: number; after: number }[]>();
  const written = stepping.world.frameHashes.track();
  stepping.world.frameHashes.current();
  written.clear();
  let words = machine.u32.slice();
  for (let insns = FROM; insns < TO; ) {
    insns = stepping.goOn({ insns: insns + 1 }).insns;
    stepping.world.frameHashes.current();
    for (const mfn of written) {
      for (let at = (machine.ramBase + mfn * 4096) >>> 2, i = 0; i < 1024; i++) {
        const [before, after] = [words[at + i] as number, machine.u32[at + i] as number];
        if (before === after) continue;
        changes.set(mfn * 4096 + i * 4, [...(changes.get(mfn * 4096 + i * 4) ?? []), { insns, before, after }]);
        words[at + i] = after;
      }
    }
    written.clear();
  }
  words = new Uint32Array(0);
  expect(changes.size).toBeGreaterThan(20);
  const every = Math.ceil(changes.size / 12);
  const most = Math.max(...[...changes.values()].map(({ length }) => length));
  expect(most, 'one is written all the time').toBeGreaterThan(50);
  const asked = [...changes].filter(([, { length }], index) => index % every === 0 || length === most);
  for (const [index, timeline] of [await open(500_000), await open(2000)].entries()) {
    for (const [maddr, rows] of asked.filter((_, at) => at % 2 === index)) {
      timeline.seek({ insns: TO });
      expect(whoChangedWord(timeline, maddr, undefined), `maddr ${maddr}`).toMatchObject(rows.at(-1) as object);
      const { insns: here } = timeline.seek({ event: EVENT_BETWEEN });
      const earlier = rows.findLast(({ insns }) => insns <= here);
      if (earlier !== undefined) expect(whoChangedWord(timeline, maddr, undefined), `maddr ${maddr} before event ${EVENT_BETWEEN}`).toMatchObject(earlier);
    }
    expect(timeline.diverged).toBe(false);
  }
});

test('an address leads to its frame, and so does a pfn', async () => {
  const recording = openRecording(bytesSource('test.rxr', (await recordBoot('pv-i386-pae')).bytes), { codec: zlibCodec(1) });
  const spec = specOf(recording);
  const timeline = new Timeline({ recording, spec, images: (await imagesOf(spec)).domains, everyInsns: 0 });
  timeline.seek({ event: 900 });
  const cpu = timeline.world.hv.vcpu(1, 0)?.cpu;
  const esp = cpu?.reg(4) as number;
  const maddr = maddrOf(timeline, 1, esp) as number;
  const seen = cpu?.translate(esp, 'read', false);
  expect(seen).toEqual({ ok: true, maddr });
  const pfn = timeline.world.hv.frames.getM2p(Math.floor(maddr / 4096));
  expect(mfnOfPfn(timeline, 1, pfn)).toBe(Math.floor(maddr / 4096));
  expect(maddrOf(timeline, 1, 0x1000)).toBeUndefined();
  expect(mfnOfPfn(timeline, 1, 0xf_ffff)).toBeUndefined();
});
