/** Runs a committed guest image in a fresh world, in this process, and keeps what it did. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { EVENT } from '../../src/abi/events.ts';
import { parseKernel } from '../../src/hypervisor/build/kernel-image.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import { SPEC_DEFAULTS, type InputStep, type WorldSpec } from '../../src/sim/spec.ts';

export interface GuestOptions {
  readonly cmdline?: string;
  readonly memoryMib?: number;
  readonly seed?: string;
  readonly input?: readonly InputStep[];
  readonly maxInstructions?: number;
  readonly xenBuild?: WorldSpec['xenBuild'];
}

export interface Hypercall {
  readonly nr: number;
  readonly result: number;
  /** Index into HYPERCALL_END. */
  readonly end: number;
  /** The first argument register. */
  readonly a0: number;
}

export interface GuestRun {
  readonly outcome: string;
  readonly text: string;
  /** Console lines, without line ends. */
  readonly lines: readonly string[];
  readonly hypercalls: readonly Hypercall[];
  readonly instructions: number;
}

const SLICE_INSNS = 50_000_000;

export async function runGuest(image: string, options: GuestOptions = {}): Promise<GuestRun> {
  await loadHashes();
  const kernel = parseKernel(readFileSync(resolve(import.meta.dirname, '../../scenarios/guests/images', image)));
  if ('problem' in kernel) throw new Error(`${image} ${kernel.problem}`);
  const spec: WorldSpec = {
    ...SPEC_DEFAULTS,
    domains: [{ name: 'guest', kernel: { name: image }, cmdline: options.cmdline ?? '', memoryMib: options.memoryMib ?? 32 }],
    input: options.input ?? [],
    maxInstructions: options.maxInstructions ?? 100_000_000,
    xenBuild: options.xenBuild ?? 'release',
  };
  let text = '';
  const hypercalls: Hypercall[] = [];
  const world = buildWorld({
    spec,
    images: [{ kernel, ramdisk: undefined }],
    choices: new SeededChoices(options.seed ?? '1'),
    input: (domIdOf) => new ScriptedInput(spec.input, domIdOf),
    observers: { consoleOut: (_domId, bytes) => void (text += Buffer.from(bytes).toString('latin1')) },
    sink: () => ({
      event: (kind, _domId, _vcpuId, _retired, _nowNs, values) => {
        const [nr = 0, result = 0, end = 0, a0 = 0] = values;
        if (kind === EVENT.hypercall) hypercalls.push({ nr, result, end, a0 });
      },
    }),
  });
  for (;;) {
    const advance = world.advance(SLICE_INSNS);
    if (advance.kind === 'idle') throw new Error('a scripted world waits for a person');
    if (advance.kind === 'ended') {
      return { outcome: advance.outcome, text: advance.text, lines: text.split('\r\n'), hypercalls, instructions: world.insns() };
    }
  }
}
