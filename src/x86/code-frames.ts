// Which bytes somebody made something from (decoded, translated): one registry per machine, shared by all
// processors. FRAME_FLAG.code says that a frame has such bytes; a bitmap says which. A store that hits one
// voids what was made from it, and nothing else: a kernel patches its text in thousands of places. A store beside
// them (data in the same page) voids nothing. A frame that is being overwritten from one end on is code no more.
import { FRAME_FLAG, type MachineMemory } from '../machine/memory.ts';

export interface CodeUser {
  /** Bytes `from` up to, not including, `to` of the frame are about to change: what was made from them is void. */
  codeChanged(mfn: number, from: number, to: number): void;
  /** Stores to the frame must take the slow path from now on. */
  dropWritePaths(mfn: number): void;
}

interface Registry {
  readonly users: CodeUser[];
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
    registries.set(machine, (registry = { users: [], bits: new Map(), run: { mfn: -1, to: 0, sizeBytes: 0 } }));
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
  const { users, bits, run } = registryOf(machine);
  const map = bits.get(mfn);
  run.sizeBytes = run.mfn === mfn && run.to === from ? run.sizeBytes + sizeBytes : sizeBytes;
  run.mfn = mfn;
  run.to = to;
  if (map === undefined || run.sizeBytes >= OVERWRITTEN_BYTES) return codeChanged(machine, mfn);
  for (let i = from; i < to; i++) map[i >> 5] = (map[i >> 5] as number) & ~(1 << (i & 31));
  for (const user of users) user.codeChanged(mfn, from, to);
}

/** Any of the frame's bytes may change. */
export function codeChanged(machine: MachineMemory, mfn: number): void {
  const at = machine.frameFlagsBase + mfn;
  machine.u8[at] = (machine.u8[at] as number) & ~FRAME_FLAG.code;
  const { users, bits } = registryOf(machine);
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
    const at = machine.frameFlagsBase + mfn;
    machine.u8[at] = (machine.u8[at] as number) | FRAME_FLAG.code;
    for (const user of users) user.dropWritePaths(mfn);
  }
  const from = maddr & 0xfff;
  for (let i = from; i < from + sizeBytes; i++) map[i >> 5] = (map[i >> 5] as number) | (1 << (i & 31));
}

/** Does a store there change bytes that something was made from? */
export function hitsCode(machine: MachineMemory, maddr: number, sizeBytes: number): boolean {
  if (((machine.u8[machine.frameFlagsBase + (maddr >>> 12)] as number) & FRAME_FLAG.code) === 0) return false;
  const map = registryOf(machine).bits.get(maddr >>> 12);
  if (map === undefined) return true;
  const from = maddr & 0xfff;
  for (let i = from; i < Math.min(from + sizeBytes, 4096); i++) if ((((map[i >> 5] as number) >>> (i & 31)) & 1) !== 0) return true;
  return false;
}
