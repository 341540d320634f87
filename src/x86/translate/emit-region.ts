// One region as one WebAssembly function: label -> 0 (go on at rip) or 1 (the evaluator must go on at rip).
//
//    block $chain
//      block $stop
//        loop $dispatch                  only with several entries
//          block $indirect
//            ... nested shapes of blocks (structure.ts) ...
//          end
//          target in this region? label := its label, continue $dispatch
//          br $chain
//      end
//      result := 1
//    end
//    spill, return result
//
// Every block first pays for its instructions: a block that the budget does not cover is not begun.
import { nextPageOf } from '../address.ts';
import type { Expr, Stmt } from '../ir.ts';
import { TLB, TLB_ENTRIES, TLB_ENTRY_BYTES } from '../tlb-layout.ts';
import { type CodeBuffer, OP } from './code-buffer.ts';
import { deadProducers, knownAtStart } from './flag-flow.ts';
import { Frame, LOCAL, type Target } from './frame.ts';
import { JUMP_CACHE } from './jump-cache.ts';
import { type Block, type BlockEnd, type Region, successors } from './region.ts';
import { emitRepeat } from './repeat.ts';
import { StatementEmitter } from './statement.ts';
import { type Shape, structure } from './structure.ts';

/** Where the region will live. */
export interface Placement {
  /** Its slot of the dispatch table. */
  readonly slot: number;
  /** Linear address of the jump cache. */
  readonly jumpCacheBase: number;
  readonly pageVaddr: number;
}

export interface Emitted {
  readonly body: Uint8Array;
  /** By block: the block that heads the innermost loop around it, or itself. */
  readonly loopHeads: readonly number[];
}

/** Where a jump to a node goes at the current place. */
interface Destination {
  readonly depth: number;
  /** The label to set first, or -1. */
  readonly label: number;
}

class RegionEmitter {
  readonly #region: Region;
  readonly #f: Frame;
  readonly #c: CodeBuffer;
  readonly #statements: StatementEmitter;
  readonly #known;
  readonly #dispatched: boolean;
  #destinations = new Map<number, Destination>();
  /** Labels by node; region entries come first, in order. */
  readonly #labels = new Map<number, number>();

  constructor(region: Region, target: Target, code: CodeBuffer) {
    this.#region = region;
    this.#f = new Frame(code, target);
    this.#c = code;
    this.#statements = new StatementEmitter(this.#f);
    this.#dispatched = region.entries.length > 1;
    this.#known = knownAtStart(region, successors(region));
    region.entries.forEach((node, i) => this.#labels.set(node, i));
  }

  emit(placement: Placement): Emitted {
    const f = this.#f;
    const shapes = structure({ successors: successors(this.#region), entries: this.#region.entries }, this.#dispatched);
    f.chainDepth = f.open(OP.block);
    f.stopDepth = f.open(OP.block);
    if (this.#dispatched) {
      const outer = shapes[0] as Extract<Shape, { kind: 'loop' }>;
      const dispatch = f.open(OP.loop);
      f.indirectDepth = f.open(OP.block);
      // Jumps between blocks never come back to this outer loop; only the dispatcher and computed targets do.
      this.#list(outer.body, outer.heads, []);
      f.close();
      this.#indirect(placement, dispatch);
      f.close();
    } else {
      f.indirectDepth = f.chainDepth;
      this.#list(shapes, [], []);
    }
    f.close();
    this.#c.const32(1);
    this.#c.set(LOCAL.result);
    f.close();
    return { body: f.finish(this.#c.written()), loopHeads: loopHeadsOf(shapes, this.#region.blocks.length, this.#dispatched) };
  }

  /** After block $indirect: a computed target in LOCAL.target. */
  #indirect(placement: Placement, dispatch: number): void {
    const f = this.#f;
    const c = this.#c;
    if (this.#region.hasIndirect) {
      const at = LOCAL.label;
      const { long } = f.target;
      c.get(LOCAL.target);
      f.constWord(placement.pageVaddr);
      c.byte(long ? OP.i64_xor : OP.i32_xor);
      f.constWord(4096);
      c.byte(long ? OP.i64_lt_u : OP.i32_lt_u);
      f.open(OP.if);
      emitJumpCacheOffset(c, LOCAL.target, long);
      c.tee(at);
      c.memory(long ? OP.i64_load : OP.i32_load, placement.jumpCacheBase + JUMP_CACHE.rip);
      c.get(LOCAL.target);
      c.byte(long ? OP.i64_eq : OP.i32_eq);
      c.get(at);
      c.memory(OP.i32_load, placement.jumpCacheBase + JUMP_CACHE.slot);
      c.const32(placement.slot);
      c.byte(OP.i32_eq);
      c.byte(OP.i32_and);
      f.open(OP.if);
      c.get(at);
      c.memory(OP.i32_load, placement.jumpCacheBase + JUMP_CACHE.label);
      c.set(LOCAL.label);
      f.br(dispatch);
      f.close();
      f.close();
    }
    f.br(f.chainDepth);
  }

  #labelOf(node: number): number {
    const known = this.#labels.get(node);
    if (known !== undefined) return known;
    const label = this.#labels.size;
    this.#labels.set(node, label);
    return label;
  }

  /** The inside of a loop that was just opened at `depth`. */
  #enterLoop(shape: Extract<Shape, { kind: 'loop' }>, depth: number): void {
    const saved = this.#destinations;
    this.#destinations = new Map(saved);
    const several = shape.heads.length > 1;
    for (const head of shape.heads) this.#destinations.set(head, { depth, label: several ? this.#labelOf(head) : -1 });
    this.#list(shape.body, several ? shape.heads : [], shape.heads);
    this.#destinations = saved;
  }

  /**
   * A list of shapes in topological order: each can be reached by leaving the block that ends before it.
   * `byLabel`: nodes among which LOCAL.label selects at the start. `continued`: nodes reached by continuing the loop around.
   */
  #list(shapes: readonly Shape[], byLabel: readonly number[], continued: readonly number[]): void {
    const f = this.#f;
    const c = this.#c;
    const saved = this.#destinations;
    this.#destinations = new Map(saved);
    const first = byLabel.length > 0 ? 0 : 1;
    const depthOf: number[] = [];
    for (let i = shapes.length - 1; i >= first; i--) {
      const shape = shapes[i] as Shape;
      const depth = f.open(OP.block);
      depthOf[i] = depth;
      if (shape.kind === 'block') {
        if (!continued.includes(shape.node)) this.#destinations.set(shape.node, { depth, label: -1 });
      } else {
        const several = shape.heads.length > 1;
        for (const head of shape.heads) {
          if (!continued.includes(head)) this.#destinations.set(head, { depth, label: several ? this.#labelOf(head) : -1 });
        }
      }
    }
    if (byLabel.length > 0) {
      const size = Math.max(...byLabel.map((node) => this.#labelOf(node))) + 1;
      const depths = new Array<number>(size + 1).fill(depthOf[0] as number);
      for (const node of byLabel) {
        const item = shapes.findIndex((shape) => (shape.kind === 'block' ? shape.node === node : shape.heads.includes(node)));
        depths[this.#labelOf(node)] = depthOf[item] as number;
      }
      c.get(LOCAL.label);
      c.byte(OP.br_table);
      c.u32(size);
      for (const depth of depths) c.u32(f.depth - depth);
    }
    shapes.forEach((shape, i) => {
      if (i >= first) f.close();
      if (shape.kind === 'block') this.#block(shape.node);
      else {
        const depth = f.open(OP.loop);
        this.#enterLoop(shape, depth);
        f.close();
      }
    });
    this.#destinations = saved;
  }

  #goto(vaddr: number): void {
    const f = this.#f;
    const node = this.#region.at.get(vaddr);
    const destination = node === undefined ? undefined : this.#destinations.get(node);
    if (destination === undefined) {
      f.exitTo(f.chainDepth, vaddr, 0);
      return;
    }
    if (destination.label >= 0) {
      this.#c.const32(destination.label);
      this.#c.set(LOCAL.label);
    }
    f.br(destination.depth);
  }

  #block(node: number): void {
    const f = this.#f;
    const c = this.#c;
    const statements = this.#statements;
    const block = this.#region.blocks[node] as Block;
    const { insns, end } = block;
    statements.enter(this.#known[node]);
    if (end.kind === 'repeat') {
      emitRepeat(f, statements, block.insns[0] as Block['insns'][number]);
      return this.#goto(end.next);
    }
    const dead = deadProducers(block);
    if (insns.length > 0) {
      c.get(LOCAL.budget);
      c.const32(insns.length);
      c.byte(OP.i32_sub);
      c.tee(LOCAL.budget);
      c.const32(0);
      c.byte(OP.i32_lt_s);
      f.open(OP.if);
      f.exitTo(f.stopDepth, block.vaddr, insns.length);
      f.close();
    }
    insns.forEach(({ vaddr, lowered, nextMaddr }, i) => {
      statements.begin({ vaddr, giveBack: insns.length - i });
      if (nextMaddr !== undefined) this.#nextPage(vaddr, nextMaddr, insns.length - i);
      let unchecked = end.kind === 'indirect' && i === insns.length - 1 && f.target.codeLimit !== 0xffffffff;
      for (const s of lowered.stmts) {
        if (unchecked && s.do !== 'let' && s.do !== 'load') {
          // Nothing has happened yet: a target beyond the code segment is the evaluator's fault to raise.
          unchecked = false;
          this.#targetBeyond((end as Extract<BlockEnd, { kind: 'indirect' }>).target);
          f.open(OP.if);
          f.exitTo(f.stopDepth, vaddr, insns.length - i);
          f.close();
        }
        if (s.do !== 'jump' && s.do !== 'branch') statements.statement(s, dead[i] as ReadonlySet<Stmt>);
      }
    });
    switch (end.kind) {
      case 'goto':
        return this.#goto(end.target);
      case 'branch': {
        statements.expr(end.cond);
        const node = this.#region.at.get(end.target);
        const destination = node === undefined ? undefined : this.#destinations.get(node);
        if (destination !== undefined && destination.label < 0) f.brIf(destination.depth);
        else {
          f.open(OP.if);
          this.#goto(end.target);
          f.close();
        }
        return this.#goto(end.next);
      }
      case 'indirect':
        statements.word(end.target);
        c.set(LOCAL.target);
        return f.br(f.indirectDepth);
      case 'stop':
        return f.exitTo(f.stopDepth, end.vaddr, 0);
    }
  }

  /** Pushes 1 if the code segment does not reach there; of 64-bit code, if it is not canonical. */
  #targetBeyond(target: Expr): void {
    const c = this.#c;
    const { codeLimit } = this.#f.target;
    this.#statements.expr(target);
    if (Number.isFinite(codeLimit)) {
      c.const32(codeLimit);
      c.byte(OP.i32_gt_u);
      return;
    }
    c.const64(16n);
    c.byte(OP.i64_shl);
    c.const64(16n);
    c.byte(OP.i64_shr_s);
    this.#statements.expr(target);
    c.byte(OP.i64_ne);
  }

  /** An instruction that goes on in the next page: the page must be executable and be the one that was decoded. */
  #nextPage(vaddr: number, nextMaddr: number, giveBack: number): void {
    const f = this.#f;
    const c = this.#c;
    const { tlbBase, user, long } = f.target;
    const next = nextPageOf(vaddr, long);
    const entry = tlbBase + ((next >>> 12) & (TLB_ENTRIES - 1)) * TLB_ENTRY_BYTES;
    c.const32(entry);
    c.memory(long ? OP.i64_load : OP.i32_load, user ? TLB.execUser : TLB.execSup);
    f.constWord(next);
    c.byte(long ? OP.i64_ne : OP.i32_ne);
    c.const32(entry);
    c.memory(OP.i32_load, TLB.maddr);
    c.const32(nextMaddr);
    c.byte(OP.i32_ne);
    c.byte(OP.i32_or);
    f.open(OP.if);
    f.exitTo(f.stopDepth, vaddr, giveBack);
    f.close();
  }
}

/** ((rip ^ rip >>> 12) & mask) << 5 of the rip in a local (an i64 in long mode). */
export function emitJumpCacheOffset(c: CodeBuffer, rip: number, long: boolean): void {
  const low = (): void => {
    c.get(rip);
    if (long) c.byte(OP.i32_wrap_i64);
  };
  low();
  low();
  c.const32(12);
  c.byte(OP.i32_shr_u);
  c.byte(OP.i32_xor);
  c.const32(JUMP_CACHE.entries - 1);
  c.byte(OP.i32_and);
  c.const32(5);
  c.byte(OP.i32_shl);
}

/** For each node, the head of the innermost loop around it (itself if there is none). */
function loopHeadsOf(shapes: readonly Shape[], count: number, dispatched: boolean): number[] {
  const heads = Array.from({ length: count }, (_, node) => node);
  const visit = (list: readonly Shape[], head: number): void => {
    for (const shape of list) {
      if (shape.kind === 'block') heads[shape.node] = head < 0 ? shape.node : head;
      else visit(shape.body, shape.heads[0] as number);
    }
  };
  const outer = shapes[0];
  visit(dispatched && outer?.kind === 'loop' ? outer.body : shapes, -1);
  return heads;
}

/** The body of the region's function; `scratch` is overwritten. */
export function emitRegion(region: Region, target: Target, placement: Placement, scratch: CodeBuffer): Emitted {
  scratch.reset();
  return new RegionEmitter(region, target, scratch).emit(placement);
}

