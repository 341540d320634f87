// Which frames hold bytes that somebody made something from (decoded, translated): one registry per
// machine, shared by all processors. A store to such a frame is reported to everybody, once.
import { FRAME_FLAG, type MachineMemory } from '../machine/memory.ts';

export interface CodeUser {
  /** The frame's bytes are about to change: what was made from them is void. */
  codeChanged(mfn: number): void;
  /** Stores to the frame must take the slow path from now on. */
  dropWritePaths(mfn: number): void;
}

const users = new WeakMap<MachineMemory, CodeUser[]>();

export function registerCodeUser(machine: MachineMemory, user: CodeUser): void {
  const list = users.get(machine);
  if (list !== undefined) {
    list.push(user);
    return;
  }
  users.set(machine, [user]);
  machine.onCodeWrite = (mfn) => codeChanged(machine, mfn);
}

export function codeChanged(machine: MachineMemory, mfn: number): void {
  const at = machine.frameFlagsBase + mfn;
  machine.u8[at] = (machine.u8[at] as number) & ~FRAME_FLAG.code;
  for (const user of users.get(machine) ?? []) user.codeChanged(mfn);
}

/** Declares that something is about to be made from the frame's bytes. */
export function markCode(machine: MachineMemory, mfn: number): void {
  const at = machine.frameFlagsBase + mfn;
  if (((machine.u8[at] as number) & FRAME_FLAG.code) !== 0) return;
  machine.u8[at] = (machine.u8[at] as number) | FRAME_FLAG.code;
  for (const user of users.get(machine) ?? []) user.dropWritePaths(mfn);
}
