// Random programs of a hostile guest, by fast-check. A program is a list of deeds; a deed is one to
// some ten steps that belong together (build a tree and pin it), so that long preparations are not
// left to luck; each step may also come alone. Which deeds occur at all, and how often, is drawn per
// program (swarm testing): most mistakes need a few kinds of step many times.
//
// fast-check shrinks by leaving deeds out; smallest() in shrink.ts goes on inside deeds.
import fc from 'fast-check';
import type { AbiName } from '../hypervisor/personality.ts';
import { SHAPES, type Program, type Step } from './program.ts';

const oneOf = <T>(...items: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...items);
const often = <T>(...rows: readonly (readonly [weight: number, items: readonly T[]])[]): fc.Arbitrary<T> => fc.oneof(...rows.map(([weight, items]) => ({ weight, arbitrary: fc.constantFrom(...items) })));

/** The guest's own frames, few so that programs come back to them; now and then Xen's, d2's and none. */
const ownIndex = fc.integer({ min: 0, max: 5 });
const ownFrame = ownIndex.map((index) => `f${index}`);
const anyFrame = fc.oneof({ weight: 8, arbitrary: ownFrame }, { weight: 1, arbitrary: oneOf('scratch_l1', 'live_l1', 'live_l2', 'root', 'kernel_l1', 'gdt', 'gnttab', 'gstatus', 'shared_info') }, { weight: 1, arbitrary: oneOf('foreign', 'foreign1', 'foreign2', 'xen', 'free', 'vga', 'hole', 'beyond') });

const LEAF_FLAGS = often([6, ['63', '61', '67', '65']], [1, ['e3', 'e7', '163', '73', '8000000000000063', '10000000000063', '4000000000000063', '60']]);
const TABLE_FLAGS = often([6, ['67', '61', '65', '63', '1']], [1, ['e7', 'e5', '167', '7', '8000000000000067', '10000000000067', '27']]);
const leaf = fc.tuple(anyFrame, LEAF_FLAGS).map(([frame, flags]) => `${frame}:${flags}`);
const table = fc.tuple(anyFrame, TABLE_FLAGS).map(([frame, flags]) => `${frame}:${flags}`);
const word = fc.oneof({ weight: 4, arbitrary: leaf }, { weight: 4, arbitrary: table }, { weight: 2, arbitrary: fc.constant('0') });
const slot = fc.integer({ min: 0, max: 4 });
const virtual = fc.oneof({ weight: 5, arbitrary: ownIndex.map((index) => `v${index}`) }, { weight: 2, arbitrary: fc.integer({ min: 0, max: 3 }).map((index) => `w${index}`) });
const TABLES = ['scratch_l1', 'live_l1', 'live_l2', 'live_l3', 'root', 'xen_l2'] as const;

type Deed = readonly Step[];
type DeedArbitrary = fc.Arbitrary<Deed>;
const single = (step: fc.Arbitrary<Step>): DeedArbitrary => step.map((one) => [one]);
const levelsOf = (shape: AbiName): number => (shape === 'pv64' ? 4 : shape === 'xen3-nopae' ? 2 : 3);
const slotBytes = (shape: AbiName): number => (shape === 'xen3-nopae' ? 4 : 8);

/** A store of an entry through the mapping v<frame>. */
function put(shape: AbiName, frame: number, index: number, value: string): Step {
  const bytes = slotBytes(shape);
  return { op: 'wr', va: `v${frame}+${(index * bytes).toString(16)}`, val: value, ...(bytes === 4 ? { size: 4, part: 'lo' } : {}) };
}
const readOnly = (frame: number): Step => ({ op: 'uvm', va: `v${frame}`, val: `f${frame}:61`, fl: 2 });

// -- memory ---------------------------------------------------------------------------------------

/** Fills a plain frame with entries, gives up the writable mapping, pins it. */
const build = (shape: AbiName): DeedArbitrary =>
  fc.tuple(ownIndex, fc.integer({ min: 1, max: levelsOf(shape) }), fc.array(fc.tuple(slot, word), { maxLength: 5 }), fc.boolean()).map(([frame, level, entries, pins]) => [
    ...entries.map(([index, value]) => put(shape, frame, index, value)),
    readOnly(frame),
    ...(pins ? [{ op: 'ext', req: [[`pin_l${level}`, `f${frame}`]] }] : []),
  ]);

/** A whole tree: L1s under an L2, perhaps an L3 over it, pinned from the top. */
const tree = (shape: AbiName): DeedArbitrary =>
  fc.tuple(fc.oneof({ weight: 3, arbitrary: fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 3, maxLength: 5 }) }, { weight: 1, arbitrary: fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], { minLength: 7, maxLength: 9 }) }), fc.array(fc.tuple(slot, leaf), { maxLength: 2 }), fc.integer({ min: 1, max: 7 }), fc.integer({ min: 2, max: levelsOf(shape) }), fc.option(fc.tuple(slot, word), { nil: undefined }), fc.boolean(), oneOf(false, false, true))
    .map(([frames, leaves, copies, height, odd, unpins, selfMapped]) => {
      const [top, ...rest] = frames as [number, number, number];
      const steps: Step[] = [];
      const [l1, l2] = rest as [number, number];
      leaves.forEach(([index, value]) => steps.push(put(shape, l1, index, value)));
      const lowest = height === 2 ? top : l2;
      const others = height === 2 ? rest : rest.filter((frame) => frame !== l2 && (shape === 'pv64' || frame !== frames[3]));
      for (let i = 0; i < copies; i++) steps.push(put(shape, lowest, i, `f${others[i % others.length]}:67`));
      const upper = shape === 'xen3-pae' ? '1' : '61';
      if (height > 2) for (let i = 0; i < 2; i++) steps.push(put(shape, top, i, `f${l2}:${upper}`));
      // Slot 3 of a PAE root needs an L2 of its own.
      if (height > 2 && shape !== 'pv64') steps.push(put(shape, top, 3, `f${frames[3] ?? l2}:${upper}`));
      if (selfMapped) steps.push(put(shape, top, 2, `f${top}:${upper}`));
      if (odd !== undefined) steps.push(put(shape, lowest, 5 + odd[0], odd[1]));
      for (const frame of frames) steps.push(readOnly(frame));
      const level = Math.min(height, 3);
      steps.push({ op: 'ext', req: [[`pin_l${level}`, `f${top}`]] });
      if (unpins) steps.push({ op: 'ext', req: [['unpin', `f${top}`]] });
      return steps;
    });

/** An upper entry that names a table of its own level. */
const linear = (shape: AbiName): DeedArbitrary =>
  fc.tuple(ownIndex, ownIndex, ownIndex, fc.integer({ min: 2, max: levelsOf(shape) }), oneOf('61', '65', '67', '63'), oneOf('chain', 'chain', 'last', 'first', 'both')).map(([a, b, c, level, drawn, then]) => {
    const flags = level === 3 && shape === 'xen3-pae' ? '1' : drawn;
    // A PAE root is none without an L2 of its own in slot 3.
    const slotThree = (root: number): readonly Step[] => (level === 3 && levelsOf(shape) === 3 ? [put(shape, root, 3, `f${6 + root}:1`), readOnly(6 + root)] : []);
    const steps: Step[] = [...slotThree(a), readOnly(a), { op: 'ext', req: [[`pin_l${level}`, `f${a}`]] }, ...slotThree(b), put(shape, b, 1, `f${a}:${flags}`), readOnly(b), { op: 'ext', req: [[`pin_l${level}`, `f${b}`]] }];
    if (then !== 'chain') {
      // The linear entry is the last that holds the other table, or goes first, or goes with its own.
      const gone: Step = { op: 'mmu', req: [['n', `f${b}[1]`, '0']] };
      const unpins = (frame: number): Step => ({ op: 'ext', req: [['unpin', `f${frame}`]] });
      return [...steps, ...(then === 'last' ? [unpins(a), gone] : then === 'first' ? [gone, unpins(a)] : [unpins(a), unpins(b)])];
    }
    if (c === a || c === b) return steps;
    return [...steps, put(shape, c, 1, `f${b}:${flags}`), readOnly(c), { op: 'ext', req: [[`pin_l${level}`, `f${c}`]] }];
  });

/** Changes the flags of an entry of the live tables, that of the live path or a free slot. */
const liveEntry = (): DeedArbitrary =>
  fc.tuple(oneOf(...TABLES), fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 0, max: 20 }) }, { weight: 1, arbitrary: oneOf(255, 256, 258, 260, 271, 428, 511, 1007, 1008) }), word, oneOf('n', 'n', 'p'))
    .map(([name, index, value, command]) => [{ op: 'mmu', req: [[command, `${name}[${index}]`, value]] }]);

/** A free slot of the live upper tables names a table: itself, its like, or one of the level below. */
const liveTable = (): DeedArbitrary =>
  fc.tuple(oneOf('live_l2', 'live_l3', 'root'), fc.integer({ min: 3, max: 9 }), oneOf('live_l2', 'live_l3', 'root', 'scratch_l1', 'f0', 'f1'), fc.oneof(fc.array(TABLE_FLAGS, { minLength: 1, maxLength: 2 }), oneOf(['61', '63'], ['1', '67'])))
    .map(([name, index, other, flags]) => {
      // Half of them are linear: the table itself.
      const target = index % 2 === 0 ? name : other;
      return flags.map((each) => ({ op: 'mmu', req: [['n', `${name}[${index}]`, `${target}:${each}`]] }));
    });

/** A table (or page) where it belongs, with one flag too many: each bit alone, since a rule may miss just that one. */
const ODD_BITS = [1, 2, 3, 4, 5, 6, 7, 8, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63];
const PAIRS: Readonly<Record<AbiName, readonly string[]>> = {
  pv64: ['scratch_l1[30]=f0', 'live_l2[5]=scratch_l1', 'live_l3[3]=live_l2', 'root[4]=live_l3'], pv32pae: ['scratch_l1[30]=f0', 'live_l2[5]=scratch_l1', 'root[1]=live_l2'],
  'xen3-pae': ['scratch_l1[30]=f0', 'live_l2[5]=scratch_l1', 'root[1]=live_l2'], 'xen3-nopae': ['scratch_l1[30]=f0', 'live_l2[5]=scratch_l1'],
};
const oddFlag = (shape: AbiName): DeedArbitrary =>
  fc.tuple(fc.shuffledSubarray([...PAIRS[shape]], { minLength: 2, maxLength: 2 }), oneOf(0x1n, 0x61n), fc.shuffledSubarray(ODD_BITS, { minLength: 12 })).map(([pairs, flags, bits]) =>
    pairs.flatMap((pair) => {
      const [at, target] = pair.split('=') as [string, string];
      return bits.map((bit) => ({ op: 'mmu', req: [['n', at, `${target}:${(flags | (1n << BigInt(bit))).toString(16)}`]] }));
    }));

/** Entries at both edges of Xen's part of a table, before it is checked and after. */
const EDGES: Readonly<Record<AbiName, readonly number[]>> = { pv64: [255, 256, 257, 258, 260, 271, 272, 511], pv32pae: [427, 428, 500, 511], 'xen3-pae': [427, 428, 500, 511], 'xen3-nopae': [1007, 1008, 1018, 1023] };
const edges = (shape: AbiName): DeedArbitrary =>
  fc.tuple(fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 3, maxLength: 3 }), fc.shuffledSubarray([...EDGES[shape]], { minLength: 2, maxLength: 4 }), oneOf('f9', 'foreign', 'secret', 'f9'), oneOf('61', '1', '67'), oneOf(0, 1, 2)).map(([[table, root, below], slots, odd, flags, updates]) => {
    const [top, target] = [table as number, updates === 2 ? odd : `f${below}`];
    const isPae = levelsOf(shape) === 3;
    return [
      ...slots.map((slot) => put(shape, top, slot, `${target}:${flags}`)), ...(isPae ? [put(shape, root as number, 3, `f${top}:1`), readOnly(root as number)] : []),
      readOnly(top), readOnly(below as number), { op: 'ext', req: [isPae ? ['pin_l3', `f${root}`] : [`pin_l${levelsOf(shape)}`, `f${top}`]] },
      ...(updates === 0 ? [] : slots.map((slot) => ({ op: 'mmu', req: [['n', `f${top}[${shape === 'xen3-nopae' ? `${slot >> 1}]${slot % 2 === 1 ? '+4' : ''}` : `${slot}]`}`, `f${below}:67`]] }))),
    ];
  });
const mmu = (): DeedArbitrary =>
  single(fc.record({ op: fc.constant('mmu'), req: fc.array(fc.tuple(often([6, ['n', 'p']], [1, ['m', 'bad']]), fc.oneof(fc.tuple(ownFrame, slot).map(([frame, index]) => `${frame}[${index}]`), fc.tuple(oneOf(...TABLES), fc.integer({ min: 0, max: 20 })).map(([name, index]) => `${name}[${index}]`)), word), { minLength: 1, maxLength: 4 }) }));
const machphys = (): DeedArbitrary =>
  fc.array(fc.tuple(anyFrame, fc.integer({ min: 0, max: 5 })).map(([frame, pfn]) => ({ op: 'mmu', req: [['m', `${frame}[0]`, `raw:${pfn}`]] })), { minLength: 2, maxLength: 5 });
const uvm = (): DeedArbitrary =>
  single(fc.tuple(virtual, fc.oneof({ weight: 3, arbitrary: leaf }, { weight: 1, arbitrary: fc.constant('0') }), oneOf(0, 0, 2, 1)).map(([va, val, fl]) => ({ op: 'uvm', va, val, fl })));
const store = (shape: AbiName): DeedArbitrary => single(fc.tuple(ownIndex, slot, word).map(([frame, index, value]) => put(shape, frame, index, value)));
const touch = (): DeedArbitrary => single(fc.tuple(virtual, oneOf('f1:63', 'raw:1234', '0')).map(([va, val]) => ({ op: 'wr', va: `${va}+ff8`, val })));
const EXT = often<string>([6, ['pin_l1', 'pin_l2', 'pin_l3', 'pin_l4', 'unpin', 'unpin']], [2, ['new_baseptr', 'new_user_baseptr', 'clear_page', 'copy_page']], [1, ['tlb_flush_local', 'tlb_flush_all', 'invlpg_all', 'bad_99']]);
const ext = (): DeedArbitrary =>
  single(fc.record({ op: fc.constant('ext'), req: fc.array(fc.tuple(EXT, anyFrame, anyFrame).map(([name, a, b]) => (name === 'invlpg_all' ? [name, 'v1'] : [name, a, b])), { minLength: 1, maxLength: 3 }) }));
const ldt = (): DeedArbitrary => single(fc.tuple(virtual, oneOf(0, 1, 512, 513, 8192)).map(([va, entries]) => ({ op: 'ext', req: [['set_ldt', va, entries]] })));

/** Segments of every ring and mode, gates, and what is Xen's alone. */
const descriptorWord = oneOf('cf9b000000ffff', 'cf93000000ffff', 'af9b000000ffff', 'cffb000000ffff', 'ec0000000000', 'ec0000080000', 'ec1f00080000', 'ece000080000', '8c00e0080000', 'ffff8f00000001', '8900000000ff', '8200000000ff', '850000000000', 'ee0000e0080000', '8e0000080000', 'ffff92000000ffff', '800000000000');
/** Descriptors in a frame, and the frame as part of the GDT. */
const gdt = (shape: AbiName): DeedArbitrary =>
  fc.tuple(ownIndex, fc.option(descriptorWord, { nil: undefined }), oneOf(1, 16, 512, 600), fc.boolean()).map(([frame, desc, ents, again]) => [
    ...(desc === undefined ? [] : [{ op: 'wr', va: `v${frame}`, val: `raw:${desc}` }]),
    ...(shape === 'pv64' || !again ? [{ op: 'uvm', va: `v${frame}`, val: '0', fl: 2 }] : [readOnly(frame)]),
    { op: 'set_gdt', frames: [`f${frame}`, 'f5'], ents },
    ...(again ? [{ op: 'set_gdt', frames: ['gdt'], ents: 16 }] : []),
  ]);
const descriptor = (): DeedArbitrary => single(fc.tuple(oneOf('gdt', 'f0', 'f1'), slot, fc.oneof(descriptorWord, fc.constant('0'))).map(([frame, index, desc]) => ({ op: 'upd_desc', ptr: `${frame}[${index}]`, desc })));

const memory = (): DeedArbitrary =>
  fc.oneof(
    fc.tuple(ownFrame, fc.integer({ min: 0, max: 2 })).map(([frame, n]) => [{ op: 'mem', cmd: 'decrease', frames: [frame] }, { op: 'mem', cmd: 'increase', frames: [`n${n}`] }]),
    single(ownFrame.map((frame) => ({ op: 'mem', cmd: 'decrease', frames: [frame] }))),
    fc.tuple(ownIndex, fc.boolean()).map(([frame, unmap]) => [...(unmap ? [{ op: 'uvm', va: `v${frame}`, val: '0', fl: 2 }] : []), { op: 'exch', in: [`f${frame}`] }]),
  );
/** Frames exchanged with the answer going to an address that is not the guest's to write. */
const exchangeTo = (): DeedArbitrary =>
  fc.tuple(ownIndex, oneOf('va:ffff804020100800', 'va:ffff810000000000', 'va:ffff800000000000', 'va:f5800000', 'va:fc000000', 'va:ffff814080402ff8', '@258.258.258.258+800', '@258.258.258.0', 'v1', 'null')).map(([frame, out]) => [
    { op: 'uvm', va: `v${frame}`, val: '0', fl: 2 }, { op: 'exch', in: [`f${frame}`], out }]);

/** A stale translation: store, change the entry without a flush, make the frame something else. */
const stale = (shape: AbiName): DeedArbitrary =>
  fc.tuple(ownIndex, oneOf('pin', 'pin2', 'pin2', 'pin2', 'gdt', 'give', 'transfer', 'transfer', 'exchange'), fc.boolean()).map(([frame, then, flush]) => {
    const what: Step = then === 'pin2' ? { op: 'ext', req: [['pin_l2', `f${frame}`]] } : then === 'pin' ? { op: 'ext', req: [['pin_l1', `f${frame}`]] } : then === 'gdt' ? { op: 'set_gdt', frames: [`f${frame}`], ents: 16 }
      : then === 'give' ? { op: 'mem', cmd: 'decrease', frames: [`f${frame}`] } : then === 'transfer' ? { op: 'gxfer', frame: `f${frame}`, dom: 'd2', ref: 11 } : { op: 'exch', in: [`f${frame}`] };
    return [put(shape, frame, 0, '0'), ...(flush ? [{ op: 'ext', req: [['tlb_flush_local']] }, put(shape, frame, 0, '0')] : []), { op: 'uvm', va: `v${frame}`, val: then.startsWith('pin') ? `f${frame}:61` : '0', fl: 0 }, what];
  });

/** What was a table and is none now is plain memory, whatever type it still shows. */
const former = (shape: AbiName): DeedArbitrary =>
  fc.tuple(ownIndex, fc.integer({ min: 1, max: levelsOf(shape) }), fc.array(fc.tuple(slot, oneOf('f1:63', 'f2:61', 'foreign:63', 'f6:67')), { minLength: 1, maxLength: 2 }), oneOf('mmu', 'store')).map(([frame, level, entries, how]) => [
    readOnly(frame), { op: 'ext', req: [[`pin_l${level}`, `f${frame}`]] }, { op: 'ext', req: [['unpin', `f${frame}`]] }, ...(how === 'store' ? [{ op: 'uvm', va: `v${frame}`, val: `f${frame}:63`, fl: 2 }] : []),
    ...entries.map(([index, value]) => (how === 'store' ? put(shape, frame, index, value) : { op: 'mmu', req: [['n', `f${frame}[${index}]`, value]] })),
  ]);

/** Through a linear entry, the last level of a walk is not an L1. */
const THROUGH: Readonly<Record<AbiName, string>> = { pv64: '@0.0.5.16', pv32pae: '@0.5.16', 'xen3-pae': '@0.5.16', 'xen3-nopae': 'va:2810000' };
const throughLinear = (shape: AbiName): DeedArbitrary =>
  fc.tuple(oneOf('live_l2:61', 'live_l2:61', 'live_l2:1'), oneOf('f1:63', 'f2:61', 'foreign:61', 'scratch_l1:61', '0'), oneOf('uvm', 'gmap', 'wr')).map(([entry, val, how]) => {
    const va = THROUGH[shape];
    return [{ op: 'mmu', req: [['n', 'live_l2[5]', entry]] }, how === 'uvm' ? { op: 'uvm', va, val, fl: 2 } : how === 'wr' ? { op: 'wr', va, val } : { op: 'gmap', req: [{ at: va, flags: '2', ref: 8, dom: 'd2' }] }];
  });

/** Pages are touched, and flushes asked for. */
const flushes = (shape: AbiName): DeedArbitrary =>
  fc.tuple(fc.shuffledSubarray([0, 1, 2, 3], { minLength: 2, maxLength: 3 }), oneOf(1, 2, 1, 4 | 1, 4 | 2), oneOf('uvm', 'uvm', 'tlb_flush_local', 'tlb_flush_all', 'upper')).map(([frames, fl, how]) => [
    ...frames.map((frame) => put(shape, frame, 1, '0')),
    how === 'uvm' ? { op: 'uvm', va: `v${frames[0]}`, val: `f${frames[0]}:61`, fl } : how === 'upper' ? { op: 'mmu', req: [['n', 'live_l2[7]', '0']] } : { op: 'ext', req: [[how]] },
  ]);

/** An entry that is absent, and then present: only the bit changes. Any empty page is a table of any level. */
const absent = (): DeedArbitrary =>
  fc.tuple(oneOf('scratch_l1', 'live_l2', 'live_l3', 'root'), fc.integer({ min: 16, max: 20 }), ownIndex, oneOf('66', '60', '62'), oneOf('67', '61', '63')).map(([name, index, frame, before, after]) => [
    ...(name === 'scratch_l1' ? [] : [readOnly(frame)]),
    { op: 'mmu', req: [before, after].map((flags) => ['n', `${name}[${index}]`, `f${frame}:${flags}`]) },
  ]);

/** Stores to a pinned L1 through its read-only mapping, carried out by Xen while writable page tables are on. */
const emulated = (shape: AbiName): DeedArbitrary =>
  fc.tuple(ownIndex, fc.array(fc.tuple(slot, leaf), { minLength: 1, maxLength: 3 })).map(([frame, stores]) => [
    { op: 'assist', cmd: 'enable', type: 2 }, readOnly(frame), { op: 'ext', req: [['pin_l1', `f${frame}`]] }, ...stores.map(([index, value]) => put(shape, frame, index, value)),
  ]);

/** Two roots with one L2 in slot 3; elsewhere than with PAE just two tables that share one below. */
const sharedTable = (shape: AbiName): DeedArbitrary =>
  fc.tuple(fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 3, maxLength: 3 }), oneOf('61', '1'), fc.boolean()).map(([[below, one, other], flags, unpins]) => {
    const level = Math.min(levelsOf(shape), 3);
    return [
      readOnly(below as number), ...[one, other].map((root) => put(shape, root as number, 3, `f${below}:${flags}`)), readOnly(one as number), readOnly(other as number),
      ...[one, other].map((root) => ({ op: 'ext', req: [[`pin_l${level}`, `f${root}`]] })), ...(unpins ? [{ op: 'ext', req: [['unpin', `f${one}`]] }] : []),
    ];
  });

/** A tree of roots like the kernel's own: the second is loaded, perhaps let go, and left again. */
const roots = (shape: AbiName): DeedArbitrary =>
  fc.tuple(fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 3, maxLength: 3 }), oneOf('new_baseptr', 'new_baseptr', 'new_user_baseptr'), oneOf('', 'pin', 'unpin'), fc.array(oneOf<'writable' | 'store' | 'again' | 'back' | 'unpin' | 'gone'>('writable', 'store', 'again', 'back', 'unpin', 'gone'), { maxLength: 5 })).map(([[top, below, other], base, pins, then]) => {
    const root = `f${top}`;
    const entries: Step[] = shape === 'pv64' ? [put(shape, top as number, 0, 'live_l3:67')]
      : shape === 'xen3-nopae' ? [put(shape, top as number, 0, 'live_l1:67'), put(shape, top as number, 255, 'scratch_l1:67')]
        : [put(shape, top as number, 0, 'live_l2:1'), put(shape, top as number, 3, `f${below}:1`)];
    const level = Math.min(levelsOf(shape), 4);
    const pin = (name: string): Step => ({ op: 'ext', req: [[name, root]] });
    const what: Readonly<Record<(typeof then)[number], Step>> = {
      writable: { op: 'uvm', va: `v${top}`, val: `${root}:63`, fl: 2 }, store: put(shape, top as number, 4, `f${other}:67`), again: { op: 'ext', req: [[base, root]] },
      back: { op: 'ext', req: [[base, base === 'new_baseptr' ? 'root' : '0']] }, unpin: pin('unpin'), gone: { op: 'mem', cmd: 'decrease', frames: [root] },
    };
    return [
      ...entries, readOnly(top as number), readOnly(below as number), ...(pins === '' ? [] : [pin(`pin_l${level}`)]), { op: 'ext', req: [[base, root]] },
      ...(pins === 'unpin' ? [pin('unpin')] : []), ...then.map((each) => what[each]),
    ];
  });

/** The LDT is where a frame is mapped; the processor reads it, and the frame is to stay what it is. */
const ldtUse = (): DeedArbitrary =>
  fc.tuple(ownIndex, oneOf(1, 512, 513), fc.option(oneOf('cf9b000000ffff', '8900000000ff', 'ec0000000000'), { nil: undefined }), oneOf(0, 8, 4088, 4096), fc.boolean(), fc.boolean()).map(([frame, entries, desc, offset, again, writes]) => [
    ...(desc === undefined ? [] : [{ op: 'wr', va: `v${frame}`, val: `raw:${desc}` }]), readOnly(frame), { op: 'ext', req: [['set_ldt', `v${frame}`, entries]] }, { op: 'ldt', offset },
    ...(writes ? [{ op: 'uvm', va: `v${frame}`, val: `f${frame}:63`, fl: 2 }, { op: 'wr', va: `v${frame}`, val: 'raw:8900000000ff' }] : []), ...(again ? [{ op: 'ext', req: [['set_ldt', 'v0', 0]] }] : []),
  ]);

/** Somebody else is named where a call asks whose frames or tables are meant. */
const OTHERS = oneOf('foreign', 'foreign1', 'foreign2', 'secret', 'secret', 'xen', 'vga', 'f0', 'root');
const whose = oneOf('d2', 'd2', 'd2', 'io', 'xen', 'd1', 'invalid');
const several = (one: DeedArbitrary): DeedArbitrary => fc.array(one, { minLength: 3, maxLength: 8 }).map((deeds) => deeds.flat());
const asOther = (): DeedArbitrary =>
  several(fc.oneof(
    single(fc.tuple(fc.integer({ min: 0, max: 3 }), OTHERS, oneOf('63', '61'), whose).map(([w, frame, flags, dom]) => ({ op: 'uvm', va: `w${w}`, val: `${frame}:${flags}`, fl: 2, dom }))),
    single(fc.tuple(oneOf('scratch_l1[16]', 'scratch_l1[17]', 'foreign[0]', 'secret[1]', 'xen[0]', 'f1[0]'), OTHERS, oneOf('63', '61', '0'), whose, oneOf(undefined, undefined, 'd2', 'd1')).map(([at, frame, flags, fd, pt]) => ({ op: 'mmu', req: [['n', at, `${frame}:${flags}`]], fd, ...(pt === undefined ? {} : { pt }) }))),
    single(fc.tuple(OTHERS, fc.integer({ min: 1, max: 9 }), oneOf('d2', 'd2', 'd1', 'xen')).map(([frame, pfn, fd]) => ({ op: 'mmu', req: [['m', `${frame}[0]`, `raw:${pfn}`]], fd }))),
    single(fc.tuple(oneOf('clear_page', 'copy_page', 'copy_page', 'pin_l1', 'pin_l2', 'unpin'), OTHERS, OTHERS, whose).map(([name, a, b, fd]) => ({ op: 'ext', req: [[name, a, b]], fd }))),
    single(fc.tuple(oneOf('decrease', 'increase'), OTHERS, oneOf('d2', 'd2', 'd1', 'd99')).map(([cmd, frame, dom]) => ({ op: 'mem', cmd, frames: [cmd === 'increase' ? 'n2' : frame], dom }))),
  ));

const multi = (shape: AbiName): DeedArbitrary =>
  fc.array(fc.oneof(uvm(), ext(), mmu()), { minLength: 1, maxLength: 4 }).map((deeds) => [{ op: 'multi', calls: deeds.flat().filter(({ op }) => shape !== 'pv64' || op !== 'wr') }]);

// -- grants ---------------------------------------------------------------------------------------

const gref = often([6, [8, 9, 13, 1, 2]], [2, [3, 10, 11, 12, 14, 15, 16, 17, 18, 19]], [1, [255, 511, 512, 600]]);
const MAP_FLAGS = often([6, ['2', '6', '3', '7']], [2, ['1', '5', 'a', '12', '16', '13', '17']], [1, ['0', 'f0002']]);
const peerOrSelf = often([5, ['d2', 'd1']], [1, ['d99', 'self', 'd3']]);
const window = fc.integer({ min: 0, max: 3 }).map((index) => `w${index}`);
/** Where an entry of a grant is: an address, or an entry's machine address (aligned or not). */
const place = fc.oneof({ weight: 6, arbitrary: window }, { weight: 2, arbitrary: fc.tuple(oneOf('scratch_l1', 'live_l1', 'f0'), oneOf(16, 17, 20, 30), oneOf('', '+4', '+1')).map(([name, index, off]) => `pte:${name}[${index}]${off}`) }, { weight: 1, arbitrary: oneOf('v1', 'v2', 'null') });
const handle = fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 3 }).map((index) => `h${index}`) }, { weight: 1, arbitrary: oneOf(0, 1, 255, 256) });
const mapRequest = fc.tuple(place, MAP_FLAGS, gref, peerOrSelf).map(([at, flags, ref, dom]) => ({ at, flags: at.startsWith('pte:') ? (parseInt(flags, 16) | 0x10).toString(16) : flags, ref, dom }));
const unmapRequest = fc.tuple(place, handle, fc.option(fc.oneof(oneOf('foreign:0', 'foreign1:0', 'foreign2:0', 'f0:0', 'f1:0'), ownFrame.map((frame) => `${frame}:8`)), { nil: undefined })).map(([at, h, dev]) => ({ at, h, ...(dev === undefined ? {} : { dev }) }));

const offer = (): DeedArbitrary => single(fc.tuple(oneOf(1, 2, 3), oneOf('1', '1', '5', '2', '0'), oneOf('d1', 'd1', 'd2'), anyFrame).map(([ref, flags, dom, frame]) => ({ op: 'gset', ref, flags, dom, frame })));
const map = (): DeedArbitrary => single(fc.array(mapRequest, { minLength: 1, maxLength: 3 }).map((req) => ({ op: 'gmap', req })));
const unmap = (): DeedArbitrary => single(fc.array(unmapRequest, { minLength: 1, maxLength: 3 }).map((req) => ({ op: 'gunmap', req })));
/** A grant of d2's mapped both ways, and let go in one or two steps, or somewhere else. */
const mapAndUnmap = (): DeedArbitrary =>
  fc.tuple(oneOf<readonly [number, string]>([8, 'foreign'], [13, 'foreign2'], [9, 'foreign1']), oneOf('2', '3', '6', '7', '1', '5'), window, fc.array(fc.tuple(window, oneOf('host', 'device', 'both')), { maxLength: 2 }), oneOf('', 'rd', 'wr')).map(([[ref, frame], flags, at, ends, touched]) => [
    { op: 'gmap', req: [{ at, flags, ref, dom: 'd2' }] }, ...(touched === '' ? [] : [{ op: touched, va: `${at}+ff8`, ...(touched === 'wr' ? { val: 'raw:77' } : {}) }]),
    ...ends.map(([where, how]) => ({ op: 'gunmap', req: [{ at: how === 'device' ? 'null' : where, h: 'h0', ...(how === 'host' ? {} : { dev: `${frame}:0` }) }] })),
  ]);
/** A frame of d1's that d2 has mapped, and what d1 then tries with it. */
const lend = (): DeedArbitrary =>
  fc.tuple(oneOf(1, 2, 3, 9), oneOf('1', '5'), oneOf(1, 5), ownIndex, fc.array(oneOf<'table' | 'give' | 'swap' | 'version' | 'back' | 'transfer' | 'exchange' | 'unmap' | 'again'>('table', 'give', 'swap', 'version', 'back', 'transfer', 'exchange', 'unmap', 'again'), { maxLength: 4 })).map(([ref, flags, how, frame, then]) => {
    const [name, map]: [string, Step] = [`f${frame}`, { op: 'peer', do: 'map', ref, flags: how }];
    const what: Readonly<Record<(typeof then)[number], readonly Step[]>> = {
      table: [readOnly(frame), { op: 'ext', req: [['pin_l1', name]] }], give: [{ op: 'uvm', va: `v${frame}`, val: '0', fl: 2 }, { op: 'mem', cmd: 'decrease', frames: [name] }],
      swap: [{ op: 'gswap', a: ref, b: 20 }], version: [{ op: 'gsetver', v: 2 }, { op: 'gsetver', v: 1 }], back: [{ op: 'gflag', ref, flags: '0' }],
      transfer: [{ op: 'uvm', va: `v${frame}`, val: '0', fl: 2 }, { op: 'gxfer', frame: name, dom: 'd2', ref: 11 }], exchange: [{ op: 'exch', in: [name] }],
      unmap: [{ op: 'peer', do: 'unmap' }], again: [map],
    };
    return [{ op: 'gset', ref, flags, dom: 'd2', frame: name }, map, ...then.flatMap((each) => what[each])];
  });
const replace = (): DeedArbitrary => single(fc.tuple(window, fc.oneof(window, oneOf('v1', 'v2', 'null')), handle).map(([at, to, h]) => ({ op: 'greplace', req: [{ at, new: to, h }] })));
const OFFSETS = oneOf(0, 8, 100, 2048, 4088, 4095, 4096, 65535);
const copySide = fc.oneof(fc.tuple(gref, oneOf('d2', 'd2', 'd1'), OFFSETS).map(([ref, dom, off]) => ({ ref, dom, off })), fc.tuple(fc.oneof({ weight: 6, arbitrary: ownFrame }, { weight: 1, arbitrary: anyFrame }), OFFSETS).map(([frame, off]) => ({ frame, dom: 'self', off })), fc.tuple(oneOf('secret', 'foreign'), OFFSETS).map(([frame, off]) => ({ frame, dom: 'd2', off })));
const copy = (): DeedArbitrary =>
  single(fc.array(fc.tuple(copySide, copySide, oneOf(0, 1, 8, 8, 100, 2048, 4088, 4096, 65535)).map(([src, dst, len]) => ({ src, dst, len })), { minLength: 1, maxLength: 4 }).map((req) => ({ op: 'gcopy', req })));
const transfer = (): DeedArbitrary =>
  fc.tuple(ownIndex, fc.boolean(), oneOf('d2', 'd2', 'd2', 'd3'), oneOf(11, 11, 11, 8, 18, 512)).map(([frame, unmapFirst, dom, ref]) => [...(unmapFirst ? [{ op: 'uvm', va: `v${frame}`, val: '0', fl: 0 }] : []), { op: 'gxfer', frame: `f${frame}`, dom, ref }]);
const version = (): DeedArbitrary =>
  fc.oneof(fc.tuple(window, oneOf('63', '61'), oneOf(1, 2)).map(([va, flags, v]) => [{ op: 'gsetver', v: 2 }, { op: 'uvm', va, val: `gstatus:${flags}`, fl: 2 }, { op: 'gsetver', v }]), single(oneOf(1, 2, 2).map((v) => ({ op: 'gsetver', v }))), single(oneOf(0, 1, 2, 3).map((nr) => ({ op: 'gstatusf', nr, dom: 'self' }))), single(oneOf(1, 2, 5, 65).map((nr) => ({ op: 'gsetup', dom: 'self', nr }))),
    fc.tuple(oneOf(1, 2, 8), oneOf('1', '101', '5'), oneOf('d1', 'd2'), ownFrame, oneOf(0, 100), oneOf(8, 4096)).map(([ref, flags, dom, frame, off, len]) => [{ op: 'gsetver', v: 2 }, { op: 'g2set', ref, flags, dom, frame, off, len }]));
/** One grant used more often than eight bits can count. */
const CROWD = 260;
const crowd = (): DeedArbitrary => single(fc.tuple(oneOf(8, 9, 13), oneOf('1', '5')).map(([ref, flags]) => ({ op: 'gmap', req: Array.from({ length: CROWD }, () => ({ at: 'null', flags, ref, dom: 'd2' })) })));
/** What d2 granted to others or to nobody, and what it holds, tried every way. */
const BAITS = oneOf(3, 10, 11, 12, 14, 15, 16, 16, 17, 17, 18, 19, 512);
const trespass = (): DeedArbitrary =>
  several(fc.oneof(
    single(fc.tuple(window, oneOf('2', '6', '3', '7'), BAITS).map(([at, flags, ref]) => ({ op: 'gmap', req: [{ at, flags, ref, dom: 'd2' }] }))),
    single(fc.tuple(BAITS, ownFrame, fc.boolean()).map(([ref, frame, reads]) => {
      const [theirs, own] = [{ ref, dom: 'd2', off: 0 }, { frame, dom: 'self', off: 64 }];
      return { op: 'gcopy', req: [reads ? { src: theirs, dst: own, len: 16 } : { src: own, dst: theirs, len: 16 }] };
    })),
    single(fc.tuple(oneOf('secret', 'foreign'), ownFrame, fc.boolean(), oneOf(8, 13)).map(([frame, own, reads, ref]) => {
      const [theirs, mine, granted] = [{ frame, dom: 'd2', off: 0 }, { frame: own, dom: 'self', off: 64 }, { ref, dom: 'd2', off: 8 }];
      return { op: 'gcopy', req: reads ? [{ src: granted, dst: mine, len: 8 }, { src: theirs, dst: mine, len: 16 }] : [{ src: mine, dst: theirs, len: 16 }] };
    })),
    single(fc.tuple(ownFrame, oneOf(8, 9, 12, 16, 17, 18, 512)).map(([frame, ref]) => ({ op: 'gxfer', frame, dom: 'd2', ref }))),
    single(oneOf(1, 2).map((nr) => ({ op: 'gsetup', dom: 'd2', nr }))),
  ));
/** d2's table is of version 2: parts of pages, and what it has from others. */
const partly = (): DeedArbitrary =>
  fc.tuple(fc.array(fc.tuple(oneOf(20, 20, 21, 21, 22, 23, 8), oneOf('read', 'write', 'map'), oneOf(0, 56, 64, 72, 184, 192, 4088), oneOf(8, 16, 128, 136), window), { minLength: 3, maxLength: 8 }), oneOf('1', '5', '0'), oneOf('d2', 'd2', 'd1')).map(([tries, flags, dom]) => [
    { op: 'gset', ref: 1, flags, dom, frame: 'f4' }, { op: 'peer', do: 'upgrade' },
    ...tries.map(([ref, how, off, len, at]): Step => {
      const [theirs, own] = [{ ref, dom: 'd2', off }, { frame: 'f3', dom: 'self', off: 64 }];
      return how === 'map' ? { op: 'gmap', req: [{ at, flags: off > 64 ? '6' : '2', ref, dom: 'd2' }] } : { op: 'gcopy', req: [how === 'read' ? { src: theirs, dst: own, len } : { src: own, dst: theirs, len }] };
    }),
  ]);
const swap = (): DeedArbitrary => single(fc.tuple(gref, gref).map(([a, b]) => ({ op: 'gswap', a, b })));

// -- events and the other domain --------------------------------------------------------------------

const port = often([6, [1, 2, 3, 4, 5, 6, 7, 8]], [1, [0, 63, 64, 1023, 0xffff_ffff]]);
const EVENT_COMMANDS = ['alloc_unbound', 'bind_interdomain', 'bind_interdomain', 'bind_virq', 'bind_ipi', 'bind_pirq', 'close', 'send', 'status', 'unmask', 'bind_vcpu', 'reset', 'set_priority', 'bad'] as const;
const event = (): DeedArbitrary =>
  single(fc.record({ op: fc.constant('evt'), cmd: oneOf<string>(...EVENT_COMMANDS), dom: oneOf('self', 'd1', 'd2', 'd99'), remote: oneOf('d2', 'd2', 'd1', 'd3', 'd99'), rport: port, port, virq: oneOf(0, 1, 2, 7, 11, 24), vcpu: oneOf(0, 0, 0, 1), prio: oneOf(0, 7, 16) }));
const fifo = (): DeedArbitrary =>
  fc.tuple(ownFrame, oneOf(0, 8, 4024, 4032), fc.boolean()).map(([frame, offset, expands]) => [{ op: 'evt', cmd: 'init_control', frame, offset, vcpu: 0 }, ...(expands ? [{ op: 'evt', cmd: 'expand_array', frame }] : [])]);
/** A port is taken, made pending, closed and taken again. */
const reuse = (): DeedArbitrary =>
  fc.tuple(oneOf(3, 4, 5, 6), fc.boolean()).map(([rport, again]) => [{ op: 'evt', cmd: 'bind_interdomain', remote: 'd2', rport }, { op: 'peer', do: 'notify', port: rport }, { op: 'evt', cmd: 'close', port: 3 }, ...(again ? [{ op: 'evt', cmd: 'bind_ipi', vcpu: 0 }] : [])]);
const peer = (): DeedArbitrary =>
  single(fc.oneof({ weight: 3, arbitrary: port.map((each) => ({ op: 'peer', do: 'close', port: each })) }, { weight: 3, arbitrary: port.map((each) => ({ op: 'peer', do: 'notify', port: each })) }, { weight: 2, arbitrary: gref.map((ref) => ({ op: 'peer', do: 'revoke', ref })) }, { weight: 1, arbitrary: fc.constant({ op: 'peer', do: 'end' }) }));

// -- programs -------------------------------------------------------------------------------------

type Family = 'memory' | 'grants' | 'events';
const DEEDS: Readonly<Record<string, { readonly family: Family; readonly make: (shape: AbiName) => DeedArbitrary }>> = {
  build: { family: 'memory', make: build }, tree: { family: 'memory', make: tree }, linear: { family: 'memory', make: linear }, liveEntry: { family: 'memory', make: liveEntry },
  liveTable: { family: 'memory', make: liveTable }, oddFlag: { family: 'memory', make: oddFlag }, edges: { family: 'memory', make: edges }, mmu: { family: 'memory', make: mmu }, machphys: { family: 'memory', make: machphys }, uvm: { family: 'memory', make: uvm },
  store: { family: 'memory', make: store }, touch: { family: 'memory', make: touch }, ext: { family: 'memory', make: ext }, ldt: { family: 'memory', make: ldt }, gdt: { family: 'memory', make: gdt },
  descriptor: { family: 'memory', make: descriptor }, memory: { family: 'memory', make: memory }, exchangeTo: { family: 'memory', make: exchangeTo }, stale: { family: 'memory', make: stale }, former: { family: 'memory', make: former }, throughLinear: { family: 'memory', make: throughLinear }, flushes: { family: 'memory', make: flushes }, absent: { family: 'memory', make: absent },
  emulated: { family: 'memory', make: emulated }, roots: { family: 'memory', make: roots }, ldtUse: { family: 'memory', make: ldtUse }, asOther: { family: 'memory', make: asOther }, sharedTable: { family: 'memory', make: sharedTable }, multi: { family: 'memory', make: multi },
  offer: { family: 'grants', make: offer }, map: { family: 'grants', make: map }, unmap: { family: 'grants', make: unmap }, mapAndUnmap: { family: 'grants', make: mapAndUnmap }, lend: { family: 'grants', make: lend }, replace: { family: 'grants', make: replace },
  copy: { family: 'grants', make: copy }, transfer: { family: 'grants', make: transfer }, version: { family: 'grants', make: version }, swap: { family: 'grants', make: swap }, trespass: { family: 'grants', make: trespass }, partly: { family: 'grants', make: partly }, crowd: { family: 'grants', make: crowd },
  event: { family: 'events', make: event }, fifo: { family: 'events', make: fifo }, reuse: { family: 'events', make: reuse }, peer: { family: 'events', make: peer },
};

export interface ProgramConstraints {
  readonly shapes?: readonly AbiName[];
  /** Families of deeds that may occur. */
  readonly families?: readonly Family[];
  readonly maxDeeds?: number;
  /** Interrupt hypercalls (default: in half of the programs). */
  readonly preempt?: boolean;
}

/** Any program of a hostile guest. */
export function programs({ shapes = SHAPES, families = ['memory', 'grants', 'events'], maxDeeds = 14, preempt }: ProgramConstraints = {}): fc.Arbitrary<Program> {
  const names = Object.keys(DEEDS).filter((each) => families.includes((DEEDS[each] as { family: Family }).family));
  const swarm = fc.noShrink(fc.tuple(fc.constantFrom(...shapes), fc.subarray(names, { minLength: 3, maxLength: 10 }), fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 10, maxLength: 10 })));
  const interruptions = preempt === false ? fc.constant(0) : preempt === true ? oneOf(1, 2, 3, 5) : oneOf(0, 0, 0, 1, 2, 3);
  return swarm.chain(([shape, chosen, weights]) =>
    fc.record({
      shape: fc.constant(shape), preempt: interruptions,
      steps: fc.array(fc.oneof(...chosen.map((each, index) => ({ weight: weights[index] as number, arbitrary: (DEEDS[each] as { make: (shape: AbiName) => DeedArbitrary }).make(shape) }))), { minLength: 1, maxLength: maxDeeds }).map((deeds) => deeds.flat()),
    }));
}

/** Page-table trees: stores that build one, read-only mappings of its frames, and the pin. */
export const pageTableTrees = (shape: AbiName): fc.Arbitrary<readonly Step[]> => tree(shape);
/** Shapes of guests. */
export const shapes = (): fc.Arbitrary<AbiName> => fc.constantFrom(...SHAPES);
