// Regions: which instructions are translated together. A region holds blocks of one page (one vpn on one
// machine page), reached from its entries by direct jumps, branches, calls and fall-through. Inside, the current
// fetch page cannot change, so nothing needs to be looked up (law 1 of the room).
//
// Blocks that were never executed stay out: the edge to them leaves the region, and if they turn out to be
// hot the region is made anew with them. Where a call returns to, and what follows an instruction that only
// the evaluator can perform, become entries.
import { inCanonicalRange } from '../address.ts';
import { EFLAGS } from '../flags.ts';
import type { Expr, Stmt } from '../ir.ts';
import type { Lowered } from '../lower.ts';
import { isInline } from './float.ts';
import { SEG } from '../state-layout.ts';
import type { SegmentKind } from './frame.ts';

export interface RegionInsn {
  readonly vaddr: number;
  readonly lowered: Lowered;
  /** Its last bytes are on the next page, which must be mapped to this machine page. */
  readonly nextMaddr?: number;
}

export type BlockEnd =
  /** Jumps (or falls through, or calls) to one place. */
  | { readonly kind: 'goto'; readonly target: number }
  /** The last statement of the last instruction is a branch. */
  | { readonly kind: 'branch'; readonly cond: Expr; readonly target: number; readonly next: number }
  /** The target is computed; it is evaluated before the instruction's other effects. */
  | { readonly kind: 'indirect'; readonly target: Expr }
  /** The instruction at `vaddr` is the evaluator's. */
  | { readonly kind: 'stop'; readonly vaddr: number }
  /** A string instruction that repeats (the block's only one), then goes on. */
  | { readonly kind: 'repeat'; readonly next: number };

export interface Block {
  readonly vaddr: number;
  readonly insns: readonly RegionInsn[];
  readonly end: BlockEnd;
}

export interface Region {
  readonly blocks: readonly Block[];
  /** Index into blocks by linear address. */
  readonly at: ReadonlyMap<number, number>;
  /** Blocks that the dispatcher can enter. */
  readonly entries: readonly number[];
  /** True if a jump or return in it has a computed target. */
  readonly hasIndirect: boolean;
}

export interface RegionSource {
  /** Linear address of the page (4 KiB aligned). */
  readonly pageVaddr: number;
  lowerAt(vaddr: number): Omit<RegionInsn, 'vaddr'> | undefined;
  /** Was a block that starts here ever executed? */
  executed(vaddr: number): boolean;
  /** Is this an entry of another region of the page? Jumps to it leave this one instead of copying it. */
  elsewhere(vaddr: number): boolean;
  /** Must this stay an entry although other blocks of the region lead to it? */
  sticky(vaddr: number): boolean;
  readonly maxInsns: number;
  readonly segments: readonly SegmentKind[];
  /** Infinity: 64-bit code, which must stay canonical. */
  readonly codeLimit: number;
  readonly long: boolean;
}

/** Instructions per block at most, so that small budgets seldom leave a block to the evaluator. */
const MAX_BLOCK_INSNS = 64;

/** What the last statement of an instruction does to control flow. */
export type Flow = 'next' | 'jump' | 'branch' | 'stop';

export function flowOf(lowered: Lowered, source: Pick<RegionSource, 'segments' | 'codeLimit'>): Flow {
  const last = lowered.stmts[lowered.stmts.length - 1];
  if (last === undefined) return 'next';
  if (!lowered.stmts.every((s) => performable(s, source))) return 'stop';
  if (last.do !== 'jump' && last.do !== 'branch') return lowered.stmts.some((s) => s.do === 'jump' || s.do === 'branch') ? 'stop' : 'next';
  if (last.target.tag === 'const') {
    const target = targetOf(last.target);
    return target > source.codeLimit || !inCanonicalRange(target) ? 'stop' : last.do;
  }
  return last.do === 'jump' ? 'jump' : 'stop';
}

/** A constant target as an address. */
function targetOf({ value, width }: Extract<Expr, { tag: 'const' }>): number {
  return width === 64 ? Number(BigInt.asIntN(64, BigInt(value))) : Number(value);
}

/** Can the statement be translated? */
function performable(s: Stmt, source: Pick<RegionSource, 'segments'>): boolean {
  switch (s.do) {
    case 'system': {
      const { mem, writes } = s.quick ?? {};
      return s.quick !== undefined && (mem === undefined || (source.segments[mem.seg] !== 'never' && !(writes === true && mem.seg === SEG.cs)));
    }
    case 'float':
      return isInline(s);
    case 'setEflags':
      // Setting TF changes how the next instruction ends: single steps are the evaluator's.
      return s.mask.tag === 'const' && (Number(s.mask.value) & EFLAGS.TF) === 0;
    case 'load':
      return source.segments[s.mem.seg] !== 'never' && !(s.forWrite === true && s.mem.seg === SEG.cs);
    case 'store':
    case 'probe':
      return source.segments[s.mem.seg] !== 'never' && s.mem.seg !== SEG.cs;
    case 'if':
      return [...s.then, ...(s.else ?? [])].every((inner) => inner.do !== 'jump' && inner.do !== 'branch' && performable(inner, source));
    default:
      return true;
  }
}

/** Finds the blocks reachable from the entries; undefined if there is nothing to translate at any of them. */
export function discover(source: RegionSource, entries: readonly number[]): Region | undefined {
  const insnAt = new Map<number, RegionInsn | undefined>();
  const leaders = new Set<number>(entries);
  const dispatched = new Set<number>(entries.filter((vaddr) => source.sticky(vaddr)));
  const inPage = (vaddr: number): boolean => Math.floor(vaddr / 4096) * 4096 === source.pageVaddr;
  const after = (vaddr: number, lengthBytes: number): number => (source.long ? vaddr + lengthBytes : (vaddr + lengthBytes) >>> 0);
  // 1. Walk from every leader, noting instructions and further leaders.
  const work = [...entries];
  const lead = (vaddr: number): void => {
    if (!inPage(vaddr) || leaders.has(vaddr) || source.elsewhere(vaddr)) return;
    leaders.add(vaddr);
    work.push(vaddr);
  };
  let count = 0;
  while (work.length > 0) {
    let vaddr = work.shift() as number;
    for (;;) {
      if (insnAt.has(vaddr) || !inPage(vaddr) || (source.elsewhere(vaddr) && !leaders.has(vaddr))) break;
      const found = count < source.maxInsns ? source.lowerAt(vaddr) : undefined;
      insnAt.set(vaddr, found === undefined ? undefined : { vaddr, ...found });
      if (found === undefined) break;
      const { lowered } = found;
      count++;
      const next = after(vaddr, lowered.lengthBytes);
      const flow = flowOf(lowered, source);
      if (lowered.rep !== undefined) {
        leaders.add(vaddr);
        lead(next);
        break;
      }
      const last = lowered.stmts[lowered.stmts.length - 1];
      if (flow === 'stop') {
        if (source.executed(next)) dispatchTo(next);
        break;
      }
      if (last !== undefined && (last.do === 'jump' || last.do === 'branch')) {
        if (last.target.tag === 'const') {
          const target = targetOf(last.target);
          if (last.do === 'jump' || source.executed(target)) lead(target);
        }
        if (last.do === 'branch' && source.executed(next)) lead(next);
        if (last.do === 'jump' && last.how === 'call' && source.executed(next)) dispatchTo(next);
        break;
      }
      vaddr = next;
    }
  }
  function dispatchTo(vaddr: number): void {
    if (!inPage(vaddr) || source.elsewhere(vaddr)) return;
    dispatched.add(vaddr);
    lead(vaddr);
  }
  // 2. Cut the instructions into blocks at the leaders.
  const blocks: Block[] = [];
  const at = new Map<number, number>();
  let hasIndirect = false;
  const starts = [...leaders];
  for (let i = 0; i < starts.length; i++) {
    const start = starts[i] as number;
    if (at.has(start) || insnAt.get(start) === undefined) continue;
    const insns: RegionInsn[] = [];
    let vaddr = start;
    let end: BlockEnd | undefined;
    while (end === undefined) {
      const insn = insnAt.get(vaddr);
      if (insn === undefined) {
        end = insns.length > 0 ? { kind: 'goto', target: vaddr } : { kind: 'stop', vaddr };
        break;
      }
      const { lowered } = insn;
      if (insns.length > 0 && (leaders.has(vaddr) || lowered.rep !== undefined || insns.length === MAX_BLOCK_INSNS)) {
        if (!leaders.has(vaddr)) {
          leaders.add(vaddr);
          starts.push(vaddr);
        }
        end = { kind: 'goto', target: vaddr };
        break;
      }
      const next = after(vaddr, lowered.lengthBytes);
      const last = lowered.stmts[lowered.stmts.length - 1];
      const flow = flowOf(lowered, source);
      if (flow === 'stop') {
        end = { kind: 'stop', vaddr };
        break;
      }
      insns.push(insn);
      if (lowered.rep !== undefined) end = { kind: 'repeat', next };
      else if (last?.do === 'jump') {
        if (last.target.tag === 'const') end = { kind: 'goto', target: targetOf(last.target) };
        else {
          end = { kind: 'indirect', target: last.target };
          hasIndirect = true;
        }
      } else if (last?.do === 'branch') end = { kind: 'branch', cond: last.cond, target: targetOf(last.target as Extract<Expr, { tag: 'const' }>), next };
      vaddr = next;
    }
    if (insns.length === 0) continue; // the evaluator's
    at.set(start, blocks.length);
    blocks.push({ vaddr: start, insns, end });
  }
  const nodesOf = (vaddrs: Iterable<number>): number[] => [...vaddrs].map((vaddr) => at.get(vaddr)).filter((node) => node !== undefined);
  const kept = chooseEntries(successorsOf(blocks, at), nodesOf(dispatched), nodesOf(entries));
  if (kept.length === 0) return undefined;
  return { blocks, at, entries: kept, hasIndirect };
}

/**
 * Entries into the middle of a loop make it slow, so an entry that others lead to is not kept: if the dispatcher
 * does need it, it will become hot again and stay. Adds to `fixed` as few of `wanted` as reach them all.
 */
function chooseEntries(successors: readonly (readonly number[])[], fixed: readonly number[], wanted: readonly number[]): number[] {
  const reach = (from: readonly number[]): Set<number> => {
    const seen = new Set(from);
    const work = [...from];
    for (let node = work.pop(); node !== undefined; node = work.pop()) {
      for (const to of successors[node] as readonly number[]) {
        if (seen.has(to)) continue;
        seen.add(to);
        work.push(to);
      }
    }
    return seen;
  };
  const kept = [...fixed];
  const covered = reach(kept);
  let open = wanted.filter((node) => !covered.has(node)).sort((a, b) => a - b);
  const reaches = new Map(open.map((node) => [node, reach([node])]));
  while (open.length > 0) {
    const leads = (from: number, to: number): boolean => (reaches.get(from) as Set<number>).has(to);
    const first = open.find((node) => open.every((other) => !leads(other, node) || leads(node, other))) as number;
    kept.push(first);
    open = open.filter((node) => !leads(first, node));
  }
  return kept;
}

/** Where control may go inside the region. */
export const successors = (region: Region): number[][] => successorsOf(region.blocks, region.at);

function successorsOf(blocks: readonly Block[], at: ReadonlyMap<number, number>): number[][] {
  return blocks.map(({ end }) => {
    const targets = end.kind === 'goto' ? [end.target] : end.kind === 'branch' ? [end.target, end.next] : end.kind === 'repeat' ? [end.next] : [];
    return [...new Set(targets.map((t) => at.get(t)).filter((node) => node !== undefined))];
  });
}
