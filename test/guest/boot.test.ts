// The paravirt_ops guest boots on Xen in both shapes, and its recording replays exactly.
import { describe, expect, test } from 'vitest';
import { recordBoot, replayBytes } from '../replay/boots.ts';

describe.each(['boot-pae', 'boot-nopae'])('%s', (name) => {
  test('boots, forks, copies on write, and leaves every frame behind', async () => {
    const { console, world } = await recordBoot(name);
    expect(world.ended?.outcome).toBe('poweroff');
    expect(console).toMatch(/Booting paravirtualized kernel on Xen[^]*child\r\nparent\r\nall processes have ended; every frame is back/);
  });

  test('depends on nothing that a debug build of Xen spoils: argument registers, elements of multicalls', async () => {
    const { console } = await recordBoot(name, { change: (spec) => ({ ...spec, xenBuild: 'debug' }) });
    expect(console).toMatch(/every frame is back/);
  });

  test('replays exactly, and other seeds do too', async () => {
    for (const seed of ['1', '2', '3']) {
      const { bytes } = await recordBoot(name, { seed });
      expect((await replayBytes(bytes)).verdict).toBe('exact');
    }
  });

  test('does the same at the same instructions however often the scheduler looks', async () => {
    const runs: string[] = [];
    // One instruction at a time nothing is done ahead of its operation.
    for (const timesliceInsns of [1, 1_237, 1_000_000]) {
      const events: string[] = [];
      await recordBoot(name, {
        change: (spec) => ({ ...spec, timesliceInsns, digestEveryInsns: 0 }),
        wrap: (sink) => ({
          event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
            events.push(`${kind} ${retired} ${nowNs} ${values.join()}`);
            sink.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
          },
        }),
      });
      runs.push(events.join('\n'));
    }
    expect(runs[0]?.length).toBeGreaterThan(1000);
    expect(runs[1]).toBe(runs[0]);
    expect(runs[2]).toBe(runs[0]);
  });
});
