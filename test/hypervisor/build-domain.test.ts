import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { START_INFO_32, START_INFO_64 } from '../../src/abi/start-info.ts';
import { EVENT } from '../../src/abi/events.ts';
import { buildDomain, type BuiltDomain, type BuildOptions } from '../../src/hypervisor/build/build-domain.ts';
import { planDomain, plannedEntries } from '../../src/hypervisor/build/domain-layout.ts';
import { hypercallPage } from '../../src/hypervisor/build/hypercall-page.ts';
import { parseKernel, type KernelImage } from '../../src/hypervisor/build/kernel-image.ts';
import { FRAME, FRAME_TYPE } from '../../src/hypervisor/frame-table.ts';
import type { Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { findL1, found, PTE } from '../../src/hypervisor/page-walk.ts';
import { ABIS, type AbiName } from '../../src/hypervisor/personality.ts';
import { BASIC_NOTES, makeElf } from './elf-maker.ts';
import type { Cpu } from '../../src/x86/cpu.ts';
import { createCpu } from '../../src/x86/create.ts';
import { stillHypervisor } from './still-world.ts';

function imageOf(bytes: Uint8Array): KernelImage {
  const image = parseKernel(bytes);
  if ('problem' in image) throw new Error(image.problem);
  return image;
}
const shipped = (name: string): KernelImage => imageOf(new Uint8Array(readFileSync(join(import.meta.dirname, '../../scenarios/guests/images', name))));

const PAE = shipped('pv-i386-pae.elf');
const NOPAE = shipped('pv-i386-nopae.elf');
/** Shaped like Linux: high base, separate p2m list, unmapped ramdisk. */
const LINUX = imageOf(makeElf({
  wordBits: 64, entry: 0xffff_ffff_8100_0000n,
  notes: [...BASIC_NOTES, [3, 0xffff_ffff_8000_0000n], [15, 0x80_0000_0000n], [16, 1], [2, 0xffff_ffff_8100_1000n]],
  segments: [{ paddr: 0x100_0000n, bytes: new Uint8Array(0x3000).fill(0x5a), memBytes: 0x12_3456 }],
}));
const CASES: readonly (readonly [string, KernelImage, AbiName])[] = [['PAE', PAE, 'pv32pae'], ['PAE on 32-bit Xen', PAE, 'xen3-pae'], ['two-level', NOPAE, 'xen3-nopae'], ['64-bit', LINUX, 'pv64']];

function built(options: Partial<BuildOptions> & { image: KernelImage }, machineMib = 96, choose?: (name: string, options: number) => number): { hv: Hypervisor; dom: BuiltDomain; emitted: ReturnType<typeof stillHypervisor>['emitted'] } {
  const { hv, emitted } = stillHypervisor(machineMib, choose);
  const dom = buildDomain(hv, { domId: 1, name: 'test', memoryMib: 48, cmdline: 'a=b c', ...options });
  if ('problem' in dom) throw new Error(dom.problem);
  return { hv, dom, emitted };
}

describe.each(CASES)('a %s domain', (_name, image, abiName) => {
  const ramdisk = Uint8Array.from({ length: 10_000 }, (_, index) => index % 251);
  const abi = ABIS[abiName];
  const { hv, dom } = built({ image, abi: abiName, ramdisk });
  const { plan, p2m, domain, vcpu } = dom;
  const word = abi.wordBits / 8;
  const bytesAt = (pfn: number, count: number): number[] => Array.from({ length: count }, (_, index) => hv.machine.readU8((p2m[pfn + Math.floor(index / 4096)] as number) * 4096 + (index % 4096)));

  test('maps its first pages one after the other from the base, to a 4 MiB boundary with 512 KiB spare', () => {
    const end = (plan.mappings[0]?.to ?? 0) + 1 - (plan.mappings[0]?.from ?? 0);
    expect((end + (plan.mappings[0]?.from ?? 0)) % (4 << 20)).toBe(0);
    expect(end - (plan.bootStack.pfn + 1) * 4096).toBeGreaterThanOrEqual(512 * 1024);
    for (let pfn = 0; pfn < end / 4096; pfn++) {
      expect(findL1(hv.machine, abi.levels, vcpu.guestTableMfn, image.virtBase + pfn * 4096)).toBe(true);
      expect((found.hi & 0xfffff) * 0x10_0000 + (found.lo >>> 12)).toBe(p2m[pfn]);
      const isTable = pfn >= plan.pageTables.pfn && pfn < plan.pageTables.pfn + plan.pageTables.pages;
      expect((found.lo & PTE.rw) !== 0, `pfn ${pfn} writable`).toBe(!isTable);
    }
    if (abi.levels === 4) expect(findL1(hv.machine, 4, vcpu.guestTableMfn, image.virtBase + end) && (found.lo & 1) !== 0).toBe(false);
  });

  test('has its parts in the order that kernels rely on', () => {
    const order = [plan.kernel, ...(plan.ramdisk?.vaddr === undefined ? [] : [plan.ramdisk]), ...(plan.mappings.length > 1 ? [] : [plan.p2m]), plan.startInfo, plan.store, plan.console, plan.pageTables, plan.bootStack];
    for (let i = 1; i < order.length; i++) expect(order[i]?.pfn).toBe((order[i - 1]?.pfn ?? 0) + (order[i - 1]?.pages ?? 0));
  });

  test('finds kernel, ramdisk and list of frames where they belong', () => {
    for (const segment of image.segments) {
      const pfn = Math.floor((segment.vaddr - image.virtBase) / 4096);
      const skipHypercallPage = image.hypercallVaddr !== undefined && Math.floor((image.hypercallVaddr - image.virtBase) / 4096) === pfn;
      if (!skipHypercallPage) expect(bytesAt(pfn, Math.min(64, segment.fileBytes))).toEqual([...image.bytes.subarray(segment.offset, segment.offset + Math.min(64, segment.fileBytes))]);
    }
    expect(bytesAt(plan.ramdisk?.pfn ?? -1, ramdisk.length)).toEqual([...ramdisk]);
    for (const pfn of [0, 1, 511, 512, plan.totalPages - 1]) {
      const at = pfn * word;
      expect(hv.machine.readU32((p2m[plan.p2m.pfn + Math.floor(at / 4096)] as number) * 4096 + (at % 4096))).toBe(p2m[pfn]);
      expect(hv.frames.getM2p(p2m[pfn] as number)).toBe(pfn);
    }
    if (plan.mappings.length > 1) {
      expect(findL1(hv.machine, 4, vcpu.guestTableMfn, image.initP2m as number)).toBe(true);
      expect(found.lo >>> 12).toBe(p2m[plan.p2m.pfn]);
    }
  });

  test('has the stubs of hypercalls on its page', () => {
    const pfn = ((image.hypercallVaddr as number) - image.virtBase) / 4096;
    expect(bytesAt(pfn, 4096)).toEqual([...hypercallPage(abi.wordBits)]);
  });

  test('reads in start_info what is true', () => {
    const table = (abi.wordBits === 64 ? START_INFO_64 : START_INFO_32).fields;
    const base = (p2m[plan.startInfo.pfn] as number) * 4096;
    const value = (name: Exclude<keyof typeof table, 'magic' | 'cmd_line'>): number => hv.machine.readU32(base + table[name].at);
    const text = (at: number): string => String.fromCharCode(...bytesAt(plan.startInfo.pfn, 1200).slice(at)).split('\0')[0] as string;
    expect(text(0)).toMatch(/^xen-3\.0-x86_(32p?|64)$/);
    expect(text(table.cmd_line.at)).toBe('a=b c');
    expect([value('nr_pages'), value('shared_info'), value('store_mfn'), value('console_mfn'), value('store_evtchn'), value('console_evtchn')]).toEqual([plan.totalPages, domain.sharedInfoMfn * 4096, dom.storeMfn, dom.consoleMfn, 1, 2]);
    expect(value('nr_pt_frames')).toBe(plan.pageTables.pages);
    expect(value('pt_base')).toBe((image.virtBase + plan.pageTables.pfn * 4096) >>> 0);
    expect(value('mod_len')).toBe(plan.ramdisk?.vaddr === undefined ? 3 * 4096 : ramdisk.length);
    expect(value('mod_start')).toBe((plan.ramdisk?.vaddr ?? plan.ramdisk?.pfn ?? 0) >>> 0);
    expect((value('flags') & 8) !== 0).toBe(plan.ramdisk?.vaddr === undefined);
  });

  test('has page tables that Xen has checked, counted and pinned', () => {
    const { frames } = hv;
    const root = vcpu.guestTableMfn;
    expect(root).toBe(p2m[plan.pageTables.pfn]);
    expect(frames.flags[root]).toBe(FRAME.validated | FRAME.pinned | FRAME.allocated);
    expect(frames.typeCount[root]).toBe(2); // the pin and the vCPU
    const types = Array.from({ length: plan.pageTables.pages }, (_, index) => frames.type[p2m[plan.pageTables.pfn + index] as number]);
    expect(types[0]).toBe({ 2: FRAME_TYPE.l2, 3: FRAME_TYPE.l3, 4: FRAME_TYPE.l4 }[abi.levels]);
    expect(types.every((type) => type !== undefined && type >= FRAME_TYPE.l1 && type <= FRAME_TYPE.l4)).toBe(true);
    // Each mapped page but the tables is held writable once.
    expect(frames.typeCount[p2m[plan.kernel.pfn] as number]).toBe(1);
    expect(frames.type[p2m[plan.kernel.pfn] as number]).toBe(FRAME_TYPE.writable);
    expect(domain.totPages).toBe(plan.totalPages);
  });

  test('starts with events masked and an unbound port for each ring', () => {
    expect(hv.machine.readU8(domain.sharedInfoMfn * 4096 + 1)).toBe(1);
    expect(domain.events.ports[dom.storePort]?.binding).toEqual({ kind: 'unbound', remoteDomId: 0 });
    expect(domain.events.ports[dom.consolePort]?.binding).toEqual({ kind: 'unbound', remoteDomId: 0 });
    expect(hv.machine.readU8(dom.consoleMfn * 4096 + 3088)).toBe(1); // nobody reads the console yet
    expect(vcpu.online && vcpu.initialised).toBe(true);
  });
});

describe('the plan', () => {
  test("agrees with the real toolstack about PV GRUB: tables at pfn 0x5a5, nine of them", () => {
    // grub-i386-xen.bin of grub-xen-host 2.06 in 128 MiB, as in the recorded trace: it makes its old
    // tables, 0x5a5000 to 0x5ad000, writable at last; xenstore and console are pfn 0x5a3 and 0x5a4.
    const image = imageOf(makeElf({ notes: [...BASIC_NOTES, [9, 'yes'], [3, 0]], entry: 0n, segments: [{ paddr: 0n, bytes: new Uint8Array(0), memBytes: 5_771_460 }] }));
    const plan = planDomain(image, ABIS.pv32pae, 128 * 256, 0);
    if ('problem' in plan) throw new Error(plan.problem);
    expect(plan.store.pfn).toBe(0x5a3);
    expect(plan.console.pfn).toBe(0x5a4);
    expect(plan.pageTables).toMatchObject({ pfn: 0x5a5, pages: 9 });
  });

  test('gives a PAE kernel that ends below 3 GiB an L2 for slot 3, which holds the entries of Xen', () => {
    const image = imageOf(makeElf({ notes: [...BASIC_NOTES, [9, 'yes'], [3, 0]], entry: 0x10_0000n }));
    const plan = planDomain(image, ABIS.pv32pae, 16 * 256, 0);
    if ('problem' in plan) throw new Error(plan.problem);
    const slots = plannedEntries(ABIS.pv32pae, plan).filter((entry) => entry.level === 3).map((entry) => entry.index);
    expect(slots).toEqual([0, 1, 2, 3]);
  });

  test('grows by 4 MiB when the padding no longer fits', () => {
    const ends = [2.9, 3.5].map((mib) => {
      const image = imageOf(makeElf({ notes: [...BASIC_NOTES, [9, 'yes']], entry: 0n, segments: [{ paddr: 0n, bytes: new Uint8Array(0), memBytes: Math.floor(mib * 2 ** 20) }] }));
      const plan = planDomain(image, ABIS.pv32pae, 32 * 256, 0);
      return 'problem' in plan ? 0 : ((plan.mappings[0]?.to ?? 0) + 1) / 2 ** 20;
    });
    expect(ends).toEqual([4, 8]);
  });
});

describe('what does not fit is refused with one clause', () => {
  const refusal = (options: Partial<BuildOptions> & { image: KernelImage }, machineMib = 64): string => {
    const dom = buildDomain(stillHypervisor(machineMib).hv, { domId: 1, name: 'test', memoryMib: 32, cmdline: '', ...options });
    return 'problem' in dom ? dom.problem : 'none';
  };
  test.each<[string, Partial<BuildOptions> & { image: KernelImage }, RegExp]>([
    ['too little memory for the kernel', { image: LINUX, memoryMib: 8 }, /does not fit into 8 MiB: there is no room for the gap below the kernel, and what must be in its memory at the start takes \d\d MiB or more; give/],
    ['too little memory for the ramdisk', { image: PAE, memoryMib: 4, ramdisk: new Uint8Array(5 << 20) }, /no room for the ramdisk \(5120 KiB\)/],
    ['too little memory for the mapping', { image: PAE, memoryMib: 2 }, /no room for/],
    ['more than the machine has', { image: PAE, memoryMib: 4000 }, /cannot have 4000 MiB: the machine has \d+ MiB left/],
    ['a 64-bit kernel in a 32-bit domain', { image: LINUX, abi: 'pv32pae' }, /is a 64-bit kernel/],
    ['a PAE kernel without PAE', { image: PAE, abi: 'xen3-nopae' }, /needs PAE/],
    ['a kernel without PAE with it', { image: NOPAE, abi: 'pv32pae' }, /has no PAE page tables/],
    ['a kernel that wants the addresses of Xen', { image: { ...PAE, hvStartLow: 0xf600_0000 } }, /wants addresses up to 0xf6000000/],
    ['a hypercall page outside', { image: { ...PAE, hypercallVaddr: 0xd000_0000 } }, /hypercall page at 0xd0000000, outside/],
  ])('%s', (_what, options, expected) => {
    expect(refusal(options)).toMatch(expected);
  });
});

describe('the first instruction', () => {
  const start = (image: KernelImage, abi: AbiName): { cpu: Cpu; dom: BuiltDomain } => {
    const { hv } = stillHypervisor(64);
    const cpu = createCpu(hv.machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0] });
    const dom = buildDomain(hv, { domId: 1, name: 'test', memoryMib: 32, cmdline: '', image, abi, cpus: [cpu] });
    if ('problem' in dom) throw new Error(dom.problem);
    return { cpu, dom };
  };

  test.each([['pv32pae', PAE, 0xffff_ffff], ['xen3-pae', PAE, 0xf67f_ffff], ['xen3-nopae', NOPAE, 0xfc3f_ffff]] as const)('of a %s domain finds flat segments, its stack, start_info in ESI, and the interrupt flag on', (abi, image, limit) => {
    const { cpu, dom } = start(image, abi);
    expect(cpu.eip()).toBe(image.entry);
    expect(cpu.reg(6)).toBe(image.virtBase + dom.plan.startInfo.pfn * 4096);
    expect(cpu.reg(4)).toBe(image.virtBase + (dom.plan.bootStack.pfn + 1) * 4096);
    expect(cpu.cpl()).toBe(1);
    expect(cpu.eflags()).toBe(0x202);
    expect([0, 1, 2, 3, 4, 5].map((index) => cpu.segment(index).selector)).toEqual([0xe021, 0xe019, 0xe021, 0xe021, 0xe021, 0xe021]);
    expect([0, 1, 2].every((index) => cpu.segment(index).limit === limit && cpu.segment(index).base === 0)).toBe(true);
    // The flat selectors load again through the window in Xen's range, and ring 0 is nowhere.
    expect(cpu.loadSegment(3, 0xe021)).toBeUndefined();
    expect(cpu.loadSegment(3, 0xe033)).toBeUndefined();
    expect(cpu.loadSegment(3, 0xe011)).toMatchObject({ vector: 13 });
    expect(cpu.loadSegment(3, 0x8)).toMatchObject({ vector: 13 });
    const read = cpu.readLinear(image.entry, 16, false);
    const segment = image.segments.find((row) => image.entry >= row.vaddr && image.entry < row.vaddr + row.fileBytes);
    const at = (segment?.offset ?? 0) + image.entry - (segment?.vaddr ?? 0);
    expect(read).toEqual({ ok: true, bytes: image.bytes.slice(at, at + 16) });
  });

  test('is that of a domain whose ports and page tables are closed to it', () => {
    const { cpu, dom } = start(PAE, 'pv32pae');
    expect(cpu.writeLinear(PAE.virtBase + dom.plan.pageTables.pfn * 4096, Uint8Array.of(1), false).ok).toBe(false);
    expect(cpu.writeLinear(0xfe80_e018, Uint8Array.of(1), false).ok, "Xen's descriptors").toBe(false);
    expect(cpu.tr().limit).toBeLessThan(0x67);
  });
});

describe('placement', () => {
  test('the same choices give the same machine, other choices another', () => {
    const sum = (hv: Hypervisor): number => hv.machine.u32.reduce((hash, value) => (Math.imul(hash, 31) + value) | 0, 7);
    const pick = (salt: number) => (_name: string, options: number): number => (salt * 7) % options;
    const [first, again, other] = [built({ image: PAE }, 96, pick(1)), built({ image: PAE }, 96, pick(1)), built({ image: PAE }, 96, pick(3))];
    expect(sum(first.hv)).toBe(sum(again.hv));
    expect(first.dom.p2m).not.toEqual(other.dom.p2m);
    expect(new Set(other.dom.p2m).size).toBe(other.dom.p2m.length);
  });

  test('a domain of any size asks for few choices', () => {
    let asked = 0;
    built({ image: PAE, memoryMib: 200 }, 256, (_name, options) => ((asked += options > 1 ? 1 : 0), 0));
    expect(asked).toBeLessThanOrEqual(34);
  });

  test('the log learns of the domain once', () => {
    const { emitted } = built({ image: PAE });
    expect(emitted.filter((event) => event.kind === EVENT.domainCreated).map((event) => event.values)).toEqual([[48 * 256, 1, 3]]);
  });
});
