// What the families of the conformance corpus share: the state a script runs in, and the shape of
// an operation. Each family contributes rows of operations (conform-mm.ts, conform-evtchn.ts,
// conform-gnttab.ts); the runner (conform.ts) looks them up by the `op` field.
import { UsageError } from '../base/assert.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';

/** A 64-bit word as halves. */
export interface Word {
  readonly lo: number;
  readonly hi: number;
}

/** An argument register: a number (exact below 2^53, negative ones sign-extended), or 64 bits as halves. */
export type Argument = number | Word;

/** One operation of a script, as it stands in the file. */
export interface ScriptOp {
  readonly op: string;
  readonly [field: string]: unknown;
}

/** The domain died, or its kernel got an exception that it could not handle: no answer. */
export class ConformCrash {
  readonly what: 'domain_crash' | 'hang';
  constructor(what: 'domain_crash' | 'hang') {
    this.what = what;
  }
}

export interface ConformContext {
  readonly hv: Hypervisor;
  /** d1, who runs the script, and its vCPU; d2 is idle. */
  readonly d1: Domain;
  readonly vcpu: Vcpu;
  readonly d2: Domain;
  readonly wide: boolean;
  /** Frame numbers by name (f0.., live_l1, gnttab, shared_info, foreign, ...); n0.. join by success. */
  readonly mfns: Map<string, number>;
  /** Names by frame number, for answers. */
  readonly names: Map<number, string>;

  // -- notation of FORMAT section 4 --
  /** `f3`, `vga`, `n0`, `0`: a frame number. */
  frame(name: string): number;
  /** `f3:63`, `-:7`, `raw:…`, `0`: a word. */
  word(text: string): Word;
  /** A word as text: `f3:10000000000067`. */
  text(word: Word): string;
  /** `v3+8`, `@0.511.3`, `kernel`, `null`, `va:…`: a guest address. */
  vaddr(text: string): number;
  /** `f3[7]+2`: a machine address. */
  maddr(text: string): Word;
  /** `self`, `d2`, `io`, ...: a domain id. */
  domId(name: string): number;

  // -- argument structures, in the guest's kernel page --
  /** Reserves zeroed bytes there and gives their guest address; forgotten at the next operation. */
  scratch(sizeBytes: number): number;
  /** Machine address behind a scratch address, to fill and to read back. */
  scratchMaddr(vaddr: number): number;
  /** Runs a hypercall (continuations included) and gives its return code. Throws ConformCrash. */
  call(number: number, args: readonly Argument[]): number;
  /** Names of frames that the script gave back to Xen: `gone` in `final`. */
  readonly returned: Set<string>;
  /** Free for a family's own state during one script. */
  readonly notes: Map<string, unknown>;
}

/** Performs one operation and gives its answer in the corpus's form. */
export type ConformOp = (context: ConformContext, op: ScriptOp) => unknown;

/** A hypercall made ready: it can be issued alone or as an element of a multicall. */
export interface PreparedCall {
  readonly number: number;
  readonly args: readonly Argument[];
  /** The answer in the corpus's form, from the return code and what the call left in guest memory. */
  readonly finish: (rc: number) => unknown;
}
export type ConformCall = (context: ConformContext, op: ScriptOp) => PreparedCall;

export interface ConformFamily {
  /** Operations that are one hypercall each (these may stand in a `multi`). */
  readonly calls?: Readonly<Record<string, ConformCall>>;
  /** All others: memory accesses, several steps. */
  readonly ops: Readonly<Record<string, ConformOp>>;
  /** Initial state of that family (FORMAT sections 3, 8, 9), after the memory of both domains is built. */
  readonly setup?: (context: ConformContext) => void;
  /** Adds to `final` what the family records there. */
  readonly final?: (context: ConformContext, final: Record<string, unknown>) => void;
}

/** The number of a command that a script names. */
export function commandOf<T>(table: Readonly<Record<string, T>>, name: unknown): T {
  const found = Object.hasOwn(table, String(name)) ? table[String(name)] : undefined;
  if (found === undefined) throw new UsageError(`a conformance script names the command ${JSON.stringify(name)}, which this format does not know; it knows ${Object.keys(table).join(', ')}`);
  return found;
}
