// A recording as a trace for Perfetto: every event once, and slices that say when each vCPU ran.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exportTrace } from '../../src/cli/export-trace.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { openRecordingFile } from '../../src/node/recording-files.ts';

const golden = join(import.meta.dirname, '..', '..', 'recordings', 'pv-i386-pae.rxr');
const folder = mkdtempSync(join(tmpdir(), 'rexen-trace-'));
const at = (name: string): string => join(folder, name);
const OPTIONS = { until: undefined, images: [], progress: false };

interface Row {
  readonly ph: string;
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
  readonly args: Readonly<Record<string, string>>;
}
const rowsOf = (file: string): readonly Row[] => (JSON.parse(readFileSync(file, 'utf8')) as { traceEvents: Row[] }).traceEvents;

beforeAll(loadHashes);
afterAll(() => rmSync(folder, { recursive: true }));

test('has each event as a mark on its vCPU, at its time, with its text', async () => {
  const recording = await openRecordingFile(golden);
  const summary = await exportTrace(golden, { ...OPTIONS, output: at('all.json') });
  const marks = rowsOf(at('all.json')).filter((row) => row.ph === 'i');
  expect(summary).toMatchObject({ events: recording.eventCount, complete: true, bytes: readFileSync(at('all.json')).length });
  expect(marks.map(({ pid, tid, ts }) => [pid, tid, Math.round(ts * 1000)])).toEqual([...recording.events()].map((event) => [event.domId, event.vcpuId, event.nowNs]));
  expect(marks.find(({ name }) => name === 'update_va_mapping')?.args['event']).toMatch(/^hypercall update_va_mapping\(vaddr=0x[0-9a-f]+, .*\) = 0$/);
  expect(rowsOf(at('all.json')).filter((row) => row.name === 'process_name').map(({ pid, args }) => [pid, args['name']])).toEqual([[0, 'dom0'], [1, 'd1 pae']]);
});

test('has slices that do not overlap and last as long as the instructions that ran', async () => {
  const recording = await openRecordingFile(golden);
  await exportTrace(golden, { ...OPTIONS, output: at('slices.json') });
  const slices = rowsOf(at('slices.json')).filter((row) => row.ph === 'X' && row.pid === 1);
  const retired = [...recording.events()].filter((event) => event.domId === 1).at(-1)?.retired as number;
  const nsPerInsn = recording.world.nsPerInsnNumerator / recording.world.nsPerInsnDenominator;
  expect(slices.length).toBeGreaterThan(10);
  expect(Math.round(slices.reduce((sum, { dur }) => sum + dur * 1000, 0))).toBe(retired * nsPerInsn);
  slices.forEach((slice, index) => expect(slice.ts + slice.dur).toBeLessThan(slices[index + 1]?.ts ?? Infinity));
});

test('of a part, or of a recording that was cut short, says so; nothing is left of one that fails', async () => {
  expect(await exportTrace(golden, { ...OPTIONS, until: { event: 10 }, output: at('part.json') })).toMatchObject({ events: 10, complete: false });
  await expect(exportTrace(golden, { ...OPTIONS, until: { event: 10_000 }, output: at('none.json') })).rejects.toThrow('--until 10000: the recording has 1992 events');
  writeFileSync(at('cut.rxr'), readFileSync(golden).subarray(0, -200));
  expect(await exportTrace(at('cut.rxr'), { ...OPTIONS, output: at('cut.json') })).toMatchObject({ complete: false });
  expect(() => readFileSync(at('none.json'))).toThrow('ENOENT');
});
