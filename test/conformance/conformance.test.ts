// The hypervisor answers as real Xen did: recorded scripts, every result and every final page.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { UsageError } from '../../src/base/assert.ts';
import { destroyDomain } from '../../src/hypervisor/destroy-domain.ts';
import { PAGE_RULES } from '../../src/hypervisor/pte-rules.ts';
import { BAD_RECORDINGS } from '../../src/replay/conform-exceptions.ts';
import { ConformRunner, type Difference } from '../../src/replay/conform.ts';
import { parseScripts, type Script } from '../../src/replay/conform-script.ts';

const HERE = import.meta.dirname;
const filesOf = (directory: string): string[] => readdirSync(directory).filter((name) => name.endsWith('.jsonl.gz')).sort().map((name) => join(directory, name));
const scriptsOf = (file: string): Script[] => parseScripts(gunzipSync(readFileSync(file)).toString('utf8'), file);

/** Differences of scripts that are not listed as bad recordings, the first few in full. */
function judge(runner: ConformRunner, scripts: readonly Script[]): { differing: string[]; first: Difference[] } {
  const differing: string[] = [];
  const first: Difference[] = [];
  for (const script of scripts) {
    const found = runner.run(script);
    if (found.length === 0 || BAD_RECORDINGS[script.id] !== undefined) continue;
    differing.push(script.id);
    if (first.length < 5) first.push(...found.slice(0, 2));
  }
  return { differing, first };
}
const AGREES = { differing: [], first: [] };

describe('recorded answers of real Xen', () => {
  for (const file of filesOf(HERE)) {
    test(`every script of ${file.slice(HERE.length + 1)} agrees`, { timeout: 60_000 }, () => {
      expect(judge(new ConformRunner(), scriptsOf(file))).toEqual(AGREES);
    });
  }

  const whole = process.env['REXEN_CONFORMANCE'];
  test.runIf(whole !== undefined && process.env['REXEN_DEPTH'] === 'long')('the whole recorded set agrees in under a minute', { timeout: 300_000 }, () => {
    const started = performance.now();
    for (const file of filesOf(whole as string)) expect(judge(new ConformRunner(), scriptsOf(file))).toEqual(AGREES);
    expect(performance.now() - started).toBeLessThan(60_000);
  });

  test('no more than a dozen recordings are listed as bad, and those that are here do differ', () => {
    expect(Object.keys(BAD_RECORDINGS).length).toBeLessThanOrEqual(12);
    const runner = new ConformRunner();
    const here = filesOf(HERE).flatMap(scriptsOf).filter((script) => BAD_RECORDINGS[script.id] !== undefined);
    expect(here.length).toBeGreaterThan(0);
    for (const script of here) expect(runner.run(script), script.id).not.toEqual([]);
  });
});

describe('files that are no scripts', () => {
  const good = JSON.stringify({ id: 'a', abi: 'pv64', family: 'mm', sub: 's', ops: [], results: [] });
  test('are refused with file and line', () => {
    expect(() => parseScripts(`${good}\n{"id":"b"}`, 'some.jsonl')).toThrow(/some\.jsonl, line 2,/);
    expect(() => parseScripts('not json', 'some.jsonl')).toThrow(UsageError);
    expect(() => parseScripts('\n\n', 'some.jsonl')).toThrow(/holds no conformance scripts/);
    expect(parseScripts(`${good}\n`, 'some.jsonl')).toHaveLength(1);
  });
  test('a name that the format does not know is the file\'s mistake, not ours', () => {
    const script = { ...(JSON.parse(good) as Script), ops: [{ op: 'uvm', va: 'w0', val: 'f99:63', fl: 2 }], results: [0] };
    expect(() => new ConformRunner().run(script)).toThrow(UsageError);
  });
  test.each<object>([{ op: 'evt', cmd: 'levitate' }, { op: 'ext', req: [['levitate', 'f1']] }, { op: 'assist', cmd: 'levitate', type: 2 }, { op: 'mem', cmd: 'levitate' }, { op: 'mmu', req: [['x', 'f1[0]', '0']] }])('so is a command: %j', (op) => {
    const [script] = parseScripts(`${JSON.stringify({ ...(JSON.parse(good) as Script), ops: [op], results: [0] })}\n`, 'some.jsonl');
    expect(() => new ConformRunner().run(script as Script)).toThrow(UsageError);
  });
  test.each<object>([{ op: 'evt' }, { op: 'ext', req: [7] }, { op: 'ext', req: [[]] }, { op: 'mmu', req: ['n'] }, { op: 'gmap', req: [['w0']] }, { op: 'gset', ref: 1 }, { op: 'gsetver' }])('and an operation without what it needs is refused with file and line: %j', (op) => {
    expect(() => parseScripts(`${JSON.stringify({ ...(JSON.parse(good) as Script), ops: [op], results: [0] })}\n`, 'some.jsonl')).toThrow(/some\.jsonl, line 1/);
  });
  test('an operation that nobody knows differs and says so', () => {
    const script = { ...(JSON.parse(good) as Script), ops: [{ op: 'levitate' }], results: [0] };
    expect(new ConformRunner().run(script)[0]?.actual).toBe('no such operation: levitate');
  });
});

describe('what no answer may depend on', () => {
  const mm = filesOf(HERE).filter((file) => /mm\.[^/]*$/.test(file)).flatMap(scriptsOf);

  test('a batch that is preempted between any two units of work ends as one that is not', { timeout: 60_000 }, () => {
    let preempted = 0;
    const always = new ConformRunner({ preempt: () => ((preempted += 1), true) });
    expect(judge(always, mm.filter((_, i) => i % 3 === 0))).toEqual(AGREES);
    expect(preempted).toBeGreaterThan(10_000);
    let state = 12345;
    const sometimes = new ConformRunner({ preempt: () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) < 0x1000_0000 });
    expect(judge(sometimes, mm.filter((_, i) => i % 3 === 1))).toEqual(AGREES);
  });

  test('after any script, destroying the domain leaves no frame, no reference and no type behind', { timeout: 60_000 }, () => {
    const left: string[] = [];
    const runner = new ConformRunner({
      afterScript: ({ hv, d1 }) => {
        destroyDomain(hv, d1);
        const { frames } = hv;
        for (let mfn = 0; mfn < frames.frameCount; mfn++) if (frames.owner[mfn] === d1.domId) left.push(frames.describe(mfn));
        if (d1.totPages !== 0 || hv.domains.has(d1.domId)) left.push(`d1 keeps ${d1.totPages} pages`);
      },
    });
    for (const script of mm) runner.run(script);
    expect(left).toEqual([]);
  });
});

describe('the scripts have teeth', () => {
  const mm = filesOf(HERE).filter((file) => /mm\.[^/]*$/.test(file)).flatMap(scriptsOf);
  const mutants = {
    'a linear entry may be writable': { ...PAGE_RULES, linearReadOnly: false },
    'a writable mapping takes no type': { ...PAGE_RULES, writableTakesType: false },
    'linear tables may be chained': { ...PAGE_RULES, linearDepthOne: false },
    'Xen adds no bits to upper entries': { ...PAGE_RULES, added: { ...PAGE_RULES.added, pv64: [0, 0, 0, 0, 0] as const, pv32pae: [0, 0, 0, 0, 0] as const } },
    'RW may change without a check': { ...PAGE_RULES, fastPath: [0, 0xfffe66, 0xfffe66, 0xfffe66, 0xfffe66] as const },
  };
  for (const [name, rules] of Object.entries(mutants)) {
    test(`they notice if ${name}`, { timeout: 60_000 }, () => {
      const runner = new ConformRunner({ rules });
      const noticed = mm.some((script) => {
        if (BAD_RECORDINGS[script.id] !== undefined) return false;
        try {
          return runner.run(script).length > 0;
        } catch (error) {
          // An assertion that trips is a notice too.
          if (error instanceof Error && error.name === 'InvariantViolation') return true;
          throw error;
        }
      });
      expect(noticed).toBe(true);
    });
  }
});
