// The house rules as data: which room may import which, what nobody may call, what the documents
// promise. Each rule also has a test that shows it can fail.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');

/** Rooms under src/ and the rooms that each may import (DESIGN: "Rooms"). */
const MAY_IMPORT: Record<string, readonly string[]> = {
  base: [],
  abi: ['base'],
  machine: ['base'],
  x86: ['base', 'machine'],
  hypervisor: ['base', 'abi', 'machine', 'x86'],
  guest: ['base', 'abi'],
  shadow: ['base', 'abi', 'machine', 'x86'],
  dom0: ['base', 'abi'],
  sim: ['base', 'abi', 'machine', 'x86', 'hypervisor', 'shadow', 'guest', 'dom0'],
  checkers: ['base', 'abi', 'machine', 'x86', 'hypervisor', 'shadow'],
  log: ['base', 'abi'],
  replay: ['base', 'abi', 'machine', 'x86', 'hypervisor', 'shadow', 'guest', 'dom0', 'sim', 'checkers', 'log'],
  testing: ['base', 'abi', 'machine', 'x86', 'hypervisor', 'shadow', 'guest', 'dom0', 'sim', 'checkers', 'log', 'replay'],
  node: ['*'],
  cli: ['*'],
};
const HOST_ROOMS = new Set(['node', 'cli']);

/** Calls that would let the host leak into a run. `rooms` lists who may have them. */
const BANS: readonly { readonly what: string; readonly pattern: RegExp; readonly rooms: ReadonlySet<string> }[] = [
  { what: 'unseeded chance', pattern: /\bMath\.random\b|\bcrypto\.(getRandomValues|randomUUID)\b/, rooms: new Set() },
  { what: 'the host clock', pattern: /\bDate\b|\bperformance\b|\bhrtime\b/, rooms: HOST_ROOMS },
  { what: 'host timers', pattern: /\bset(Timeout|Interval|Immediate)\b|\bqueueMicrotask\b|\brequestAnimationFrame\b/, rooms: HOST_ROOMS },
  { what: 'promises in the core', pattern: /\bPromise\b|\basync\b|\bawait\b/, rooms: new Set([...HOST_ROOMS, 'log', 'replay', 'testing']) },
  { what: 'transcendental Math, whose last bit differs between hosts', pattern: /\bMath\.(sin|cos|tan|asin|acos|atan2?|exp|expm1|log|log1p|log10|pow|sinh|cosh|tanh|cbrt|hypot)\b/, rooms: HOST_ROOMS },
  { what: 'sort() without a comparator', pattern: /\.(sort|toSorted)\(\)/, rooms: new Set() },
  { what: 'the environment', pattern: /\bprocess\.(env|argv|platform|cwd)\b/, rooms: HOST_ROOMS },
];

function filesUnder(folder: string, endings: readonly string[]): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort((a, b) => (a < b ? -1 : 1));
}

const sources = filesUnder(join(ROOT, 'src'), ['.ts']);
const roomOf = (file: string): string => relative(join(ROOT, 'src'), file).split('/')[0] as string;
const isGenerated = (file: string): boolean => file.includes('generated');

function imports(text: string): string[] {
  return [...text.matchAll(/(?:import|export)\s[^'";]*?from\s*'([^']+)'|import\s*\(?\s*'([^']+)'/g)].map((match) => (match[1] ?? match[2]) as string);
}

/** Strips comments and string contents, so that prose about clocks is not a clock. */
function codeOnly(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, ' ')
    .replace(/(^|[^:])\/\/.*$/gm, '$1')
    .replace(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g, "''");
}

function importProblems(file: string, text: string): string[] {
  const room = roomOf(file);
  const allowed = MAY_IMPORT[room];
  if (allowed === undefined) return [`${relative(ROOT, file)}: src/${room} is not a room of the table`];
  const problems: string[] = [];
  for (const target of imports(text)) {
    if (target.startsWith('node:')) {
      if (!HOST_ROOMS.has(room)) problems.push(`${relative(ROOT, file)} imports ${target}; only src/node and src/cli may touch Node's modules`);
      continue;
    }
    if (!target.startsWith('.')) continue;
    const resolved = resolve(dirname(file), target);
    if (!resolved.startsWith(join(ROOT, 'src'))) continue;
    const other = roomOf(resolved);
    if (other !== room && !allowed.includes('*') && !allowed.includes(other)) problems.push(`${relative(ROOT, file)} imports room ${other}; ${room} may import ${allowed.join(', ') || 'nothing'}`);
  }
  return problems;
}

/**
 * What the checkers may know of the hypervisor: its state. Rules and page-type code are out of reach,
 * or a hypervisor with a mistake would be its own judge. Values (frame flags and types) come from the
 * frame table alone; everything else is `import type`.
 */
const CHECKERS_MAY_KNOW = ['domain', 'event-channels', 'frame-table', 'grant-table', 'hypervisor', 'per-domain', 'personality'];

function checkerProblems(file: string, text: string): string[] {
  const problems: string[] = [];
  for (const match of text.matchAll(/(?:import|export)\s([^'";]*?)from\s*'[^']*\/hypervisor\/([^']+)\.ts'/g)) {
    const [, what = '', name = ''] = match;
    if (!CHECKERS_MAY_KNOW.includes(name)) problems.push(`${relative(ROOT, file)} imports hypervisor/${name}.ts; checkers may know ${CHECKERS_MAY_KNOW.join(', ')}`);
    else if (name !== 'frame-table' && !what.startsWith('type ')) problems.push(`${relative(ROOT, file)} imports values of hypervisor/${name}.ts; checkers may import its types only`);
  }
  return problems;
}

function banProblems(file: string, text: string): string[] {
  const room = roomOf(file);
  const code = codeOnly(text);
  return BANS.filter((ban) => !ban.rooms.has(room) && ban.pattern.test(code)).map((ban) => `${relative(ROOT, file)} uses ${ban.what}`);
}

describe('house rules', () => {
  test('every import follows the table of rooms', () => {
    expect(sources.length).toBeGreaterThan(10);
    expect(sources.flatMap((file) => importProblems(file, readFileSync(file, 'utf8')))).toEqual([]);
  });

  test('nothing in the core reads a clock, unseeded chance or the host', () => {
    expect(sources.filter((file) => !isGenerated(file)).flatMap((file) => banProblems(file, readFileSync(file, 'utf8')))).toEqual([]);
  });

  test('checkers know the state of the hypervisor and none of its rules', () => {
    const checkers = sources.filter((file) => roomOf(file) === 'checkers');
    expect(checkers.length).toBeGreaterThan(5);
    expect(checkers.flatMap((file) => checkerProblems(file, readFileSync(file, 'utf8')))).toEqual([]);
  });

  test('the rules notice a breach', () => {
    const checker = join(ROOT, 'src/checkers/planted.ts');
    expect(checkerProblems(checker, "import type { PageRules } from '../hypervisor/pte-rules.ts';")).toHaveLength(1);
    expect(checkerProblems(checker, "import { takeFreePort, type EventPort } from '../hypervisor/event-channels.ts';")).toHaveLength(1);
    expect(checkerProblems(checker, "import { FRAME } from '../hypervisor/frame-table.ts';\nimport type { Domain } from '../hypervisor/domain.ts';")).toEqual([]);
    const inX86 = join(ROOT, 'src/x86/planted.ts');
    expect(importProblems(inX86, "import { a } from '../hypervisor/domain.ts';")).toHaveLength(1);
    expect(importProblems(inX86, "import { readFileSync } from 'node:fs';")).toHaveLength(1);
    expect(importProblems(join(ROOT, 'src/sim/planted.ts'), "import type { X } from '../log/reader.ts';")).toHaveLength(1);
    expect(banProblems(inX86, 'const t = Date.now();')).toHaveLength(1);
    expect(banProblems(inX86, 'xs.sort();')).toHaveLength(1);
    expect(banProblems(inX86, '// Date is banned\nconst s = "Date";')).toEqual([]);
  });

  test('files stay under 500 lines unless they are tables with a stated reason', () => {
    const long = sources.filter((file) => !isGenerated(file) && readFileSync(file, 'utf8').split('\n').length > 500).map((file) => relative(ROOT, file));
    expect(long).toEqual([]);
  });
});

describe('documents', () => {
  test('ARCHITECTURE.md and README.md name only files that exist', () => {
    for (const document of ['ARCHITECTURE.md', 'README.md']) {
      const text = readFileSync(join(ROOT, document), 'utf8');
      const named = [...text.matchAll(/`((?:src|test|scenarios|schemas|recordings)\/[A-Za-z0-9_./-]+)`/g)].map((match) => match[1] as string);
      expect(named.filter((name) => !existsSync(join(ROOT, name))), document).toEqual([]);
    }
    const architecture = readFileSync(join(ROOT, 'ARCHITECTURE.md'), 'utf8');
    for (const room of Object.keys(MAY_IMPORT).filter((name) => filesUnder(join(ROOT, 'src', name), ['.ts']).length > 0)) expect(architecture).toContain(`src/${room}/`);
  });

  test("the README opens with the two commands and shows the project's three uses", () => {
    const text = readFileSync(join(ROOT, 'README.md'), 'utf8');
    const first = text.indexOf('npm ci && npm start');
    const second = text.indexOf('npm ci && npm test');
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThan(800);
    expect(second).toBeGreaterThan(first);
  });
});
