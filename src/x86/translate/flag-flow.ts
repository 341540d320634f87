// Two small analyses over a region that keep status flags cheap: which producer is in force where a block
// begins, and which producers inside a block nobody can see.
import type { Expr, Stmt } from '../ir.ts';
import type { Block, Region } from './region.ts';
import { IMAGE_OP, type KnownFlags, sameKnown } from './statement.ts';

/** The producer in force after the statements; undefined: depends on the path. */
export function knownAfter(stmts: readonly Stmt[], before: KnownFlags | undefined): KnownFlags | undefined {
  let known = before;
  for (const s of stmts) {
    if (s.do === 'setFlags') known = { op: s.op, width: s.width };
    else if (s.do === 'setFlagBits' || s.do === 'setEflags' || (s.do === 'system' && s.quick?.into === 'flags')) known = { op: IMAGE_OP, width: 32 };
    else if (s.do === 'if') {
      const then = knownAfter(s.then, known);
      const otherwise = knownAfter(s.else ?? [], known);
      known = sameKnown(then, otherwise) ? then : undefined;
    }
  }
  return known;
}

/** For each block, the producer in force at its start, if it is the same on every path. */
export function knownAtStart(region: Region, successors: readonly (readonly number[])[]): (KnownFlags | undefined)[] {
  type Cell = { seen: boolean; known: KnownFlags | undefined };
  const cells: Cell[] = region.blocks.map(() => ({ seen: false, known: undefined }));
  const work: number[] = [];
  for (const entry of region.entries) {
    (cells[entry] as Cell).seen = true;
    work.push(entry);
  }
  while (work.length > 0) {
    const node = work.pop() as number;
    const block = region.blocks[node] as Block;
    let after = (cells[node] as Cell).known;
    for (const { lowered } of block.insns) {
      const start = after;
      after = knownAfter(lowered.stmts, start);
      // A string instruction may repeat no time at all.
      if (lowered.rep !== undefined && !sameKnown(after, start)) after = undefined;
    }
    for (const to of successors[node] as readonly number[]) {
      const cell = cells[to] as Cell;
      if (!cell.seen) {
        cell.seen = true;
        cell.known = after;
        work.push(to);
      } else if (cell.known !== undefined && !sameKnown(cell.known, after)) {
        cell.known = undefined;
        work.push(to);
      }
    }
  }
  return cells.map((cell) => cell.known);
}

/**
 * Top-level producers that are overwritten before any use and any possible exit: for each instruction of the
 * block, those of its statements. (By instruction, since instructions of equal bytes share their statements.)
 */
export function deadProducers(block: Block): readonly ReadonlySet<Stmt>[] {
  const dead = block.insns.map(() => new Set<Stmt>());
  if (block.end.kind === 'repeat') return dead;
  let pending: { readonly stmt: Stmt; readonly insn: number } | undefined;
  block.insns.forEach(({ lowered, nextMaddr }, insn) => {
    // An instruction that crosses into the next page may leave the region before anything of it happens.
    if (nextMaddr !== undefined) pending = undefined;
    for (const stmt of lowered.stmts) {
      if (pending !== undefined && seesFlags(stmt)) pending = undefined;
      if (stmt.do !== 'setFlags') continue;
      if (pending !== undefined) dead[pending.insn]?.add(pending.stmt);
      pending = { stmt, insn };
    }
  });
  return dead;
}

function seesFlags(s: Stmt): boolean {
  switch (s.do) {
    case 'let':
    case 'setReg':
      return readsFlags(s.value);
    case 'setFlags':
      return readsFlags(s.a) || readsFlags(s.b) || readsFlags(s.r);
    case 'setDf':
    case 'setXmm':
    case 'setMm':
    case 'enterMmx':
      return false;
    default:
      return true; // may leave the region, or merges
  }
}

function readsFlags(e: Expr): boolean {
  switch (e.tag) {
    case 'flag':
    case 'cond':
    case 'eflags':
      return true;
    case 'bin':
    case 'cmp':
      return readsFlags(e.a) || readsFlags(e.b);
    case 'un':
    case 'zext':
    case 'sext':
    case 'trunc':
      return readsFlags(e.a);
    case 'select':
      return readsFlags(e.cond) || readsFlags(e.then) || readsFlags(e.else);
    default:
      return false;
  }
}
