// Which bytes somebody made something from (decoded, translated): one registry per machine, shared by all
// processors. FRAME_FLAG.code says that a frame has such bytes; a bitmap says which. A store that hits one
// voids what was made from it, and nothing else: a kernel patches its text in thousands of places. A store beside
// them (data in the same page) voids nothing. A frame that is being overwritten from one end on is code no more.
//
// By the same door one can be told of each store to some bytes of data: a watched frame has the flag too.
import { assert } from '../base/assert.ts';
import { FRAME_FLAG, type MachineMemory } from '../machine/memory.ts';

export interface CodeUser {
  /** Bytes `from` up to, not including, `to` of the frame are about to change: what was made from them is void. */
  codeChanged(mfn: number, from: number, to: number): void;
  /** Stores to the frame must take the slow path from now on. */
  dropWritePaths(mfn: number): void;
}

/** Bytes of one frame, to which stores are told. */
interface StoreWatch {
  readonly mfn: number;
  readonly from: number;
  readonly to: number;
  readonly stored: () => void;
}

interface Registry {
  readonly users: CodeUser[];
  watch: StoreWatch | undefined;
  /** One bit per byte of each code frame. */
  readonly bits: Map<number, Uint32Array>;
  /** Stores that went on where the one before ended: into which frame, up to where, and how many bytes so far. */
  readonly run: { mfn: number; to: number; sizeBytes: number };
}
/** As long a row of stores is no patch. */
const OVERWRITTEN_BYTES = 192;

const registries = new WeakMap<MachineMemory, Registry>();

function registryOf(machine: MachineMemory): Registry {
  let registry = registries.get(machine);
  if (registry === undefined) {
    registries.set(machine, (registry = { users: [], watch: undefined, bits: new Map(), run: { mfn: -1, to: 0, sizeBytes: 0 } }));
    machine.onCodeWrite = (mfn) => codeChanged(machine, mfn);
  }
  return registry;
}

export function registerCodeUser(machine: MachineMemory, user: CodeUser): void {
  registryOf(machine).users.push(user);
}

/** A store of `sizeBytes` bytes at the machine address (all in one frame), if it hits bytes that something was made from. */
export function codeStored(machine: MachineMemory, maddr: number, sizeBytes: number): void {
  if (!hitsCode(machine, maddr, sizeBytes)) return;
  const mfn = maddr >>> 12;
  const from = maddr & 0xfff;
  const to = from + sizeBytes;
  const { users, watch, bits, run } = registryOf(machine);
  const map = bits.get(mfn);
  if (watch?.mfn === mfn) {
    if (from < watch.to && watch.from < to) watch.stored();
    if (map === undefined || !hitsBits(map, from, to)) return;
  }
  run.sizeBytes = run.mfn === mfn && run.to === from ? run.sizeBytes + sizeBytes : sizeBytes;
  run.mfn = mfn;
  run.to = to;
  if (map === undefined || run.sizeBytes >= OVERWRITTEN_BYTES) return codeChanged(machine, mfn);
  for (let i = from; i < to; i++) map[i >> 5] = (map[i >> 5] as number) & ~(1 << (i & 31));
  for (const user of users) user.codeChanged(mfn, from, to);
}

/** Any of the frame's bytes may change. */
export function codeChanged(machine: MachineMemory, mfn: number): void {
  const { users, watch, bits } = registryOf(machine);
  if (watch?.mfn === mfn) {
    watch.stored();
    if (!bits.has(mfn)) return;
  } else setFlag(machine, mfn, false);
  bits.delete(mfn);
  for (const user of users) user.codeChanged(mfn, 0, 4096);
}

/** Declares that something is made from `sizeBytes` bytes at machine address `maddr` (all in one frame). */
export function markCode(machine: MachineMemory, maddr: number, sizeBytes: number): void {
  const mfn = maddr >>> 12;
  const { users, bits } = registryOf(machine);
  let map = bits.get(mfn);
  if (map === undefined) {
    bits.set(mfn, (map = new Uint32Array(128)));
    setFlag(machine, mfn, true);
    for (const user of users) user.dropWritePaths(mfn);
  }
  const from = maddr & 0xfff;
  for (let i = from; i < from + sizeBytes; i++) map[i >> 5] = (map[i >> 5] as number) | (1 << (i & 31));
}

function setFlag(machine: MachineMemory, mfn: number, on: boolean): void {
  const at = machine.frameFlagsBase + mfn;
  machine.u8[at] = on ? (machine.u8[at] as number) | FRAME_FLAG.code : (machine.u8[at] as number) & ~FRAME_FLAG.code;
}

/**
 * Calls `stored` before each store to these bytes (all in one frame): a processor's, in the middle of the instruction; and what
 * comes from outside, where only the frame is known. One watch at a time. The answer ends it. Nothing that a guest sees depends on it.
 */
export function watchStores(machine: MachineMemory, maddr: number, sizeBytes: number, stored: () => void): () => void {
  const registry = registryOf(machine);
  const mfn = maddr >>> 12;
  assert(registry.watch === undefined, 'stores are watched already');
  assert((maddr & 0xfff) + sizeBytes <= 4096, () => `${sizeBytes} bytes at ${maddr} are in two frames`);
  registry.watch = { mfn, from: maddr & 0xfff, to: (maddr & 0xfff) + sizeBytes, stored };
  setFlag(machine, mfn, true);
  for (const user of registry.users) user.dropWritePaths(mfn);
  return () => {
    registry.watch = undefined;
    setFlag(machine, mfn, registry.bits.has(mfn));
  };
}

/** Does a store there change bytes that something was made from, or that are watched? */
export function hitsCode(machine: MachineMemory, maddr: number, sizeBytes: number): boolean {
  if (((machine.u8[machine.frameFlagsBase + (maddr >>> 12)] as number) & FRAME_FLAG.code) === 0) return false;
  const { watch, bits } = registryOf(machine);
  const map = bits.get(maddr >>> 12);
  const from = maddr & 0xfff;
  if (watch?.mfn === maddr >>> 12) {
    if (from < watch.to && watch.from < from + sizeBytes) return true;
    return map !== undefined && hitsBits(map, from, from + sizeBytes);
  }
  return map === undefined || hitsBits(map, from, from + sizeBytes);
}

function hitsBits(map: Uint32Array, from: number, to: number): boolean {
  for (let i = from; i < Math.min(to, 4096); i++) if ((((map[i >> 5] as number) >>> (i & 31)) & 1) !== 0) return true;
  return false;
}
