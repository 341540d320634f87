// Which bytes somebody made something from (decoded, translated): one registry per machine, shared by all
// processors. FRAME_FLAG.code says that a frame has such bytes; a bitmap says which. A store that hits one
// voids all that was made from the frame; a store beside them (data in the same page) does not.
import { FRAME_FLAG, type MachineMemory } from '../machine/memory.ts';

export interface CodeUser {
  /** The frame's bytes are about to change: what was made from them is void. */
  codeChanged(mfn: number): void;
  /** Stores to the frame must take the slow path from now on. */
  dropWritePaths(mfn: number): void;
}

interface Registry {
  readonly users: CodeUser[];
  /** One bit per byte of each code frame. */
  readonly bits: Map<number, Uint32Array>;
}

const registries = new WeakMap<MachineMemory, Registry>();

function registryOf(machine: MachineMemory): Registry {
  let registry = registries.get(machine);
  if (registry === undefined) {
    registries.set(machine, (registry = { users: [], bits: new Map() }));
    machine.onCodeWrite = (mfn) => codeChanged(machine, mfn);
  }
  return registry;
}

export function registerCodeUser(machine: MachineMemory, user: CodeUser): void {
  registryOf(machine).users.push(user);
}

export function codeChanged(machine: MachineMemory, mfn: number): void {
  const at = machine.frameFlagsBase + mfn;
  machine.u8[at] = (machine.u8[at] as number) & ~FRAME_FLAG.code;
  const { users, bits } = registryOf(machine);
  bits.delete(mfn);
  for (const user of users) user.codeChanged(mfn);
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
