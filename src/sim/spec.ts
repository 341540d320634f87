// A world as data. Everything that decides how a run goes is in here or in the seed: a recording
// carries the spec in its header, so that a replay needs no scenario file.
import type { DiskConfig, VifConfig } from '../dom0/device-spec.ts';
import type { ToolstackCommand } from '../dom0/toolstack.ts';

import type { ModelGuest } from '../guest/index.ts';

/** A file that a world needs, known by name and content. */
export interface ImageRef {
  /** As the user or scenario named it: a name known to `rexen fetch`, or a path. */
  readonly name: string;
  /** SHA-256 of the content, hex; filled in when the image is resolved. */
  readonly sha256?: string;
  readonly sizeBytes?: number;
}

/** A disk of a domain. The image is never changed: what the guest writes goes to an overlay. */
export interface DiskSpec extends DiskConfig {
  /** A file, or `blank:SIZE` (blank:64MiB): nothing but zeros. */
  readonly image: ImageRef;
}

export interface DomainSpec {
  readonly name: string;
  /** A model guest has no file: the name is for reports then. */
  readonly kernel: ImageRef;
  /** A guest written in TypeScript, in the place of a kernel image. */
  readonly model?: ModelGuest;
  readonly ramdisk?: ImageRef;
  readonly cmdline: string;
  readonly memoryMib: number;
  /** In the order in which the toolstack gives them. */
  readonly disks?: readonly DiskSpec[];
  /** vif0, vif1, ... */
  readonly vifs?: readonly VifConfig[];
}

/** Types text on a domain's console, or tells the toolstack something, once the console has printed something. */
export interface InputStep {
  readonly domain: string;
  /** Waits until this text appears in the console output that came after the previous step. '' waits for nothing. */
  readonly after: string;
  /** Virtual time between the text and the first key. */
  readonly delayNs?: number;
  readonly send?: string;
  /** Instead of keys: what `xl` is asked to do with the domain. */
  readonly command?: ToolstackCommand;
}

export interface WorldSpec {
  readonly domains: readonly DomainSpec[];
  readonly input: readonly InputStep[];
  /** World time per retired instruction, a rational: ns = insns * num / den. */
  readonly nsPerInsn: { readonly num: number; readonly den: number };
  /** Instructions a vCPU runs at most before the scheduler looks again. */
  readonly timesliceInsns: number;
  /** The run ends with outcome `limit` after this many instructions of all vCPUs together. */
  readonly maxInstructions: number;
  readonly xenBuild: 'debug' | 'release';
  /** A state digest goes into the log about every so many instructions; 0 = none. */
  readonly digestEveryInsns: number;
  /** Wall clock at virtual time zero, seconds since 1970. */
  readonly wallClockAtZeroSec: number;
}

export const DEFAULT_MAX_INSTRUCTIONS = 20_000_000_000;
export const SPEC_DEFAULTS = {
  input: [],
  nsPerInsn: { num: 1, den: 1 },
  timesliceInsns: 1_000_000,
  maxInstructions: DEFAULT_MAX_INSTRUCTIONS,
  xenBuild: 'release',
  digestEveryInsns: 100_000_000,
  wallClockAtZeroSec: 1_167_609_600, // 2007-01-01 00:00:00 UTC
} as const satisfies Omit<WorldSpec, 'domains'>;
