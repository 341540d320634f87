// A process: an address space, the registers of its user side, where it is in its program, and what
// it has seen.
import type { Descriptor, ThreadSegments } from '../paravirt-ops/types.ts';
import type { UserText } from '../user-program.ts';
import type { AddressSpace } from './address-space.ts';

export type ProcessState = 'ready' | 'waiting' | 'sleeping' | 'zombie';

/** A flat data segment of ring 3 that carries the thread's number in its base: what TLS descriptors look like. */
const tlsDescriptor = (pid: number, slot: number): Descriptor => ({ lo: (((pid * 16 + slot) & 0xffff) << 16) | 0xffff, hi: 0x00cf_f300 });

export class Process implements ThreadSegments {
  readonly pid: number;
  /** Place in the tree of forks: `0`, `0.1`, ...: the same under every back end. */
  readonly path: string;
  readonly parent: Process | undefined;
  mm: AddressSpace | undefined;
  text: UserText;
  state: ProcessState = 'ready';
  wakeAtNs = 0;
  /** In a wait for its oldest child, to be finished when it runs again. */
  waits = false;
  /** General registers while it is not in user mode. */
  readonly regs = new Uint32Array(8);
  readonly stackPfn: number;
  /** Top of its kernel stack: the frame of its last entry from user mode stands right below. */
  readonly esp0: number;
  readonly tls: ThreadSegments['tls'];
  readonly children: Process[] = [];
  forks = 0;
  readonly history: string[] = [];

  constructor(pid: number, path: string, parent: Process | undefined, text: UserText, stackPfn: number, stackVaddr: number) {
    this.pid = pid;
    this.path = path;
    this.parent = parent;
    this.text = text;
    this.stackPfn = stackPfn;
    this.esp0 = stackVaddr + 4096;
    this.tls = [tlsDescriptor(pid, 0), tlsDescriptor(pid, 1), tlsDescriptor(pid, 2)];
  }

  /** Address of the frame [EIP CS EFLAGS ESP SS]. */
  get frameVaddr(): number {
    return this.esp0 - 20;
  }
  saw(what: string): void {
    this.history.push(what);
  }
}
