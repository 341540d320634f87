// What processes of the model guest must see, from the program alone: no page tables, no frames, no
// scheduler. Memory is a map from addresses to words; a fork copies it. The histories that a kernel
// gives must be these, on whatever it runs.
import type { Protection, UserStep } from '../guest/user-program.ts';

const USER_END = 0xc000_0000;
const EINVAL = -22;
const ENOMEM = -12;
const ECHILD = -10;

interface ModelPage {
  readonly protection: Protection;
  readonly words: Map<number, number>;
}

class ModelProcess {
  readonly path: string;
  readonly histories: Map<string, string[]>;
  readonly history: string[] = [];
  pages: Map<number, ModelPage>;
  readonly #children: string[] = [];
  #forks = 0;

  constructor(path: string, histories: Map<string, string[]>, pages: Map<number, ModelPage>) {
    this.path = path;
    this.histories = histories;
    this.pages = pages;
    histories.set(path, this.history);
  }

  /** False: the process has ended. */
  run(steps: readonly UserStep[]): boolean {
    return steps.every((step) => this.#one(step));
  }
  end(): void {
    this.history.push('exit');
  }

  #one(step: UserStep): boolean {
    switch (step.op) {
      case 'store':
        this.#store(step.at, step.value);
        return true;
      case 'load':
        this.#load(step.at);
        return true;
      case 'sweep':
        for (let page = 0; page < step.pages; page++) this.#load(step.at + page * 4096);
        return true;
      case 'fill':
        for (let page = 0; page < step.pages; page++) this.#store(step.at + page * 4096, step.value + page);
        return true;
      case 'mmap':
      case 'munmap':
      case 'mprotect':
        this.#area(step);
        return true;
      case 'fork':
        this.#fork(step.child);
        return true;
      case 'exec':
        this.history.push('exec');
        this.pages = new Map();
        if (this.run(step.program)) this.end();
        return false;
      case 'wait': {
        const child = this.#children.shift();
        this.history.push(child === undefined ? `wait failed ${ECHILD}` : `wait ${child}`);
        return true;
      }
      case 'repeat':
        for (let i = 0; i < step.times; i++) if (!this.run(step.steps)) return false;
        return true;
      case 'exit':
        this.end();
        return false;
      case 'compute':
      case 'yield':
      case 'sleep':
      case 'print':
        return true;
    }
  }

  #load(at: number): void {
    const page = this.pages.get(Math.floor(at / 4096));
    this.history.push(page === undefined || page.protection === '' ? `fault 0x${at.toString(16)}` : `load 0x${at.toString(16)} = 0x${(page.words.get(at) ?? 0).toString(16)}`);
  }
  #store(at: number, value: number): void {
    const page = this.pages.get(Math.floor(at / 4096));
    if (page?.protection === 'rw') page.words.set(at, value >>> 0);
    else this.history.push(`fault 0x${at.toString(16)}`);
  }

  #area(step: Extract<UserStep, { op: 'mmap' | 'munmap' | 'mprotect' }>): void {
    const failed = this.#areaError(step);
    this.history.push(failed === 0 ? step.op : `${step.op} failed ${failed}`);
    if (failed !== 0) return;
    const first = step.at / 4096;
    for (let page = first; page < first + step.pages; page++) {
      if (step.op === 'munmap') this.pages.delete(page);
      else if (step.op === 'mmap') this.pages.set(page, { protection: step.prot, words: new Map() });
      else this.pages.set(page, { protection: step.prot, words: (this.pages.get(page) as ModelPage).words });
    }
  }
  #areaError(step: Extract<UserStep, { op: 'mmap' | 'munmap' | 'mprotect' }>): number {
    if (step.at % 4096 !== 0 || step.at < 4096 || step.pages <= 0 || step.at + step.pages * 4096 > USER_END) return EINVAL;
    if (step.op !== 'mprotect') return 0;
    for (let page = step.at / 4096; page < step.at / 4096 + step.pages; page++) if (!this.pages.has(page)) return ENOMEM;
    return 0;
  }

  #fork(steps: readonly UserStep[]): void {
    this.history.push('fork');
    const path = `${this.path}.${this.#forks++}`;
    this.#children.push(path);
    const copies = new Map([...this.pages].map(([page, { protection, words }]) => [page, { protection, words: new Map(words) }]));
    const child = new ModelProcess(path, this.histories, copies);
    if (child.run(steps)) child.end();
  }
}

/** Histories by the path of the process in the tree of forks. */
export function expectedHistories(program: readonly UserStep[]): Map<string, readonly string[]> {
  const histories = new Map<string, string[]>();
  const first = new ModelProcess('0', histories, new Map());
  if (first.run(program)) first.end();
  return histories;
}
