// What the translator asks of the processor, what it can be told, and what it counts.
import type { MachineMemory } from '../../machine/memory.ts';
import type { Lowered } from '../lower.ts';
import type { SegmentKind } from './frame.ts';
import type { WalkerPlaces } from './page-walker.ts';

/** What a mode key means for translation. */
export interface TranslatorMode {
  /** False: code in this mode is always evaluated (16-bit, code segment with a base, ...). */
  readonly translatable: boolean;
  readonly user: boolean;
  /** Long mode: 64-bit or compatibility code. */
  readonly long: boolean;
  /** The second set of translations (Cpu.switchTables). */
  readonly second: boolean;
  /** 64-bit code, which block programs can be made of. */
  readonly interpretable: boolean;
  /** Inclusive limit of the code segment; Infinity for 64-bit code. */
  readonly codeLimit: number;
  readonly segments: readonly SegmentKind[];
}

/** What the translator needs of the processor. */
export interface TranslatorHost {
  readonly machine: MachineMemory;
  readonly stateBase: number;
  /** Of both sets of translations: where they are, and what walks fill them from. */
  readonly places: readonly [WalkerPlaces, WalkerPlaces];
  /** Decodes and lowers (`once`: the caller keeps what it makes of it), and marks the bytes as code (code-frames.ts). Undefined: undecodable, or they cross the page's end. */
  lowerAt(maddr: number, vaddr: number, mode: number, once: boolean): Lowered | undefined;
  /** The same for an instruction that goes on in the next page, if the TLB maps that page for this mode now. */
  lowerCrossing(maddr: number, vaddr: number, mode: number): { readonly lowered: Lowered; readonly nextMaddr: number } | undefined;
  mode(key: number): TranslatorMode;
  /** Fills the TLB as a data access of the current privilege does; the address in linear memory, or 0: evaluate. */
  slowRead(vaddr: number, sizeBytes: number): number;
  slowWrite(vaddr: number, sizeBytes: number): number;
  /** Milliseconds, for the profile. */
  readonly clock?: (() => number) | undefined;
}

export interface TranslatorCounters {
  regionsTranslated: number;
  modulesCompiled: number;
  insnsTranslated: number;
  translateMs: number;
  /** Blocks that became programs. */
  programs: number;
  /** Times translated code was entered from TypeScript. */
  entered: number;
  invalidated: number;
}

export interface TranslatorOptions {
  /** Executions of a block before it is translated. */
  readonly hotAfter?: number;
  /** Entries that are translated together; 1: at once. */
  readonly batch?: number;
  /** For tests: code that keeps changing does not have to get hotter, and neither has the middle of a region. */
  readonly eager?: boolean;
  /** False: cold 64-bit code is evaluated, as all other cold code is. */
  readonly interpret?: boolean;
  /** Regions that can exist at a time. */
  readonly tableSlots?: number;
}
