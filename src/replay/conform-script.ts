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

const isRecord = (value: unknown): boolean => typeof value === 'object' && value !== null && !Array.isArray(value);
const KINDS = {
  string: (value: unknown): boolean => typeof value === 'string',
  number: (value: unknown): boolean => typeof value === 'number',
  rows: Array.isArray,
  /** `["pin_l1", "f3"]`: a name and what belongs to it. */
  lists: (value: unknown): boolean => Array.isArray(value) && value.every((row) => Array.isArray(row) && typeof row[0] === 'string'),
  records: (value: unknown): boolean => Array.isArray(value) && value.every(isRecord),
} as const;

/** Fields that operations cannot do without, and their kinds. */
const FIELDS: Readonly<Record<string, Readonly<Record<string, keyof typeof KINDS>>>> = {
  uvm: { va: 'string', val: 'string', fl: 'number' }, mmu: { req: 'lists' }, ext: { req: 'lists' },
  wr: { va: 'string', val: 'string' }, rd: { va: 'string' }, cx: { va: 'string', old: 'string', val: 'string' },
  assist: { cmd: 'string', type: 'number' }, set_gdt: { frames: 'rows', ents: 'number' }, upd_desc: { ptr: 'string', desc: 'string' },
  mem: { cmd: 'string' }, m2p: { frame: 'string' }, hc: { nr: 'number' }, multi: { calls: 'rows' },
  evt: { cmd: 'string' }, shset: { field: 'string' }, gset: { ref: 'number', flags: 'string', dom: 'string', frame: 'string' }, gflag: { ref: 'number', flags: 'string' }, gget: { ref: 'number' },
  gmap: { req: 'records' }, gunmap: { req: 'records' }, greplace: { req: 'records' }, gcopy: { req: 'records' }, gxfer: { frame: 'string', dom: 'string', ref: 'number' },
  gsetup: { dom: 'string', nr: 'number' }, gqsize: { dom: 'string' }, gsetver: { v: 'number' }, ggetver: { dom: 'string' }, gswap: { a: 'number', b: 'number' }, gstatusf: { nr: 'number', dom: 'string' },
  gbad: { cmd: 'number' },
};
function isOp(value: unknown): value is ScriptOp {
  if (typeof value !== 'object' || value === null || typeof (value as ScriptOp).op !== 'string') return false;
  const op = value as ScriptOp;
  if (op.op === 'multi' && !(Array.isArray(op['calls']) && op['calls'].every(isOp))) return false;
  return Object.entries(FIELDS[op.op] ?? {}).every(([name, kind]) => KINDS[kind](op[name]));
}

function isScript(value: unknown): value is Script {
  if (typeof value !== 'object' || value === null) return false;
  const script = value as Record<string, unknown>;
  const named = typeof script['id'] === 'string' && typeof script['sub'] === 'string' && (script['abi'] === 'pv64' || script['abi'] === 'pv32pae');
  const ops = script['ops'];
  return named && Array.isArray(ops) && Array.isArray(script['results']) && ops.every(isOp);
}
