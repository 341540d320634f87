// Reads the console of the bench guests ("K1-START", "K1-END result=0x...") and times what lies between.

export interface KernelRow {
  readonly name: string;
  readonly checksum: string;
  readonly cpuMs: number;
  readonly wallMs: number;
}

export class KernelTimer {
  readonly #done: (row: KernelRow) => void;
  #line = '';
  #cpu = process.cpuUsage();
  #wall = performance.now();

  constructor(done: (row: KernelRow) => void) {
    this.#done = done;
  }

  text(text: string): void {
    for (const char of text) {
      if (char === '\n') {
        this.#finishLine(this.#line.replace(/\r$/, ''));
        this.#line = '';
      } else this.#line += char;
    }
  }

  #finishLine(line: string): void {
    if (/^K\d-START/.test(line)) {
      this.#cpu = process.cpuUsage();
      this.#wall = performance.now();
      return;
    }
    const end = /^(K\d)-END result=0x([0-9a-f]{8})/.exec(line);
    if (end === null) return;
    const cpu = process.cpuUsage(this.#cpu);
    this.#done({ name: end[1] as string, checksum: end[2] as string, cpuMs: (cpu.user + cpu.system) / 1000, wallMs: performance.now() - this.#wall });
  }
}
