// The translator tier of one processor: counts heat, makes regions, finds them again, forgets them.
//
//    step() at a block boundary:  jump cache hit -> run the dispatcher
//                                 page knows the entry -> fill the jump cache, run
//                                 else heat + 1; hot -> translate, run; cold -> the evaluator's turn
//    of 64-bit code, cold blocks are programs for the interpreter (../interpret/), which are found in the jump cache too
//
// Nothing here is architectural: heat, regions and caches decide how fast a run is, never what it does.
import { assert } from '../../base/assert.ts';
import { fromHalves, isCanonical, pageOf as addressPage } from '../address.ts';
import { ProgramMaker } from '../interpret/program.ts';
import type { Lowered } from '../lower.ts';
import { MAX_INSN_BYTES } from '../decode.ts';
import { EFLAGS } from '../flags.ts';
import { STATE } from '../state-layout.ts';
import { TLB } from '../tlb-layout.ts';
import { CodeBuffer } from './code-buffer.ts';
import { dispatcherModule, HELPER_IMPORTS, LEFT, SIGNATURE, signatures } from './dispatcher.ts';
import { emitRegion } from './emit-region.ts';
import { JumpCache, PROGRAM_SLOT } from './jump-cache.ts';
import type { TranslatorCounters, TranslatorHost, TranslatorMode, TranslatorOptions } from './ports.ts';
import { type Block, discover, type Region } from './region.ts';
import { moduleBytes } from './wasm-module.ts';

/** What a step came to. */
export const STEP = { ran: 0, evaluateOne: 1, cold: 2, stopped: 3 } as const;
export type Step = (typeof STEP)[keyof typeof STEP];

export interface Translator {
  /**
   * At a block boundary with budget left and the current fetch page valid for rip. `ran`: translated code ran, the
   * state is at an instruction boundary; `stopped`: and what is there is the evaluator's. Else it is the evaluator's turn
   * at once: of one instruction, after which translated code may go on, or up to the next block boundary. `inMiddle`: no block may begin here, so this only looks for what is there.
   * `executions`: how often the evaluator has performed what is here since the last step, this time included.
   */
  step(inMiddle: boolean, executions: number): Step;
  /** These bytes of the frame change: what was made from them is void. */
  invalidate(mfn: number, from: number, to: number): void;
  /** Forgets everything (a restored checkpoint, another machine). */
  reset(): void;
  readonly counters: TranslatorCounters;
  /** Instructions that block programs performed. */
  interpretedInsns(): number;
}

const TABLE_SLOTS = 16384;
const MAX_PAGE_REGIONS = 64;
const MAX_MODES = 4096;
const HOT_AFTER = 12;
/** Performing a block program costs a tenth of what evaluating does, and translating one pays so many times later. */
const INTERPRETED = 36;
/** Executions granted to what never gets hot, and to what waits for its module. */
const [FOREVER, A_FEW] = [0x7fffffff, 8] as const;
/** Executions that make a block worth taking along. */
const LUKEWARM = 3;
/** A module costs about 0.2 ms besides its functions: hot entries wait for company, until their blocks were evaluated this often meanwhile. */
const BATCH = 16;
const PATIENCE = 64;
const MAX_REGION_INSNS = 600;
/** Heat of an entry that cannot be translated: it never gets hot again. */
const NEVER = 0xffff;
/** Entries through the dispatcher before the regions of a page are joined: about what translating them again costs. Doubles each time. */
const HOPS = 1 << 16;
const MAX_REGROUPS = 8;
/** A block inside a region becomes an entry only when it is this many times hotter. */
const INNER = 8;

interface PageFunction {
  readonly slot: number;
  /** By label. */
  readonly entries: readonly number[];
  /** Offsets in the page of what it was made from: from, to, from, to ... */
  readonly bytes: readonly number[];
  /** Starts of its blocks; each with the head of the innermost loop around it, or itself. */
  readonly starts: ReadonlyMap<number, number>;
}

interface CodePage {
  readonly mfn: number;
  readonly vpn: number;
  readonly known: KnownMode;
  /** Executions seen by block start. */
  readonly heat: Uint16Array;
  /** Block programs by rip; 0: there is none (ProgramMaker.make). */
  readonly programs: Map<number, number>;
  functions: PageFunction[];
  regroups: number;
  readonly entryOf: Map<number, { readonly fn: PageFunction; readonly label: number }>;
  /** Hot entries that wait for the next module. */
  readonly waiting: Set<number>;
  /** Entries that were asked for although they are inside a region. */
  readonly sticky: Set<number>;
}

/** A region waiting for its module. */
interface Made {
  readonly page: CodePage;
  readonly fn: PageFunction;
  readonly body: Uint8Array;
}

/** For one width of addresses and one set of translations. */
interface Dispatcher {
  readonly long: boolean;
  readonly run: (execTag: number, mode: number) => number;
  /** What regions import. */
  readonly imports: WebAssembly.Imports;
}

interface KnownMode {
  readonly key: number;
  readonly number: number;
  readonly mode: TranslatorMode;
  /** Since it was first entered. */
  dispatcher: Dispatcher | undefined;
}

export function createTranslator(host: TranslatorHost, options: TranslatorOptions = {}): Translator {
  const { machine, stateBase } = host;
  const u32 = machine.u32;
  const hotAfter = options.hotAfter ?? HOT_AFTER;
  const batch = options.batch ?? BATCH;
  const tableSlots = options.tableSlots ?? TABLE_SLOTS;
  const lukewarm = Math.min(hotAfter, LUKEWARM);
  const jumps = new JumpCache(machine);
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: tableSlots });
  const memoryPages = machine.wasm.buffer.byteLength / 65536;
  const counters: TranslatorCounters = { regionsTranslated: 0, modulesCompiled: 0, insnsTranslated: 0, translateMs: 0, programs: 0, entered: 0, invalidated: 0 };
  const helpers = { slowRead: (at: number, sizeBytes: number) => host.slowRead(at >>> 0, sizeBytes), slowWrite: (at: number, sizeBytes: number) => host.slowWrite(at >>> 0, sizeBytes) };
  // Long mode's addresses come by halves, and what is not canonical becomes a number that is in no page.
  const whole = (low: number, high: number): number => (isCanonical(high) ? fromHalves(low, high) : Infinity);
  const longHelpers = {
    slowRead: (low: number, high: number, sizeBytes: number) => host.slowRead(whole(low, high), sizeBytes),
    slowWrite: (low: number, high: number, sizeBytes: number) => host.slowWrite(whole(low, high), sizeBytes),
  };
  let programs: ProgramMaker | undefined;
  /** Made when long mode is first met. */
  const maker = (): ProgramMaker | undefined => (options.interpret === false ? undefined : (programs ??= new ProgramMaker(machine, stateBase)));
  const makeDispatcher = (long: boolean, second: boolean): Dispatcher => {
    const bytes = dispatcherModule({ ...host.places[second ? 1 : 0], jumpCacheBase: jumps.base, memoryPages, long, counter: long ? maker()?.counter : undefined });
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes as BufferSource), { e: { m: machine.wasm, t: table }, h: long ? longHelpers : helpers });
    return { long, run: exports['run'] as Dispatcher['run'], imports: { e: { m: machine.wasm }, h: exports } };
  };
  const dispatchers = new Map<number, Dispatcher>();
  /** Made when it is first needed. */
  function dispatcherFor({ long, second }: TranslatorMode): Dispatcher {
    const key = (long ? 1 : 0) + (second ? 2 : 0);
    let dispatcher = dispatchers.get(key);
    if (dispatcher === undefined) dispatchers.set(key, (dispatcher = makeDispatcher(long, second)));
    return dispatcher;
  }
  const scratch = new CodeBuffer(65536);

  const modes = new Map<number, KnownMode>();
  let current: KnownMode | undefined;
  let pages = new Map<number, CodePage[]>(); // by mfn
  /** Pages with instructions that end in the frame (by mfn). */
  const reachingInto = new Map<number, Set<CodePage>>();
  let lastPage: CodePage | undefined;
  let freeSlots: number[] = [];
  let nextSlot = 1;
  /** The budget does not cover the block program at rip. */
  let budgetShort = false;
  /** Hot entries that wait to be translated together. */
  let pending: { readonly page: CodePage; readonly rip: number }[] = [];
  /** Executions of those that wait, since the last module. */
  let waited = 0;
  /** How often a frame's code was thrown away: frames that change often must get hotter. */
  const thrown = new Map<number, number>();

  const word = (at: number): number => u32[(stateBase + at) >>> 2] as number;
  const ripNow = (): number => {
    const high = word(STATE.rip + 4);
    return high === 0 ? word(STATE.rip) : fromHalves(word(STATE.rip), high);
  };

  function modeOf(key: number): KnownMode {
    if (current?.key === key) return current;
    let known = modes.get(key);
    if (known === undefined) {
      const mode = host.mode(key);
      known = { key, number: modes.size, mode: modes.size < MAX_MODES ? mode : { ...mode, translatable: false }, dispatcher: undefined };
      modes.set(key, known);
    }
    current = known;
    return known;
  }

  function pageOf(mfn: number, vpn: number, known: KnownMode): CodePage {
    const last = lastPage;
    if (last !== undefined && last.mfn === mfn && last.vpn === vpn && last.known === known) return last;
    let list = pages.get(mfn);
    if (list === undefined) pages.set(mfn, (list = []));
    let page = list.find((p) => p.vpn === vpn && p.known === known);
    if (page === undefined) {
      page = { mfn, vpn, known, heat: new Uint16Array(4096), programs: new Map(), functions: [], regroups: 0, entryOf: new Map(), waiting: new Set(), sticky: new Set() };
      list.push(page);
    }
    lastPage = page;
    return page;
  }

  const keyOf = (mfn: number, known: KnownMode): number => (mfn * 4096 + known.number) >>> 0;
  const fillJumpCache = (page: CodePage, rip: number, slot: number, label: number): void => jumps.fill(rip, keyOf(page.mfn, page.known), slot, label, HOPS << page.regroups);

  /** Has the dispatcher entered it often of late? */
  const usedMuch = (fn: PageFunction): boolean => fn.entries.some((rip) => jumps.hops(rip, fn.slot) > HOPS >>> 4);

  function forget(page: CodePage, fn: PageFunction): void {
    for (const rip of fn.entries) {
      jumps.forget(rip, fn.slot);
      page.entryOf.delete(rip);
    }
    table.set(fn.slot, null);
    freeSlots.push(fn.slot);
  }

  function takeSlot(): number {
    const slot = freeSlots.pop() ?? nextSlot++;
    assert(slot < tableSlots, () => `dispatch table of ${tableSlots} slots is full`);
    return slot;
  }

  const isInner = (page: CodePage, rip: number): boolean => page.functions.some((fn) => fn.starts.has(rip));

  /** Translates everything that waits, in one module; and joins the regions of a page. */
  function flush(joined?: CodePage): void {
    // A full table is emptied, as simply as that: what is hot comes back.
    if (freeSlots.length + tableSlots - nextSlot < pending.length * MAX_PAGE_REGIONS + (joined?.functions.length ?? 0)) return reset();
    const started = host.clock?.() ?? 0;
    const waiting = new Map<CodePage, number[]>();
    if (joined !== undefined) waiting.set(joined, []);
    for (const { page, rip } of pending) {
      const rips = waiting.get(page);
      if (rips === undefined) waiting.set(page, [rip]);
      else rips.push(rip);
    }
    pending = [];
    waited = 0;
    const made: Made[] = [];
    for (const [page, rips] of waiting) translate(page, rips, made);
    // The helpers that a module imports fill one set of translations.
    const together = new Map<Dispatcher, Made[]>();
    for (const one of made) {
      const dispatcher = dispatcherFor(one.page.known.mode);
      const list = together.get(dispatcher);
      if (list === undefined) together.set(dispatcher, [one]);
      else list.push(one);
    }
    for (const [dispatcher, list] of together) load(dispatcher, list);
    counters.translateMs += (host.clock?.() ?? 0) - started;
  }

  /** One module of finished functions. */
  function load({ long, imports }: Dispatcher, made: readonly Made[]): void {
    const functions = made.map(({ body }, i) => ({ signature: SIGNATURE.region, body, exportName: `f${i}` }));
    const bytes = moduleBytes({ signatures: signatures(long), imports: HELPER_IMPORTS, memoryPages, table: false, functions });
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes as BufferSource), imports);
    counters.modulesCompiled++;
    made.forEach(({ page, fn }, i) => {
      table.set(fn.slot, exports[`f${i}`] as () => void);
      fn.entries.forEach((vaddr, label) => fillJumpCache(page, vaddr, fn.slot, label));
    });
  }

  /** Makes regions of the page with entries at `rips`; without any, joins what the page has already. */
  function translate(page: CodePage, rips: readonly number[], made: Made[]): void {
    const { mode } = page.known;
    const pageVaddr = page.vpn * 4096;
    // 1. Regions that are made anew: those in whose middle an entry is missing, or all of them.
    const regroup = rips.length === 0;
    const crowded = page.functions.length >= MAX_PAGE_REGIONS / 2;
    const absorbed = page.functions.filter((fn) => crowded || (regroup ? usedMuch(fn) : rips.some((rip) => fn.starts.has(rip))));
    const missing = new Set<number>();
    for (const rip of rips) {
      page.waiting.delete(rip);
      const inside = absorbed.find((fn) => fn.starts.has(rip))?.starts.get(rip);
      // Coming in at the head of the loop keeps the loop simple, and is soon enough: unless that was tried already.
      const head = inside === undefined || page.sticky.has(inside) ? (inside === undefined ? undefined : rip) : inside;
      if (head !== undefined) page.sticky.add(head);
      missing.add(head ?? rip);
      page.heat[rip & 0xfff] = NEVER;
    }
    let wanted = [...missing];
    if (regroup) page.regroups++;
    for (const fn of absorbed) {
      wanted.push(...fn.entries);
      forget(page, fn);
    }
    page.functions = page.functions.filter((fn) => !absorbed.includes(fn));
    // 2. As many regions as their size asks for.
    while (wanted.length > 0) {
      const region: Region | undefined = discover(
        {
          pageVaddr,
          maxInsns: MAX_REGION_INSNS,
          lowerAt: (vaddr) => lowerIn(page, vaddr),
          executed: (vaddr) => addressPage(vaddr) === page.vpn && (page.heat[vaddr & 0xfff] as number) >= lukewarm,
          elsewhere: (vaddr) => page.entryOf.has(vaddr),
          sticky: (vaddr) => page.sticky.has(vaddr),
          segments: mode.segments,
          codeLimit: mode.codeLimit,
          long: mode.long,
        },
        wanted,
      );
      if (region === undefined) break;
      const { slot, body, loopHeads } = emit(page, region);
      const vaddrOf = (node: number): number => (region.blocks[node] as Block).vaddr;
      const fn: PageFunction = { slot, entries: region.entries.map(vaddrOf), bytes: bytesOf(region), starts: new Map(region.blocks.map(({ vaddr }, node) => [vaddr, vaddrOf(loopHeads[node] as number)])) };
      page.functions.push(fn);
      fn.entries.forEach((vaddr, label) => page.entryOf.set(vaddr, { fn, label }));
      for (const start of fn.starts.keys()) page.heat[start & 0xfff] = lukewarm;
      made.push({ page, fn, body });
      wanted = wanted.filter((vaddr) => !region.at.has(vaddr) && page.functions.length < MAX_PAGE_REGIONS);
    }
  }

  function lowerIn(page: CodePage, vaddr: number): { lowered: Lowered; nextMaddr?: number } | undefined {
    const { mode, key } = page.known;
    if (vaddr > mode.codeLimit) return undefined;
    const maddr = page.mfn * 4096 + (vaddr & 0xfff);
    const lowered = host.lowerAt(maddr, vaddr, key, false);
    if (lowered !== undefined) return { lowered };
    const crossing = vaddr + 15 > mode.codeLimit ? undefined : host.lowerCrossing(maddr, vaddr, key);
    if (crossing === undefined || crossing.lowered.rep !== undefined) return undefined;
    const next = crossing.nextMaddr >>> 12;
    const list = reachingInto.get(next);
    if (list === undefined) reachingInto.set(next, new Set([page]));
    else list.add(page);
    return crossing;
  }

  function emit(page: CodePage, region: Region): { slot: number; body: Uint8Array; loopHeads: readonly number[] } {
    const { mode } = page.known;
    const slot = takeSlot();
    const target = { stateBase, tlbBase: host.places[mode.second ? 1 : 0].tlbBase, user: mode.user, long: mode.long, segments: mode.segments, codeLimit: mode.codeLimit };
    const { body, loopHeads } = emitRegion(region, target, { slot, jumpCacheBase: jumps.base, pageVaddr: page.vpn * 4096 }, scratch);
    counters.regionsTranslated++;
    counters.insnsTranslated += region.blocks.reduce((sum, block) => sum + block.insns.length, 0);
    return { slot, body, loopHeads };
  }

  /** How many executions of a block of this page cost what one evaluated one does. */
  const cheapness = (page: CodePage): number => (page.known.mode.interpretable && options.interpret !== false ? INTERPRETED : 1);
  const heatNeeded = (page: CodePage, rip: number): number =>
    options.eager === true ? hotAfter : Math.min((hotAfter * cheapness(page) * (isInner(page, rip) ? INNER : 1)) << Math.min(thrown.get(page.mfn) ?? 0, 6), 0x1fff);

  /** Counts executions of a block that has no translation; true if it has one now. */
  function warmUp(page: CodePage, rip: number, executions: number): boolean {
    const offset = rip & 0xfff;
    const heat = (page.heat[offset] as number) + executions;
    if (heat > 0x8000) return false;
    page.heat[offset] = heat;
    if (heat < hotAfter || heat < heatNeeded(page, rip)) return false;
    if (page.waiting.has(rip)) waited += executions / cheapness(page);
    else {
      page.waiting.add(rip);
      pending.push({ page, rip });
    }
    if (pending.length < batch && waited < PATIENCE) return false;
    flush();
    return page.entryOf.has(rip);
  }

  /** A block program has used up its executions: it is translated, or gets more. */
  function warmed(known: KnownMode): void {
    const rip = ripNow();
    const page = pageOf(word(STATE.fetchMaddr) >>> 12, addressPage(rip), known);
    const program = page.programs.get(rip);
    assert(programs !== undefined && program !== undefined, () => `no program at ${rip}`);
    if (hotAfter !== Infinity && warmUp(page, rip, programs.grantedTo(program))) return;
    const heat = page.heat[rip & 0xfff] as number;
    programs.grant(program, hotAfter === Infinity || heat >= NEVER >>> 1 ? FOREVER : page.waiting.has(rip) ? A_FEW : Math.max(1, heatNeeded(page, rip) - heat));
  }

  /** The program of the block at rip is found in the jump cache from now on; false: there is none. */
  function interpretable(made: ProgramMaker, page: CodePage, rip: number): boolean {
    let program = page.programs.get(rip);
    if (program === undefined) {
      if (!made.hasRoom) {
        for (const list of pages.values()) for (const each of list) forgetPrograms(each);
        made.reset();
      }
      const { key } = page.known;
      const base = page.mfn * 4096;
      program = made.make({ rip, maddr: base + (rip & 0xfff), mode: key }, (vaddr) => host.lowerAt(base + (vaddr & 0xfff), vaddr, key, true), lukewarm);
      page.programs.set(rip, program);
      counters.programs++;
    }
    if (program === 0) return false;
    fillJumpCache(page, rip, PROGRAM_SLOT, program);
    return true;
  }
  function forgetPrograms(page: CodePage, from = 0, to = 4096): void {
    for (const [rip, program] of page.programs) {
      const start = rip & 0xfff;
      if (start >= to || start + (programs as ProgramMaker).codeBytes(program) <= from) continue;
      jumps.forget(rip, PROGRAM_SLOT);
      page.programs.delete(rip);
    }
  }

  /** The entry at rip was reached from outside very often: are its partners in the same page? */
  function join(known: KnownMode): void {
    const rip = ripNow();
    const page = pageOf(word(STATE.fetchMaddr) >>> 12, addressPage(rip), known);
    const entry = page.entryOf.get(rip);
    if (page.regroups < MAX_REGROUPS && page.functions.filter((fn) => usedMuch(fn)).length > 1) flush(page);
    else if (entry !== undefined) jumps.dropHopLimit(rip);
  }

  function step(inMiddle: boolean, executions: number): Step {
    const known = modeOf(word(STATE.mode));
    if (!known.mode.translatable) return STEP.cold;
    const rip = ripNow();
    const mfn = word(STATE.fetchMaddr) >>> 12;
    if ((word(STATE.eflagsRest) & EFLAGS.TF) !== 0 || word(STATE.shadow) !== 0) {
      budgetShort = false;
      return STEP.evaluateOne;
    }
    if (budgetShort) {
      budgetShort = false;
      return STEP.cold;
    }
    if (!jumps.finds(rip, keyOf(mfn, known))) {
      const page = pageOf(mfn, addressPage(rip), known);
      let entry = page.entryOf.get(rip);
      const made = entry === undefined && known.mode.interpretable ? maker() : undefined;
      if (made === undefined || !interpretable(made, page, rip)) {
        if (entry === undefined) {
          if (inMiddle || !warmUp(page, rip, executions)) return made === undefined ? STEP.cold : STEP.evaluateOne;
          entry = page.entryOf.get(rip) as NonNullable<typeof entry>;
        }
        fillJumpCache(page, rip, entry.fn.slot, entry.label);
      }
    }
    counters.entered++;
    known.dispatcher ??= dispatcherFor(known.mode);
    const left = known.dispatcher.run(known.mode.user ? TLB.execUser : TLB.execSup, known.number);
    if (left === LEFT.stop) return STEP.stopped;
    if (left === LEFT.hops) join(known);
    else if (left === LEFT.warm) warmed(known);
    else if (left === LEFT.short) budgetShort = true;
    return STEP.ran;
  }

  function invalidate(mfn: number, from: number, to: number): void {
    const whole = from === 0 && to === 4096;
    let any = false;
    const drop = (page: CodePage, hit: (fn: PageFunction) => boolean): void => {
      const gone = page.functions.filter(hit);
      if (gone.length === 0) return;
      any = true;
      for (const fn of gone) forget(page, fn);
      page.functions = page.functions.filter((fn) => !gone.includes(fn));
    };
    for (const page of pages.get(mfn) ?? []) {
      drop(page, (fn) => whole || fn.bytes.some((start, i) => i % 2 === 0 && start < to && (fn.bytes[i + 1] as number) > from));
      forgetPrograms(page, from, to);
      if (whole) pending = pending.filter((one) => one.page !== page);
    }
    if (whole) pages.delete(mfn);
    // Instructions that begin in the page before.
    if (from < MAX_INSN_BYTES) {
      for (const page of reachingInto.get(mfn) ?? []) drop(page, () => true);
      reachingInto.delete(mfn);
    }
    lastPage = undefined;
    if (any) {
      counters.invalidated++;
      thrown.set(mfn, (thrown.get(mfn) ?? 0) + (whole ? 1 : 0.25));
    }
  }

  function reset(): void {
    jumps.reset();
    for (let slot = 1; slot < nextSlot; slot++) table.set(slot, null);
    pages = new Map();
    reachingInto.clear();
    lastPage = undefined;
    freeSlots = [];
    pending = [];
    waited = 0;
    nextSlot = 1;
    budgetShort = false;
    programs?.reset();
  }

  return { step, invalidate, reset, counters, interpretedInsns: () => programs?.performedInsns ?? 0 };
}

function bytesOf(region: Region): number[] {
  return region.blocks.flatMap(({ vaddr, insns }) => {
    const last = insns[insns.length - 1] as (typeof insns)[number];
    const start = vaddr & 0xfff;
    return [start, start + (last.vaddr - vaddr) + last.lowered.lengthBytes];
  });
}
