// A world as data. Everything that decides how a run goes is in here or in the seed: a recording
// carries the spec in its header, so that a replay needs no scenario file.
import { isFaultName, type FaultSpec } from '../abi/faults.ts';
import { isPlantedBug, type PlantedBug } from '../abi/planted.ts';
import type { DiskConfig, VifConfig } from '../dom0/device-spec.ts';
import type { BridgeSpec } from '../dom0/net/network-spec.ts';
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
  /** Up to which it may grow (xl's maxmem); default: what it has from the start. */
  readonly maxMemoryMib?: number;
  /** The last event channel port that the guest may have: the toolstack's max_event_channels. Default: 1023, as libxl's. */
  readonly maxEventChannels?: number;
  /** It is there for the other domains: the world ends without it. */
  readonly service?: boolean;
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
  /** Switches and their own hosts; a bridge that only an interface names needs no entry. */
  readonly bridges?: readonly BridgeSpec[];
  /** World time per retired instruction, a rational: ns = insns * num / den. */
  readonly nsPerInsn: { readonly num: number; readonly den: number };
  /** Instructions a vCPU runs at most before the scheduler looks again. */
  readonly timesliceInsns: number;
  /** The run ends with outcome `limit` after this many instructions of all vCPUs together. */
  readonly maxInstructions: number;
  /** Likewise after this much virtual time: a guest that only ever waits for its own timers comes to no other end. */
  readonly maxVirtualSec: number;
  readonly xenBuild: 'debug' | 'release';
  /** A state digest goes into the log about every so many instructions; 0 = none. */
  readonly digestEveryInsns: number;
  /** Wall clock at virtual time zero, seconds since 1970. */
  readonly wallClockAtZeroSec: number;
  /** What may go wrong. */
  readonly faults?: readonly FaultSpec[];
  /** A mistake to be found, of the paravirt_ops guest or of dom0's back ends. */
  readonly bug?: PlantedBug;
  /** Guests and back ends are to behave towards each other (conduct.ts): the run ends where one does not. */
  readonly conduct?: boolean;
}

export const DEFAULT_MAX_INSTRUCTIONS = 20_000_000_000;
/** A person at the console may take all the time that the clock can count exactly: 2^53 ns. */
/** Of the domains of a spec, in their order. */
export const FIRST_DOMID = 1;
export const MOST_VIRTUAL_SEC = 9_000_000;
export const DEFAULT_MAX_VIRTUAL_SEC = 3600;
export const SPEC_DEFAULTS = {
  input: [],
  nsPerInsn: { num: 1, den: 1 },
  timesliceInsns: 1_000_000,
  maxInstructions: DEFAULT_MAX_INSTRUCTIONS,
  maxVirtualSec: DEFAULT_MAX_VIRTUAL_SEC,
  xenBuild: 'release',
  digestEveryInsns: 100_000_000,
  wallClockAtZeroSec: 1_167_609_600, // 2007-01-01 00:00:00 UTC
} as const satisfies Omit<WorldSpec, 'domains'>;

const within = (value: unknown, least: number, most: number): boolean => typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most;
const isText = (value: unknown): boolean => typeof value === 'string';
const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> => typeof value === 'object' && value !== null;
const isImage = (value: unknown): boolean => isRecord(value) && isText(value['name']);
const isAbsentOr = (value: unknown, check: (value: unknown) => boolean): boolean => value === undefined || check(value);
const isFlag = (value: unknown): boolean => typeof value === 'boolean';
const isFeatures = (value: unknown): boolean =>
  isRecord(value) && isAbsentOr(value['maxIndirectSegments'], (count) => within(count, 0, 4096)) && isAbsentOr(value['maxRingPageOrder'], (order) => within(order, 0, 4)) &&
  ['persistentGrants', 'flush', 'barrier', 'discard'].every((name) => isAbsentOr(value[name], isFlag));
const isDisk = (value: unknown): boolean =>
  isRecord(value) && isText(value['vdev']) && isImage(value['image']) && (value['mode'] === 'r' || value['mode'] === 'w') && isAbsentOr(value['format'], (format) => format === 'raw') && isAbsentOr(value['cdrom'], isFlag) &&
  isAbsentOr(value['sectorBytes'], (bytes) => bytes === 512 || bytes === 4096) && isAbsentOr(value['features'], isFeatures) && isAbsentOr(value['plugged'], isFlag);
const isVif = (value: unknown): boolean =>
  isRecord(value) && isText(value['mac']) && isText(value['bridge']) && isAbsentOr(value['ip'], isText) && isAbsentOr(value['mtu'], (mtu) => within(mtu, 68, 65521)) && isAbsentOr(value['plugged'], isFlag);
const isListOf = (value: unknown, check: (value: unknown) => boolean): boolean => Array.isArray(value) && value.every(check);
const isHost = (value: unknown): boolean => isRecord(value) && isText(value['name']) && isAbsentOr(value['ip'], isText) && isAbsentOr(value['mac'], isText);
const isBridge = (value: unknown): boolean =>
  isRecord(value) && isText(value['name']) && isAbsentOr(value['subnet'], isText) && isAbsentOr(value['gateway'], isFlag) && isAbsentOr(value['leaseSec'], (sec) => within(sec, 1, 0x7fff_ffff)) &&
  isAbsentOr(value['hosts'], (hosts) => isListOf(hosts, isHost)) && isAbsentOr(value['files'], (files) => isRecord(files) && Object.values(files).every(isText));
const isDomain = (value: unknown): boolean =>
  isRecord(value) && isAbsentOr(value['service'], isFlag) && isAbsentOr(value['maxEventChannels'], (last) => within(last, 1, 0x7fff_ffff)) && isAbsentOr(value['disks'], (disks) => isListOf(disks, isDisk)) && isAbsentOr(value['vifs'], (vifs) => isListOf(vifs, isVif)) &&
  isAbsentOr(value['ramdisk'], isImage) && isText(value['name']) && isText(value['cmdline']) && isImage(value['kernel']) && within(value['memoryMib'], 1, 4096) && isAbsentOr(value['maxMemoryMib'], (most) => within(most, value['memoryMib'] as number, 4096));
const isStep = (value: unknown): boolean =>
  isRecord(value) && isText(value['domain']) && isText(value['after']) && (isText(value['send']) || isRecord(value['command'])) && (value['delayNs'] === undefined || within(value['delayNs'], 0, Number.MAX_SAFE_INTEGER));

const isFault = (value: unknown): boolean =>
  isRecord(value) && isText(value['fault']) && isFaultName(value['fault'] as string) && within(value['oneIn'], 1, 1_000_000) && (value['most'] === undefined || within(value['most'], 0, Number.MAX_SAFE_INTEGER)) && (value['fromNs'] === undefined || within(value['fromNs'], 0, Number.MAX_SAFE_INTEGER));
const areFaults = (value: unknown): boolean => value === undefined || (Array.isArray(value) && value.every(isFault));

/** The spec that a recording carries, or undefined if it is none: whoever wrote the file may have written anything. */
export function specFrom(value: unknown): WorldSpec | undefined {
  if (!isRecord(value)) return undefined;
  const spec: Readonly<Record<string, unknown>> = { ...SPEC_DEFAULTS, ...value };
  const { domains, input, nsPerInsn } = spec;
  const listed = Array.isArray(domains) && domains.length > 0 && domains.every(isDomain) && Array.isArray(input) && input.every(isStep) && isAbsentOr(spec['bridges'], (bridges) => isListOf(bridges, isBridge));
  const timed = isRecord(nsPerInsn) && within(nsPerInsn['num'], 1, 1_000_000) && within(nsPerInsn['den'], 1, 1_000_000) && within(spec['maxVirtualSec'], 1, MOST_VIRTUAL_SEC);
  const counted = within(spec['timesliceInsns'], 1, 1_000_000_000) && within(spec['maxInstructions'], 1, Number.MAX_SAFE_INTEGER) && within(spec['digestEveryInsns'], 0, Number.MAX_SAFE_INTEGER);
  const known = (spec['xenBuild'] === 'debug' || spec['xenBuild'] === 'release') && within(spec['wallClockAtZeroSec'], 0, 0xffff_ffff);
  return listed && timed && counted && known && areFaults(spec['faults']) && isAbsentOr(spec['bug'], isPlantedBug) && isAbsentOr(spec['conduct'], isFlag) ? (spec as unknown as WorldSpec) : undefined;
}
