// `who` finds the events that changed a frame, a port or a xenstore key.
import { expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { concerns, whoChanged } from '../../src/replay/who.ts';
import { recordBoot } from './boots.ts';

test('the last pin of a table, the last event of a port, in a real boot', async () => {
  const { bytes } = await recordBoot('pv-i386-pae');
  const recording = openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec() });
  const events = [...recording.events()];
  const pin = events.findLast((event) => event.kind === EVENT.pin || event.kind === EVENT.unpin);
  const frame = whoChanged(events, { subject: 'mfn', what: pin?.values[0] as number, domId: 1 }, 5);
  expect(frame.last.length).toBeLessThanOrEqual(5);
  expect(frame.last.some((event) => event.index === pin?.index) || frame.count > 5).toBe(true);
  const pending = events.findLast((event) => event.kind === EVENT.evtchnPending);
  const port = whoChanged(events, { subject: 'port', what: pending?.values[0] as number, domId: 1 }, 3);
  expect(port.last.at(-1)?.index).toBeGreaterThanOrEqual(pending?.index as number);
  expect(whoChanged(events, { subject: 'port', what: 999, domId: 1 }, 3).count).toBe(0);
});

test('xenstore keys by absolute and relative paths, and by what is removed above them', () => {
  const request = (op: number, text: string) => ({ index: 0, kind: EVENT.xenstoreRequest, domId: 1, vcpuId: 0, retired: 0, nowNs: 0, values: [op, 1, 0], bytes: new TextEncoder().encode(text), insnsDelta: 0, timeSkewNs: 0 });
  const key = { subject: 'path', what: '/local/domain/1/device/vif/0/state', domId: 1 } as const;
  expect(concerns(request(11, 'device/vif/0/state\0' + '1'), key)).toBe(true);
  expect(concerns(request(11, '/local/domain/1/device/vif/0/state\0' + '1'), key)).toBe(true);
  expect(concerns(request(13, 'device/vif\0'), key)).toBe(true);
  expect(concerns(request(2, 'device/vif/0/state\0'), key)).toBe(false);
  expect(concerns(request(11, 'device/vif/1/state\0'), key)).toBe(false);
});
