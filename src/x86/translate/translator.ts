// The translator tier of one processor: counts heat, makes regions, finds them again, forgets them.
//
//    step() at a block boundary:  jump cache hit -> run the dispatcher
//                                 page knows the entry -> fill the jump cache, run
//                                 else heat + 1; hot -> translate, run; cold -> the evaluator's turn
//
// Nothing here is architectural: heat, regions and caches decide how fast a run is, never what it does.
import { type MachineMemory } from '../../machine/memory.ts';
import type { Lowered } from '../lower.ts';
import { STATE } from '../state-layout.ts';
import { TLB } from '../tlb-layout.ts';
import { CodeBuffer } from './code-buffer.ts';
import { dispatcherModule, HELPER_IMPORTS, LEFT, SIGNATURE, signatures } from './dispatcher.ts';
import { emitRegion } from './emit-region.ts';
import type { SegmentKind } from './frame.ts';
import { JUMP_CACHE, jumpCacheOffset, NO_KEY } from './jump-cache.ts';
import { discover, type Region } from './region.ts';
import { moduleBytes } from './wasm-module.ts';

/** What a mode key means for translation. */
export interface TranslatorMode {
  /** False: code in this mode is always evaluated (16-bit, code segment with a base, ...). */
  readonly translatable: boolean;
  readonly user: boolean;
  readonly long: boolean;
  /** Inclusive limit of the code segment. */
  readonly codeLimit: number;
  readonly segments: readonly SegmentKind[];
}

/** What the translator needs of the processor. */
export interface TranslatorHost {
  readonly machine: MachineMemory;
  readonly stateBase: number;
  readonly tlbBase: number;
  /** Decodes and lowers; reads RAM only. Undefined: undecodable, or the bytes cross the page's end. */
  lowerAt(maddr: number, vaddr: number, mode: number): Lowered | undefined;
  mode(key: number): TranslatorMode;
  /** Fills the TLB as a data access of the current privilege does; the address in linear memory, or 0: evaluate. */
  slowRead(vaddr: number, sizeBytes: number): number;
  slowWrite(vaddr: number, sizeBytes: number): number;
  /** Sets FRAME_FLAG.code and drops the fast write paths to the frame. */
  markCode(mfn: number): void;
  /** Milliseconds, for the profile. */
  readonly clock?: (() => number) | undefined;
}

export interface TranslatorCounters {
  regionsTranslated: number;
  modulesCompiled: number;
  insnsTranslated: number;
  translateMs: number;
  /** Times translated code was entered from TypeScript. */
  entered: number;
  invalidated: number;
}

export interface TranslatorOptions {
  /** Executions of a block before it is translated. */
  readonly hotAfter?: number;
}

export interface Translator {
  /**
   * At a block boundary with budget left and the current fetch page valid for rip. True: translated code ran, the
   * state is at an instruction boundary. False: evaluate at least one instruction, up to the next block boundary.
   */
  step(): boolean;
  /** The frame's bytes changed: what was made from them is void. */
  invalidate(mfn: number): void;
  /** Forgets everything (a restored checkpoint, another machine). */
  reset(): void;
  readonly counters: TranslatorCounters;
}

const TABLE_SLOTS = 16384;
const MAX_MODES = 4096;
const HOT_AFTER = 48;
const MAX_REGION_INSNS = 600;
/** Each time a page's region is made anew, the next time takes twice the heat. */
const MAX_REBUILDS = 6;

interface PageFunction {
  readonly slot: number;
  /** Entries by label. */
  entries: readonly number[];
  insns: number;
  rebuilds: number;
}

interface CodePage {
  readonly mfn: number;
  readonly vpn: number;
  readonly modeNumber: number;
  /** Executions seen by block start. */
  readonly heat: Uint16Array;
  readonly functions: PageFunction[];
  readonly entryOf: Map<number, { readonly fn: PageFunction; readonly label: number }>;
}

interface KnownMode {
  readonly key: number;
  readonly number: number;
  readonly mode: TranslatorMode;
}

export function createTranslator(host: TranslatorHost, options: TranslatorOptions = {}): Translator {
  const { machine, stateBase } = host;
  const u32 = machine.u32;
  const hotAfter = options.hotAfter ?? HOT_AFTER;
  const jumpCacheBase = machine.reserve(JUMP_CACHE.entries * JUMP_CACHE.entryBytes, 64);
  u32.fill(NO_KEY, jumpCacheBase >>> 2, (jumpCacheBase >>> 2) + JUMP_CACHE.entries * 4);
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: TABLE_SLOTS });
  const memoryPages = machine.wasm.buffer.byteLength / 65536;
  const counters: TranslatorCounters = { regionsTranslated: 0, modulesCompiled: 0, insnsTranslated: 0, translateMs: 0, entered: 0, invalidated: 0 };
  const helpers = { slowRead: (at: number, sizeBytes: number) => host.slowRead(at >>> 0, sizeBytes), slowWrite: (at: number, sizeBytes: number) => host.slowWrite(at >>> 0, sizeBytes) };
  const makeDispatcher = (long: boolean) => {
    const bytes = dispatcherModule({ stateBase, tlbBase: host.tlbBase, jumpCacheBase, memoryPages, long });
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes as BufferSource), { e: { m: machine.wasm, t: table }, h: helpers });
    return { run: exports['run'] as (execTag: number, mode: number) => number, imports: { e: { m: machine.wasm }, h: exports } };
  };
  const dispatcher = makeDispatcher(false);
  const scratch = new CodeBuffer(65536);

  const modes = new Map<number, KnownMode>();
  let current: KnownMode | undefined;
  let pages = new Map<number, CodePage[]>(); // by mfn
  let lastPage: CodePage | undefined;
  let freeSlots: number[] = [];
  let nextSlot = 1;
  let evaluateFirst = false;
  /** How often a frame's code was thrown away: frames that change often must get hotter. */
  const thrown = new Map<number, number>();

  const word = (at: number): number => u32[(stateBase + at) >>> 2] as number;

  function modeOf(key: number): KnownMode {
    if (current?.key === key) return current;
    let known = modes.get(key);
    if (known === undefined) {
      const mode = host.mode(key);
      known = { key, number: modes.size, mode: modes.size < MAX_MODES ? mode : { ...mode, translatable: false } };
      modes.set(key, known);
    }
    current = known;
    return known;
  }

  function pageOf(mfn: number, vpn: number, modeNumber: number): CodePage {
    const last = lastPage;
    if (last !== undefined && last.mfn === mfn && last.vpn === vpn && last.modeNumber === modeNumber) return last;
    let list = pages.get(mfn);
    if (list === undefined) pages.set(mfn, (list = []));
    let page = list.find((p) => p.vpn === vpn && p.modeNumber === modeNumber);
    if (page === undefined) {
      page = { mfn, vpn, modeNumber, heat: new Uint16Array(4096), functions: [], entryOf: new Map() };
      list.push(page);
    }
    lastPage = page;
    return page;
  }

  function fillJumpCache(page: CodePage, rip: number, slot: number, label: number): void {
    const at = (jumpCacheBase + jumpCacheOffset(rip)) >>> 2;
    u32[at] = rip;
    u32[at + 1] = (page.mfn * 4096 + page.modeNumber) >>> 0;
    u32[at + 2] = slot;
    u32[at + 3] = label;
  }

  function forget(page: CodePage, fn: PageFunction): void {
    for (const rip of fn.entries) {
      const at = (jumpCacheBase + jumpCacheOffset(rip)) >>> 2;
      if (u32[at] === rip && u32[at + 2] === fn.slot) u32.fill(NO_KEY, at, at + 4);
      page.entryOf.delete(rip);
    }
  }

  function takeSlot(): number {
    const free = freeSlots.pop();
    if (free !== undefined) return free;
    if (nextSlot === TABLE_SLOTS) {
      reset();
      return nextSlot++;
    }
    return nextSlot++;
  }

  /** Makes (or remakes) the region that has an entry at rip; true if there is one now. */
  function translate(page: CodePage, rip: number, known: KnownMode): boolean {
    const started = host.clock?.() ?? 0;
    const pageVaddr = (page.vpn << 12) >>> 0;
    const pageMaddr = page.mfn * 4096;
    const grown = page.functions.find((fn) => fn.insns < MAX_REGION_INSNS / 2 && fn.rebuilds < MAX_REBUILDS);
    const entries = grown === undefined ? [rip] : [rip, ...grown.entries];
    const region: Region | undefined = discover(
      {
        pageVaddr,
        maxInsns: MAX_REGION_INSNS,
        lowerAt: (vaddr) => (vaddr > known.mode.codeLimit ? undefined : host.lowerAt(pageMaddr + (vaddr & 0xfff), vaddr, known.key)),
        executed: (vaddr) => vaddr >>> 12 === page.vpn && page.heat[vaddr & 0xfff] !== 0,
      },
      entries,
    );
    if (region === undefined) return false;
    host.markCode(page.mfn);
    if (grown !== undefined) forget(page, grown);
    const fn: PageFunction = grown ?? { slot: takeSlot(), entries: [], insns: 0, rebuilds: 0 };
    if (grown === undefined) page.functions.push(fn);
    else fn.rebuilds++;
    fn.entries = region.entries.map((node) => (region.blocks[node] as Region['blocks'][number]).vaddr);
    fn.insns = region.blocks.reduce((sum, block) => sum + block.insns.length, 0);
    const { mode } = known;
    const body = emitRegion(
      region,
      { stateBase, tlbBase: host.tlbBase, user: mode.user, long: mode.long, segments: mode.segments },
      { slot: fn.slot, jumpCacheBase, pageVaddr },
      scratch,
    );
    const bytes = moduleBytes({ signatures: signatures(mode.long), imports: HELPER_IMPORTS, memoryPages, table: false, functions: [{ signature: SIGNATURE.region, body, exportName: 'f' }] });
    const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes as BufferSource), dispatcher.imports);
    table.set(fn.slot, instance.exports['f'] as () => void);
    fn.entries.forEach((vaddr, label) => {
      page.entryOf.set(vaddr, { fn, label });
      fillJumpCache(page, vaddr, fn.slot, label);
    });
    for (const block of region.blocks) {
      const at = block.vaddr & 0xfff;
      if (page.heat[at] === 0) page.heat[at] = 1;
    }
    counters.regionsTranslated++;
    counters.modulesCompiled++;
    counters.insnsTranslated += fn.insns;
    counters.translateMs += (host.clock?.() ?? 0) - started;
    return true;
  }

  function step(): boolean {
    const known = modeOf(word(STATE.mode));
    if (!known.mode.translatable) return false;
    const rip = word(STATE.rip);
    const mfn = word(STATE.fetchMaddr) >>> 12;
    if (evaluateFirst) {
      evaluateFirst = false;
      return false;
    }
    const at = (jumpCacheBase + jumpCacheOffset(rip)) >>> 2;
    if (u32[at] !== rip || u32[at + 1] !== (mfn * 4096 + known.number) >>> 0) {
      const page = pageOf(mfn, rip >>> 12, known.number);
      const entry = page.entryOf.get(rip);
      if (entry !== undefined) fillJumpCache(page, rip, entry.fn.slot, entry.label);
      else {
        const offset = rip & 0xfff;
        const heat = (page.heat[offset] as number) + 1;
        if (heat < 0x8000) page.heat[offset] = heat;
        const patience = (page.functions[0]?.rebuilds ?? 0) + (thrown.get(mfn) ?? 0);
        if (heat !== hotAfter << Math.min(patience, 8)) return false;
        if (!translate(page, rip, known)) return false;
      }
    }
    counters.entered++;
    if (dispatcher.run(known.mode.user ? TLB.execUser : TLB.execSup, known.number) === LEFT.stop) evaluateFirst = true;
    return true;
  }

  function invalidate(mfn: number): void {
    const list = pages.get(mfn);
    if (list === undefined) return;
    let any = false;
    for (const page of list) {
      for (const fn of page.functions) {
        any = true;
        forget(page, fn);
        table.set(fn.slot, null);
        freeSlots.push(fn.slot);
      }
    }
    pages.delete(mfn);
    lastPage = undefined;
    if (any) {
      counters.invalidated++;
      thrown.set(mfn, (thrown.get(mfn) ?? 0) + 1);
    }
  }

  function reset(): void {
    u32.fill(NO_KEY, jumpCacheBase >>> 2, (jumpCacheBase >>> 2) + JUMP_CACHE.entries * 4);
    for (let slot = 1; slot < nextSlot; slot++) table.set(slot, null);
    pages = new Map();
    lastPage = undefined;
    freeSlots = [];
    nextSlot = 1;
    evaluateFirst = false;
  }

  return { step, invalidate, reset, counters };
}
