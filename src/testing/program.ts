// Programs of a hostile guest, as data: what the guest d1 does in a small world, step by step. The
// language is that of the conformance corpus (replay/conform-op.ts): a step is a JSON object that names
// frames (f0..f11), slots (v0.., w0..), ports, grant references and handles (h0..) by small indices, so
// that every program is valid in form and stays so when steps are left out.
//
//   { shape: 'pv64', preempt: 3, steps: [{ op: 'uvm', va: 'v1', val: 'f1:61', fl: 2 }, ...] }
//
// Steps beyond the corpus: exch (XENMEM_exchange), g2set (a version 2 grant entry), ldt (the
// processor loads from the LDT), peer (what d2 does). The frame `secret` is d2's and never offered.
import { UsageError } from '../base/assert.ts';
import type { AbiName } from '../hypervisor/personality.ts';
import type { ScriptOp } from '../replay/conform-op.ts';

export type Step = ScriptOp;

export interface Program {
  /** The guest's kind: table shape and hypercall interface. */
  readonly shape: AbiName;
  /** Every so many looks of Xen at its clock interrupt a hypercall; 0 = none, 1 = all. */
  readonly preempt: number;
  readonly steps: readonly Step[];
}

export const SHAPES: readonly AbiName[] = ['pv64', 'pv32pae', 'xen3-pae', 'xen3-nopae'];

/** Hypercalls, accesses and requests: how large a program is (elements of batches count). */
export function operationCount(program: Program): number {
  let sum = 0;
  for (const step of program.steps) {
    const list = (step['req'] ?? step['calls']) as readonly unknown[] | undefined;
    sum += Math.max(1, Array.isArray(list) ? list.length : 1);
  }
  return sum;
}

function valueText(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(valueText).join(', ')}]`;
  if (typeof value === 'object' && value !== null) return `{ ${Object.entries(value).map(([key, item]) => `${key} ${valueText(item)}`).join(', ')} }`;
  return String(value);
}

/** One line a step, for people: `2  uvm  va v1, val f1:61, fl 2`. */
export function programText({ shape, preempt, steps }: Program): string {
  const lines = steps.map(({ op, ...fields }, index) =>
    `  ${String(index).padStart(2)}  ${op.padEnd(8)} ${Object.entries(fields).map(([name, value]) => `${name} ${valueText(value)}`).join(', ')}`.trimEnd());
  const interrupted = preempt === 0 ? 'never interrupted' : preempt === 1 ? 'interrupted at every chance' : `interrupted at every ${preempt}th chance`;
  return [`guest d1 (${shape}), hypercalls ${interrupted}:`, ...lines].join('\n');
}

/** A program from JSON text. Throws UsageError, which says what is wrong. */
export function parseProgram(text: string, source = 'the program'): Program {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new UsageError(`${source} is not JSON: ${error.message}`);
  }
  const { shape, preempt, steps } = (value ?? {}) as Partial<Record<string, unknown>>;
  if (!SHAPES.includes(shape as AbiName)) throw new UsageError(`${source} needs a shape: one of ${SHAPES.join(', ')}`);
  if (typeof preempt !== 'number' || !Number.isInteger(preempt) || preempt < 0) throw new UsageError(`${source} needs preempt: 0 or a positive integer`);
  if (!Array.isArray(steps) || !steps.every((step) => typeof (step as Partial<Step> | null)?.op === 'string')) throw new UsageError(`${source} needs steps: objects with an op each`);
  return { shape: shape as AbiName, preempt, steps: steps as Step[] };
}
