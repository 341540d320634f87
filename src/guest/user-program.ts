// User programs as data: lists of memory operations and system calls. A program is a tree (a fork has
// its child's steps, an exec the new program's), flattened into numbered instructions of four bytes,
// so that a process is at a place (its instruction pointer) like any other.
//
//   [{ op: 'mmap', at: 0x10000000, pages: 4, prot: 'rw' }, { op: 'store', at: 0x10000000, value: 7 },
//    { op: 'fork', child: [{ op: 'load', at: 0x10000000 }, { op: 'exit' }] }, { op: 'wait' }]
//
// What a process sees (values loaded, answers of calls, faults) is written down in its history: the
// kernel's promise is that it depends on nothing but the program.

export type Protection = '' | 'r' | 'rw';

export type UserStep =
  | { readonly op: 'store'; readonly at: number; readonly value: number }
  | { readonly op: 'load'; readonly at: number }
  /** Every page of the range is loaded from once. */
  | { readonly op: 'sweep'; readonly at: number; readonly pages: number }
  | { readonly op: 'fill'; readonly at: number; readonly pages: number; readonly value: number }
  | { readonly op: 'compute'; readonly insns: number }
  | { readonly op: 'mmap'; readonly at: number; readonly pages: number; readonly prot: Protection }
  | { readonly op: 'munmap'; readonly at: number; readonly pages: number }
  | { readonly op: 'mprotect'; readonly at: number; readonly pages: number; readonly prot: Protection }
  | { readonly op: 'fork'; readonly child: readonly UserStep[] }
  | { readonly op: 'exec'; readonly program: readonly UserStep[] }
  /** Waits for the oldest child that has not been waited for. */
  | { readonly op: 'wait' }
  | { readonly op: 'yield' }
  | { readonly op: 'sleep'; readonly ns: number }
  | { readonly op: 'print'; readonly text: string }
  /** The steps again and again. */
  | { readonly op: 'repeat'; readonly times: number; readonly steps: readonly UserStep[] }
  | { readonly op: 'exit' };

/** System calls by number (EAX); arguments in EBX, ECX, EDX. Linux's numbers where it has them. */
export const SYSCALL = { exit: 1, fork: 2, print: 4, wait: 7, exec: 11, mmap: 90, munmap: 91, mprotect: 125, yield: 158, sleep: 162 } as const;
export type SyscallName = keyof typeof SYSCALL;

export type UserInstruction =
  | { readonly kind: 'store'; readonly at: number; readonly value: number }
  | { readonly kind: 'load'; readonly at: number }
  | { readonly kind: 'compute'; readonly insns: number }
  | { readonly kind: 'syscall'; readonly name: SyscallName; readonly args: readonly number[] }
  /** To another instruction: always, or if EAX is 0 (in a fork's child). */
  | { readonly kind: 'jump'; readonly to: number; readonly ifZero: boolean };

/** A program's instructions and what its calls name by index. */
export interface UserText {
  readonly instructions: readonly UserInstruction[];
  readonly texts: readonly string[];
  readonly programs: readonly (readonly UserStep[])[];
}

/** Where programs are: the address at which Linux links them. */
export const USER_TEXT = 0x0804_8000;
export const INSTRUCTION_BYTES = 4;
export const userEip = (index: number): number => USER_TEXT + index * INSTRUCTION_BYTES;

const PROT_BITS: Readonly<Record<Protection, number>> = { '': 0, r: 1, rw: 3 };
const MOST_INSTRUCTIONS = 1_000_000;

/** Flattens a program; a missing `exit` is added. */
export function compileProgram(steps: readonly UserStep[]): UserText {
  const instructions: UserInstruction[] = [];
  const texts: string[] = [];
  const programs: (readonly UserStep[])[] = [];
  const call = (name: SyscallName, ...args: number[]): void => void instructions.push({ kind: 'syscall', name, args });
  const children: { from: number; steps: readonly UserStep[] }[] = [];
  const block = (list: readonly UserStep[]): void => {
    for (const step of list) {
      if (instructions.length > MOST_INSTRUCTIONS) throw new RangeError(`a user program has more than ${MOST_INSTRUCTIONS} instructions`);
      one(step);
    }
  };
  const one = (step: UserStep): void => {
    switch (step.op) {
      case 'store':
        return void instructions.push({ kind: 'store', at: step.at, value: step.value });
      case 'load':
        return void instructions.push({ kind: 'load', at: step.at });
      case 'sweep':
        for (let page = 0; page < step.pages; page++) instructions.push({ kind: 'load', at: step.at + page * 4096 });
        return;
      case 'fill':
        for (let page = 0; page < step.pages; page++) instructions.push({ kind: 'store', at: step.at + page * 4096, value: (step.value + page) >>> 0 });
        return;
      case 'compute':
        return void instructions.push({ kind: 'compute', insns: step.insns });
      case 'mmap':
      case 'mprotect':
        return call(step.op, step.at, step.pages, PROT_BITS[step.prot]);
      case 'munmap':
        return call('munmap', step.at, step.pages);
      case 'fork':
        call('fork');
        children.push({ from: instructions.length, steps: step.child });
        return void instructions.push({ kind: 'jump', to: 0, ifZero: true });
      case 'exec':
        programs.push(step.program);
        return call('exec', programs.length - 1);
      case 'print':
        texts.push(step.text);
        return call('print', texts.length - 1);
      case 'sleep':
        return call('sleep', step.ns >>> 0, Math.floor(step.ns / 0x1_0000_0000));
      case 'repeat':
        for (let i = 0; i < step.times; i++) block(step.steps);
        return;
      case 'wait':
      case 'yield':
      case 'exit':
        return call(step.op);
    }
  };
  block(steps);
  call('exit');
  // Children's code stands behind, and theirs behind that.
  for (let i = 0; i < children.length; i++) {
    const { from, steps: childSteps } = children[i] as (typeof children)[number];
    instructions[from] = { kind: 'jump', to: instructions.length, ifZero: true };
    block(childSteps);
    call('exit');
  }
  return { instructions, texts, programs };
}
