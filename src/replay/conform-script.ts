// Reading conformance scripts: one JSON object a line. The form is checked here once, so that the
// runner can rely on it; a bad line is a user's bad file.
import { UsageError } from '../base/assert.ts';
import type { ScriptOp } from './conform-op.ts';

export interface Script {
  readonly id: string;
  readonly abi: 'pv64' | 'pv32pae';
  readonly family: string;
  readonly sub: string;
  readonly ops: readonly ScriptOp[];
  readonly results: readonly unknown[];
  readonly final?: Readonly<Record<string, unknown>>;
  readonly ad?: 'ignore';
  /** Operation `op` did not return. */
  readonly crash?: { readonly what: string; readonly op: number };
}

/** The scripts of a file's text. Throws UsageError that names file and line. */
export function parseScripts(text: string, file: string): Script[] {
  const scripts: Script[] = [];
  let line = 0;
  for (const row of text.split('\n')) {
    line++;
    if (row.trim() === '') continue;
    const value = parseJson(row);
    if (!isScript(value)) throw new UsageError(`${file}, line ${line}, is not a conformance script; pass .jsonl or .jsonl.gz files of the corpus`);
    scripts.push(value);
  }
  if (scripts.length === 0) throw new UsageError(`${file} holds no conformance scripts`);
  return scripts;
}

function parseJson(row: string): unknown {
  try {
    return JSON.parse(row);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function isScript(value: unknown): value is Script {
  if (typeof value !== 'object' || value === null) return false;
  const script = value as Record<string, unknown>;
  const named = typeof script['id'] === 'string' && typeof script['sub'] === 'string' && (script['abi'] === 'pv64' || script['abi'] === 'pv32pae');
  const ops = script['ops'];
  return named && Array.isArray(ops) && Array.isArray(script['results']) && ops.every((op) => typeof op === 'object' && op !== null && typeof (op as ScriptOp).op === 'string');
}
