// The drivers of the paravirt_ops guest against dom0's back ends.
import { describe, expect, test } from 'vitest';
import { modelGuestProblem } from '../../src/guest/check-spec.ts';
import { patternPage, type DriverPlan } from '../../src/guest/drivers/plan.ts';
import { EVENT } from '../../src/abi/events.ts';
import { SHARED_INFO_32 } from '../../src/abi/shared-info.ts';
import type { Paging } from '../../src/guest/pte.ts';
import type { PinDiscipline } from '../../src/guest/xen/state.ts';
import type { FaultSpec } from '../../src/abi/faults.ts';
import type { InputStep, WorldSpec } from '../../src/sim/spec.ts';
import type { World } from '../../src/sim/world.ts';
import { recordBoot, replayBytes, type Boot } from '../replay/boots.ts';
import { atSuspension, framesOfGuest } from '../replay/suspension.ts';

/** The scenario `block` with another plan, commands of a person with xl, and faults. */
const blockWith = (change: { readonly plan?: DriverPlan; readonly paging?: 'pae' | 'nopae'; readonly input?: readonly InputStep[]; readonly faults?: readonly FaultSpec[] }) => (spec: WorldSpec): WorldSpec => ({
  ...spec, input: change.input ?? [], ...(change.faults === undefined ? {} : { faults: change.faults }),
  domains: spec.domains.map((domain) => ({ ...domain, model: { ...(domain.model as NonNullable<typeof domain.model>), paging: change.paging ?? 'pae', ...(change.plan === undefined ? {} : { drivers: change.plan }) } })),
});

/** Pages of the disk that do not hold the pattern. */
function wrongPages({ world }: Boot, page: number, pages: number, value: number): number[] {
  const disk = world.disk(1, 'xvda');
  return Array.from({ length: pages }, (_, index) => page + index).filter((each) => {
    const found = disk?.read(each * 4096, 4096) ?? new Uint8Array(0);
    const wanted = new Uint8Array(patternPage(value, each).buffer);
    return found.length !== 4096 || wanted.some((byte, at) => byte !== found[at]);
  });
}

describe('blkfront', () => {
  test('writes, flushes, reads back the same and gives everything back, with both kinds of tables; replays are exact', async () => {
    for (const paging of ['pae', 'nopae'] as const) {
      const boot = await recordBoot('block', { change: blockWith({ paging }) });
      expect(boot.console).toMatch(/xvda: 2048 pages[^]*xvda: all steps done[^]*every grant and port is back[^]*every frame is back/);
      expect(boot.world.ended?.outcome).toBe('poweroff');
      expect(wrongPages(boot, 0, 200, 1)).toEqual([]);
      expect(wrongPages(boot, 200, 200, 2)).toEqual([]);
      expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
    }
  });

  test('notices a page that is not what was written', async () => {
    const { console } = await recordBoot('block', { change: blockWith({ plan: { disks: [{ disk: 'xvda', steps: [{ do: 'write', page: 3, pages: 3, value: 1 }, { do: 'check', page: 3, pages: 4, value: 1 }] }] } }) });
    expect(console).toMatch(/xvda: check of 4 pages from 3: page 6 is not what was written, from byte 0 on/);
  });

  test('a disk that never appears, and pages that it does not have, end the job with a sentence', async () => {
    const plan: DriverPlan = { disks: [{ disk: 'xvdz', steps: [] }, { disk: 'xvda', steps: [{ do: 'write', page: 2048, pages: 1, value: 1 }] }] };
    const { console } = await recordBoot('block', { change: blockWith({ plan }) });
    expect(console).toMatch(/xvdz: the disk does not appear/);
    expect(console).toMatch(/xvda: write of 1 pages from 2048: the disk has 2048 pages/);
    expect(console).toMatch(/every grant and port is back/);
  });
});

describe('netfront', () => {
  test('two guests find each other, answer every ping and send every datagram back; replays are exact', async () => {
    const { bytes, console } = await recordBoot('neighbours');
    expect(console).toMatch(/10\.0\.0\.2 answered 10 pings/);
    expect(console).toMatch(/10\.0\.0\.1 answered 10 pings/);
    expect(console).toMatch(/10\.0\.0\.2 sent back 10 datagrams/);
    expect(console.match(/vif0: 10 pings answered/g)).toHaveLength(2);
    expect(console.match(/every grant and port is back/g)).toHaveLength(2);
    expect((await replayBytes(bytes)).verdict).toBe('exact');
  });
});

test('a domain that is only there for others does not keep the world going', async () => {
  const { console, world } = await recordBoot('neighbours', {
    change: (spec) => ({ ...spec, domains: spec.domains.map((domain, index) => (index === 0 ? domain : { ...domain, service: true, model: { ...(domain.model as NonNullable<typeof domain.model>), drivers: { nets: [{ vif: 0, ip: '10.0.0.2', steps: [{ do: 'serve' }] }] } } })) }),
  });
  expect(console).toMatch(/10\.0\.0\.2 answered 10 pings/);
  expect(world.ended).toMatchObject({ outcome: 'poweroff', text: 'domain first shut down: poweroff' });
});

const withPaging = (paging: Paging, pinning: PinDiscipline = 'late') => (spec: WorldSpec): WorldSpec =>
  ({ ...spec, domains: spec.domains.map((domain) => ({ ...domain, model: { ...(domain.model as NonNullable<typeof domain.model>), paging, pinning } })) });

describe('suspension', () => {
  test.each([['pae', 'late'], ['nopae', 'late'], ['pae', 'early'], ['nopae', 'writable']] as const)('twice with requests in flight, %s tables pinned %s: all frames are others, nothing is lost; replays are exact', async (paging, pinning) => {
    const frames: Map<number, number>[] = [];
    const boot = await recordBoot('suspend', {
      change: withPaging(paging, pinning),
      wrap: atSuspension((world) => void frames.push(framesOfGuest(world))),
    });
    frames.push(framesOfGuest(boot.world));
    expect(frames.map(({ size }) => size)).toEqual([4096, 4096, 4096]);
    for (const [index, before] of frames.slice(0, 2).entries()) expect([...before].filter(([pfn, mfn]) => frames[index + 1]?.get(pfn) === mfn)).toEqual([]);
    expect(boot.console.match(/resumed/g)).toHaveLength(2);
    expect(boot.console).toMatch(/xvda: all steps done/);
    expect(boot.console).toMatch(/10\.77\.0\.1 answered 50 pings/);
    expect(boot.console).toMatch(/every grant and port is back[^]*every frame is back/);
    expect(wrongPages(boot, 0, 300, 2)).toEqual([]);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });

  test('a guest that says nonsense about its frames cannot be restored, and Xen says why', async () => {
    const { max_pfn: { at: MAX_PFN }, pfn_to_mfn_frame_list_list: { at: LIST_LIST }, p2m_cr3: { at: P2M_CR3 }, p2m_vaddr: { at: P2M_VADDR } } = SHARED_INFO_32.fields;
    const shared = ({ hv }: World): number => (hv.domain(1)?.sharedInfoMfn ?? 0) * 4096;
    const listList = (world: World): number => world.machine.readU32(shared(world) + LIST_LIST);
    const list = (world: World): number => world.machine.readU32(listList(world) * 4096);
    const page = (world: World): number => world.machine.readU32(list(world) * 4096);
    const sharedFrameOf = (mfn: number): number => ((mfn << 12) | (mfn >>> 20)) >>> 0;
    // Two-level tables: lists of lists. PAE: page tables.
    const NONSENSE: readonly (readonly [RegExp, (world: World) => void, 'pae'?])[] = [
      [/its highest pfn is said to be 0xfffffff0/, (world) => world.machine.writeU32(shared(world) + MAX_PFN, 0xffff_fff0)],
      [/its list of lists of frames is not its own/, (world) => world.machine.writeU32(shared(world) + LIST_LIST, 1)],
      [/a list of the pages of its list of frames is not its own/, (world) => world.machine.writeU32(listList(world) * 4096, 0xdead_beef)],
      [/a page of its list of frames is not its own/, (world) => world.machine.writeU32(list(world) * 4096 + 4, 0)],
      [/its list of frames names frame 0x[0-9a-f]+ twice/, (world) => world.machine.writeU32(page(world) * 4096, world.machine.readU32(page(world) * 4096 + 4))],
      [/which is none of its list|does not name/, (world) => world.machine.writeU32(page(world) * 4096 + 800 * 4, 0)],
      [/which is none of its list|does not name/, (world) => world.machine.writeU32(shared(world) + MAX_PFN, 1025)],
      [/its highest pfn is said to be 0x0/, (world) => world.machine.writeU32(shared(world) + MAX_PFN, 0), 'pae'],
      [/its list of frames is said to be at 0xfffff000/, (world) => world.machine.writeU32(shared(world) + P2M_VADDR, 0xffff_f000), 'pae'],
      [/its list of frames is not mapped at 0x1000000/, (world) => world.machine.writeU32(shared(world) + P2M_VADDR, 0x100_0000), 'pae'],
      // Xen's own shared page is no frame of the domain's memory.
      [/its list of frames is not mapped at 0xc[0-9a-f]+/, (world) => world.machine.writeU32(shared(world) + P2M_CR3, sharedFrameOf(shared(world) / 4096)), 'pae'],
      [/which is none of its list|does not name/, (world) => world.machine.writeU32(shared(world) + MAX_PFN, 1025), 'pae'],
    ];
    for (const [text, spoil, paging = 'nopae'] of NONSENSE) {
      const notes: string[] = [];
      const boot = await recordBoot('suspend', { change: withPaging(paging), wrap: (sink, world) => {
        const inner = atSuspension(spoil)(sink, world);
        return { event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
          if (kind === EVENT.note) notes.push(new TextDecoder().decode(bytes));
          inner.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
        } };
      } });
      expect(notes.join()).toMatch(text);
      expect(boot.world.ended).toMatchObject({ outcome: 'crash', text: 'domain model was saved and could not be restored' });
    }
  });
});

test.each(['permission-late', 'backend-late', 'backend-dies', 'unplug-busy'])('scenario %s: the work is done, everything is given back, with any seed; replays are exact', async (name) => {
  for (const seed of ['1', '2', '3']) {
    const boot = await recordBoot(name, { seed });
    expect(boot.console).toMatch(/vif0: all steps done/);
    expect(boot.console).toMatch(/xvda: all steps done[^]*every grant and port is back[^]*every frame is back/);
    expect(wrongPages(boot, 0, 300, 2)).toEqual([]);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  }
});

test('what is typed on the console arrives, and the guest powers off when it is told to: by keys or through control/shutdown', async () => {
  const plan: DriverPlan = { nets: [{ vif: 0, ip: '10.0.0.2', steps: [{ do: 'serve' }] }] };
  const told = (step: Pick<InputStep, 'send' | 'command'>) => recordBoot('neighbours', { change: (spec) => ({ ...spec, input: [{ domain: 'first', after: 'has 10.0.0.2', ...step }], domains: spec.domains.slice(0, 1).map((domain) => ({ ...domain, model: { ...(domain.model as NonNullable<typeof domain.model>), drivers: plan } })) }) });
  const typed = await told({ send: 'hello\npoweroff\n' });
  expect(typed.console).toMatch(/typed: hello\r\ntyped: poweroff[^]*every grant and port is back/);
  expect(typed.world.ended?.outcome).toBe('poweroff');
  const asked = await told({ command: { do: 'shutdown', how: 'reboot' } });
  expect(asked.console).toMatch(/told to shut down: reboot[^]*every grant and port is back/);
  expect(asked.world.ended?.outcome).toBe('reboot');
});

test('a plan from anybody’s file is checked', () => {
  const spec = (drivers: unknown) => modelGuestProblem({ guest: 'paravirt', backend: 'xen', paging: 'pae', program: [], drivers: drivers as DriverPlan });
  expect(spec({ disks: [{ disk: 'xvda', steps: [{ do: 'flush' }] }] })).toBeUndefined();
  expect(spec({ disks: [{ disk: 'xvda', steps: [{ do: 'erase' }] }] })).toMatch(/a step "erase"; the steps are write, flush, check, sleep/);
  expect(spec({ disks: [{ disk: 'xvda', steps: [{ do: 'write', page: -1, pages: 1, value: 1 }] }] })).toMatch(/whose page cannot be -1/);
  expect(spec({ disks: 7 })).toMatch(/not a list/);
});
