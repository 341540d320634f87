import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { XS, xsOperationName } from '../../src/abi/xenstore.ts';
import { writeDomainEntries } from '../../src/dom0/domain-entries.ts';
import { DEFAULT_QUOTAS } from '../../src/dom0/store-state.ts';
import { perm } from '../../src/dom0/store-tree.ts';
import { Xenstored } from '../../src/dom0/xenstored.ts';

type OpName = keyof typeof XS;

/** A store with dom0 and domains 1 and 2; `ask` gives everything that domain is sent, NUL shown as |. */
class Bench {
  readonly store: Xenstored;
  constructor(quotas = DEFAULT_QUOTAS) {
    this.store = new Xenstored(quotas);
    for (const domId of [1, 2]) {
      writeDomainEntries(this.store, { domId, name: `dom${domId}`, memoryKib: 65536, maxMemoryKib: 65536, vcpus: 1, storeMfn: 5, storePort: 1, consoleMfn: 6, consolePort: 2 });
    }
  }
  ask(domId: number, op: OpName | number, payload: string, txId = 0): string[] {
    const connection = this.store.connection(domId);
    if (connection === undefined) return ['no connection'];
    this.store.handle(connection, { type: typeof op === 'number' ? op : XS[op], reqId: 9, txId, payload: payload.replaceAll('|', '\0') });
    return this.told(domId);
  }
  told(domId: number): string[] {
    return (this.store.connection(domId)?.out.splice(0) ?? []).map((message) => `${xsOperationName(message.type)} ${message.payload.replaceAll('\0', '|')}`);
  }
}

describe('one domain at its own nodes', () => {
  test.each<[string, readonly (readonly [OpName, string, string])[]]>([
    ['writes, reads and removes', [['WRITE', 'data/x|value', 'WRITE OK|'], ['READ', 'data/x|', 'READ value'], ['DIRECTORY', 'data|', 'DIRECTORY x|'], ['RM', 'data/x|', 'RM OK|'], ['READ', 'data/x|', 'ERROR ENOENT|']]],
    ['keeps bytes after the first NUL', [['WRITE', 'data/b|a|b|', 'WRITE OK|'], ['READ', 'data/b|', 'READ a|b|']]],
    ['makes what is missing above a node', [['WRITE', 'data/a/b/c|1', 'WRITE OK|'], ['READ', 'data/a/b|', 'READ '], ['GET_PERMS', 'data/a/b/c|', 'GET_PERMS n1|']]],
    ['may name its path in full', [['READ', '/local/domain/1/name|', 'READ dom1'], ['READ', 'name|', 'READ dom1']]],
    ['makes directories, again and again', [['MKDIR', 'data/d|', 'MKDIR OK|'], ['MKDIR', 'data/d|', 'MKDIR OK|'], ['DIRECTORY', 'data/d|', 'DIRECTORY ']]],
    ['removes what is not there if its parent is', [['RM', 'data/none|', 'RM OK|'], ['RM', 'data/none/more|', 'ERROR ENOENT|']]],
    ['lists nodes in the order of their creation', [['WRITE', 'data/z|', 'WRITE OK|'], ['WRITE', 'data/a|', 'WRITE OK|'], ['DIRECTORY', 'data|', 'DIRECTORY z|a|']]],
    ['asks for the disks it does not have', [['DIRECTORY', 'device/vbd|', 'ERROR ENOENT|'], ['DIRECTORY', 'device|', 'DIRECTORY ']]],
    ['learns where a domain lives', [['GET_DOMAIN_PATH', '1|', 'GET_DOMAIN_PATH /local/domain/1|'], ['GET_DOMAIN_PATH', '7|', 'GET_DOMAIN_PATH /local/domain/7|'], ['GET_DOMAIN_PATH', 'x|', 'ERROR EINVAL|']]],
    ['reads a directory in parts', [['WRITE', 'data/p|', 'WRITE OK|'], ['WRITE', 'data/q|', 'WRITE OK|'], ['DIRECTORY_PART', 'data|999|', 'DIRECTORY_PART 0||']]],
  ])('%s', (_what, steps) => {
    const bench = new Bench();
    for (const [op, payload, expected] of steps) {
      const [answer] = bench.ask(1, op, payload);
      expect(answer?.replace(/^DIRECTORY_PART \d+/, 'DIRECTORY_PART 0'), `${op} ${payload}`).toBe(expected);
    }
  });

  test.each<[OpName | number, string, string]>([
    ['READ', '', 'EINVAL'], ['READ', 'data', 'EINVAL'], ['READ', 'data|more|', 'EINVAL'], ['READ', 'data//x|', 'EINVAL'], ['READ', 'data/|', 'EINVAL'], ['READ', 'da ta|', 'EINVAL'],
    ['READ', '@releaseDomain|', 'EINVAL'], ['READ', `${'x'.repeat(3000)}|`, 'EINVAL'], ['WRITE', 'no-nul', 'EINVAL'], ['SET_PERMS', 'data|', 'EINVAL'], ['SET_PERMS', 'data|q1|', 'EINVAL'],
    ['SET_PERMS', 'data|n77|', 'ENOENT'], ['SET_PERMS', 'data|n2|', 'EPERM'], ['UNWATCH', 'data|t|', 'ENOENT'], ['UNWATCH', 'data|', 'EINVAL'], ['WATCH', 'data|', 'EINVAL'], ['TRANSACTION_END', 'T|', 'ENOENT'],
    ['TRANSACTION_END', 'X|', 'EINVAL'], ['INTRODUCE', '1|2|3|', 'EACCES'], ['RELEASE', '1|', 'EACCES'], ['IS_DOMAIN_INTRODUCED', '1|', 'EACCES'], ['CONTROL', 'help|', 'EACCES'], ['RESUME', '1|', 'EACCES'],
    ['WATCH_EVENT', '', 'ENOSYS'], [20, '', 'ENOSYS'], [0xffff, '', 'ENOSYS'], ['DIRECTORY_PART', 'data|', 'EINVAL'], ['WRITE', `data/big|${'x'.repeat(2100)}`, 'ENOSPC'], ['SET_PERMS', 'data|n1|r0|r2|r0|r2|', 'ENOSPC'],
  ])('%s %j is refused with %s', (op, payload, error) => {
    expect(new Bench().ask(1, op, payload)).toEqual([`ERROR ${error}|`]);
  });
});

describe('rights', () => {
  test('a domain does not see what is not shown to it, not even whether it is there', () => {
    const bench = new Bench();
    expect(bench.ask(1, 'READ', '/local/domain/2/name|')).toEqual(['ERROR EACCES|']);
    expect(bench.ask(1, 'READ', '/local/domain/2/nothing|')).toEqual(['ERROR EACCES|']);
    expect(bench.ask(1, 'WRITE', 'name|other')).toEqual(['ERROR EACCES|']);
    expect(bench.ask(0, 'READ', '/local/domain/2/name|')).toEqual(['READ dom2']);
  });

  test('a node may be opened for another domain, for reading, writing or both', () => {
    const bench = new Bench();
    bench.ask(1, 'WRITE', 'data/s|secret');
    expect(bench.ask(1, 'SET_PERMS', 'data/s|n1|r2|')).toEqual(['SET_PERMS OK|']);
    expect(bench.ask(2, 'READ', '/local/domain/1/data/s|')).toEqual(['READ secret']);
    expect(bench.ask(2, 'WRITE', '/local/domain/1/data/s|x')).toEqual(['ERROR EACCES|']);
    bench.ask(1, 'SET_PERMS', 'data/s|n1|b2|');
    expect(bench.ask(2, 'WRITE', '/local/domain/1/data/s|x')).toEqual(['WRITE OK|']);
    expect(bench.ask(1, 'GET_PERMS', 'data/s|')).toEqual(['GET_PERMS n1|b2|']);
  });

  test('the first entry is for everybody who has none', () => {
    const bench = new Bench();
    bench.ask(1, 'WRITE', 'data/s|secret');
    bench.ask(1, 'SET_PERMS', 'data/s|r1|n2|');
    expect(bench.ask(2, 'READ', '/local/domain/1/data/s|')).toEqual(['ERROR EACCES|']);
    bench.ask(1, 'SET_PERMS', 'data/s|r1|');
    expect(bench.ask(2, 'READ', '/local/domain/1/data/s|')).toEqual(['READ secret']);
  });

  test('a domain that is gone leaves no nodes and no rights', () => {
    const bench = new Bench();
    bench.ask(1, 'WRITE', 'data/s|x');
    bench.ask(1, 'SET_PERMS', 'data/s|n1|r2|');
    bench.store.release(2);
    expect(bench.ask(1, 'GET_PERMS', 'data/s|')).toEqual(['GET_PERMS n1|']);
    bench.store.release(1);
    expect(bench.store.readAsDom0('/local/domain/1/data')).toBeUndefined();
    expect(bench.store.readAsDom0('/local/domain/1/name')).toBe('dom1'); // dom0's own: the toolstack removes it
    expect(bench.store.connection(1)).toBeUndefined();
  });

  test('dom0 introduces, asks and releases', () => {
    const bench = new Bench();
    expect(bench.ask(0, 'IS_DOMAIN_INTRODUCED', '3|')).toEqual(['IS_DOMAIN_INTRODUCED F|']);
    expect(bench.ask(0, 'INTRODUCE', '3|77|1|')).toEqual(['INTRODUCE OK|']);
    expect(bench.ask(0, 'IS_DOMAIN_INTRODUCED', '3|')).toEqual(['IS_DOMAIN_INTRODUCED T|']);
    expect(bench.ask(0, 'RELEASE', '3|')).toEqual(['RELEASE OK|']);
    expect(bench.ask(0, 'RELEASE', '3|')).toEqual(['ERROR ENOENT|']);
    expect(bench.ask(0, 'INTRODUCE', '3|77|0|')).toEqual(['ERROR EINVAL|']);
  });
});

describe('watches', () => {
  test('a watch fires when it is set, for the node, for what is below it, and for removals', () => {
    const bench = new Bench();
    expect(bench.ask(1, 'WATCH', 'data|tok|')).toEqual(['WATCH OK|', 'WATCH_EVENT data|tok|']);
    expect(bench.ask(1, 'WRITE', 'data/a/b|1')).toEqual(['WATCH_EVENT data/a/b|tok|', 'WRITE OK|']);
    expect(bench.ask(1, 'MKDIR', 'data/a|')).toEqual(['MKDIR OK|']);
    expect(bench.ask(1, 'RM', 'data/a|')).toEqual(['WATCH_EVENT data/a|tok|', 'RM OK|']);
    expect(bench.ask(1, 'WATCH', 'data|tok|')).toEqual(['ERROR EEXIST|']);
    expect(bench.ask(1, 'UNWATCH', 'data|tok|')).toEqual(['UNWATCH OK|']);
    expect(bench.ask(1, 'WRITE', 'data/c|1')).toEqual(['WRITE OK|']);
  });

  test('each node that goes with its parent tells the watches on it', () => {
    const bench = new Bench();
    bench.ask(1, 'WRITE', 'data/a/b/c|1');
    bench.ask(1, 'WATCH', 'data/a/b|deep|');
    expect(bench.ask(1, 'RM', 'data/a|')).toEqual(['WATCH_EVENT data/a/b|deep|', 'RM OK|']);
  });

  test('a relative watch gives relative paths, an absolute one absolute paths', () => {
    const bench = new Bench();
    bench.ask(1, 'WATCH', '/local/domain/1/data|abs|');
    expect(bench.ask(1, 'WRITE', 'data/x|')).toEqual(['WATCH_EVENT /local/domain/1/data/x|abs|', 'WRITE OK|']);
  });

  test('nobody is told about nodes that he may not read', () => {
    const bench = new Bench();
    bench.ask(2, 'WATCH', '/local/domain/1/data|spy|');
    bench.ask(1, 'WRITE', 'data/x|1');
    expect(bench.told(2)).toEqual([]);
    bench.ask(1, 'SET_PERMS', 'data/x|n1|r2|');
    expect(bench.told(2)).toEqual(['WATCH_EVENT /local/domain/1/data/x|spy|']);
    bench.ask(1, 'SET_PERMS', 'data/x|n1|');
    expect(bench.told(2)).toEqual(['WATCH_EVENT /local/domain/1/data/x|spy|']); // losing the right is the last news
    bench.ask(1, 'WRITE', 'data/x|2');
    expect(bench.told(2)).toEqual([]);
  });

  test('domains that come and go fire the special names', () => {
    const bench = new Bench();
    bench.ask(1, 'WATCH', '@releaseDomain|gone|');
    bench.ask(0, 'WATCH', '@introduceDomain|new|');
    bench.store.introduce(3);
    expect(bench.told(0)).toEqual(['WATCH_EVENT @introduceDomain|new|']);
    bench.store.domainShutdown(3);
    bench.store.release(3);
    expect(bench.told(1)).toEqual(['WATCH_EVENT @releaseDomain|gone|', 'WATCH_EVENT @releaseDomain|gone|']);
  });

  test('a depth limits how far below a change may be', () => {
    const bench = new Bench();
    bench.ask(1, 'WATCH', 'data|near|1|');
    expect(bench.ask(1, 'WRITE', 'data/a|')).toEqual(['WATCH_EVENT data/a|near|', 'WRITE OK|']);
    expect(bench.ask(1, 'WRITE', 'data/a/b|')).toEqual(['WRITE OK|']);
  });

  test('an event that still waits is not queued twice', () => {
    const bench = new Bench();
    bench.ask(1, 'WATCH', 'data|tok|');
    for (let i = 0; i < 3; i++) bench.store.writeAsDom0('/local/domain/1/data/x', String(i));
    expect(bench.told(1)).toEqual(['WATCH_EVENT data/x|tok|']);
  });

  test('RESET_WATCHES forgets watches and transactions', () => {
    const bench = new Bench();
    bench.ask(1, 'WATCH', 'data|tok|');
    bench.ask(1, 'TRANSACTION_START', '|');
    expect(bench.ask(1, 'RESET_WATCHES', '|')).toEqual(['RESET_WATCHES OK|']);
    expect(bench.ask(1, 'WRITE', 'data/x|')).toEqual(['WRITE OK|']);
    expect(bench.ask(1, 'READ', 'data/x|', 1)).toEqual(['ERROR ENOENT|']);
  });
});

describe('transactions', () => {
  const start = (bench: Bench, domId: number): number => Number(/TRANSACTION_START (\d+)/.exec(bench.ask(domId, 'TRANSACTION_START', '|')[0] ?? '')?.[1]);

  test('changes are seen inside, and outside only after the end', () => {
    const bench = new Bench();
    bench.ask(1, 'WATCH', 'data|tok|');
    const id = start(bench, 1);
    expect(bench.ask(1, 'WRITE', 'data/x|1', id)).toEqual(['WRITE OK|']);
    expect(bench.ask(1, 'READ', 'data/x|', id)).toEqual(['READ 1']);
    expect(bench.ask(1, 'READ', 'data/x|')).toEqual(['ERROR ENOENT|']);
    expect(bench.ask(1, 'TRANSACTION_END', 'T|', id)).toEqual(['WATCH_EVENT data/x|tok|', 'TRANSACTION_END OK|']);
    expect(bench.ask(1, 'READ', 'data/x|')).toEqual(['READ 1']);
  });

  test('an abandoned one leaves nothing', () => {
    const bench = new Bench();
    const id = start(bench, 1);
    bench.ask(1, 'WRITE', 'data/x|1', id);
    expect(bench.ask(1, 'TRANSACTION_END', 'F|', id)).toEqual(['TRANSACTION_END OK|']);
    expect(bench.ask(1, 'READ', 'data/x|')).toEqual(['ERROR ENOENT|']);
  });

  test('a node that was read and changed by another one ends it with EAGAIN', () => {
    const bench = new Bench();
    bench.ask(1, 'WRITE', 'data/x|1');
    const id = start(bench, 1);
    bench.ask(1, 'READ', 'data/x|', id);
    bench.ask(1, 'WRITE', 'data/y|2', id);
    bench.store.writeAsDom0('/local/domain/1/data/x', 'changed');
    expect(bench.ask(1, 'TRANSACTION_END', 'T|', id)).toEqual(['ERROR EAGAIN|']);
    expect(bench.ask(1, 'READ', 'data/y|')).toEqual(['ERROR ENOENT|']);
  });

  test('a node that was looked for and created by another one does too', () => {
    const bench = new Bench();
    const id = start(bench, 1);
    bench.ask(1, 'READ', 'data/x|', id);
    bench.store.writeAsDom0('/local/domain/1/data/x', 'new');
    expect(bench.ask(1, 'TRANSACTION_END', 'T|', id)).toEqual(['ERROR EAGAIN|']);
  });

  test('changes elsewhere do not matter', () => {
    const bench = new Bench();
    const id = start(bench, 1);
    bench.ask(1, 'WRITE', 'data/mine|1', id);
    bench.store.writeAsDom0('/local/domain/1/memory/target', '1');
    expect(bench.ask(1, 'TRANSACTION_END', 'T|', id)).toEqual(['TRANSACTION_END OK|']);
  });

  test('a removal inside takes everything below with it', () => {
    const bench = new Bench();
    bench.ask(1, 'WRITE', 'data/a/b|1');
    const id = start(bench, 1);
    expect(bench.ask(1, 'RM', 'data/a|', id)).toEqual(['RM OK|']);
    expect(bench.ask(1, 'READ', 'data/a/b|', id)).toEqual(['ERROR ENOENT|']);
    expect(bench.ask(1, 'READ', 'data/a/b|')).toEqual(['READ 1']);
    bench.ask(1, 'TRANSACTION_END', 'T|', id);
    expect(bench.ask(1, 'READ', 'data/a/b|')).toEqual(['ERROR ENOENT|']);
    expect(bench.ask(1, 'DIRECTORY', 'data|')).toEqual(['DIRECTORY ']);
  });

  test('numbers of others are nobody, and there is a limit', () => {
    const bench = new Bench();
    const id = start(bench, 1);
    expect(bench.ask(2, 'READ', 'name|', id)).toEqual(['ERROR ENOENT|']);
    for (let i = 1; i < DEFAULT_QUOTAS.transactions; i++) start(bench, 1);
    expect(bench.ask(1, 'TRANSACTION_START', '|')).toEqual(['ERROR ENOSPC|']);
    expect(bench.ask(1, 'TRANSACTION_START', '|', id)).toEqual(['ERROR EBUSY|']);
  });
});

describe('limits', () => {
  const small = { ...DEFAULT_QUOTAS, nodes: 12, watches: 2 };
  test('a domain may own so many nodes and set so many watches', () => {
    const bench = new Bench(small);
    const answers = Array.from({ length: 8 }, (_, index) => bench.ask(1, 'WRITE', `data/n${index}|`)[0]);
    expect(answers.filter((answer) => answer === 'ERROR ENOSPC|').length).toBeGreaterThan(0);
    expect(bench.store.tree.ownedBy(1)).toBe(small.nodes);
    expect(bench.ask(1, 'WRITE', 'data/p/q/r|')).toEqual(['ERROR ENOSPC|']);
    expect(bench.ask(1, 'READ', 'data/p|')).toEqual(['ERROR ENOENT|']);
    bench.ask(1, 'RM', 'data/n0|');
    expect(bench.ask(1, 'WRITE', 'data/again|')).toEqual(['WRITE OK|']);
    bench.ask(1, 'WATCH', 'data|a|');
    bench.ask(1, 'WATCH', 'data|b|');
    expect(bench.ask(1, 'WATCH', 'data|c|')).toEqual(['ERROR ENOSPC|']);
  });

  test('a directory too long for one answer is read in parts', () => {
    const bench = new Bench();
    for (let i = 0; i < 400; i++) bench.store.writeAsDom0(`/local/domain/1/data/long-name-${i}`, '');
    expect(bench.ask(1, 'DIRECTORY', 'data|')).toEqual(['ERROR E2BIG|']);
    const names: string[] = [];
    for (let offset = 0; ; ) {
      const [answer] = bench.ask(1, 'DIRECTORY_PART', `data|${offset}|`);
      const list = (answer as string).replace(/^DIRECTORY_PART \d+\|/, '');
      const whole = list.endsWith('||') || list === '|';
      names.push(...list.split('|').filter((name) => name !== ''));
      if (whole) break;
      offset += list.length;
    }
    expect(names).toEqual(Array.from({ length: 400 }, (_, index) => `long-name-${index}`));
  });
});

describe('properties', () => {
  /** A model without transactions and rights: a map from path to value. */
  test('without transactions the store is a map from paths to values', () => {
    const path = fc.array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));
    const step = fc.record({ op: fc.constantFrom('WRITE', 'RM', 'MKDIR', 'READ', 'DIRECTORY' as const), path, value: fc.constantFrom('', '1', 'two') });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const bench = new Bench();
        const model = new Map<string, string>([['data', '']]);
        for (const { op, path: name, value } of steps) {
          const full = `data/${name}`;
          const answer = bench.ask(1, op as OpName, op === 'WRITE' ? `${full}|${value}` : `${full}|`)[0];
          const parts = full.split('/');
          if (op === 'WRITE' || op === 'MKDIR') {
            parts.forEach((_, index) => {
              const up = parts.slice(0, index + 1).join('/');
              if (!model.has(up)) model.set(up, '');
            });
            if (op === 'WRITE') model.set(full, value);
          } else if (op === 'RM') {
            const parentThere = model.has(parts.slice(0, -1).join('/'));
            expect(answer).toBe(parentThere ? 'RM OK|' : 'ERROR ENOENT|');
            for (const key of [...model.keys()]) if (key === full || key.startsWith(`${full}/`)) model.delete(key);
          } else if (op === 'READ') expect(answer).toBe(model.has(full) ? `READ ${model.get(full)}` : 'ERROR ENOENT|');
          else {
            const below = [...model.keys()].filter((key) => key.startsWith(`${full}/`) && !key.slice(full.length + 1).includes('/'));
            const shown = (answer ?? '').replace('DIRECTORY ', '').split('|').filter((entry) => entry !== '');
            if (model.has(full)) expect(shown.sort((a, b) => (a < b ? -1 : 1))).toEqual(below.map((key) => key.slice(full.length + 1)).sort((a, b) => (a < b ? -1 : 1)));
            else expect(answer).toBe('ERROR ENOENT|');
          }
        }
        expect(bench.store.tree.ownedBy(1)).toBe(bench.store.tree.paths().filter((name) => bench.store.tree.peek(name)?.perms[0]?.domId === 1).length);
      }),
      { seed: 31, numRuns: 150 },
    );
  });

  test('anything at all gets one answer, keeps the counts right and survives saving', () => {
    const text = fc.oneof(fc.constantFrom('data', 'data/x', 'name', '/', '/local/domain/1', '@releaseDomain', 'device', '', '..', 'T', 'F', '1', 'n1', 'r2', 'tok'), fc.string({ maxLength: 6 }));
    const step = fc.record({ domId: fc.constantFrom(1, 2), op: fc.nat(28), texts: fc.array(text, { maxLength: 4 }), txId: fc.constantFrom(0, 0, 0, 1, 2) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        let bench = new Bench();
        for (const { domId, op, texts, txId } of steps) {
          const answers = bench.ask(domId, op, texts.map((entry) => `${entry}|`).join(''), txId);
          expect(answers.filter((answer) => !answer.startsWith('WATCH_EVENT ')).length).toBe(1);
          bench.told(3 - domId);
        }
        for (const domId of [1, 2]) expect(bench.store.tree.ownedBy(domId)).toBe(bench.store.tree.paths().filter((name) => bench.store.tree.peek(name)?.perms[0]?.domId === domId).length);
        const saved = JSON.parse(JSON.stringify(bench.store.save())) as unknown;
        bench = new Bench();
        bench.store.restore(saved);
        expect(JSON.stringify(bench.store.save())).toBe(JSON.stringify(saved));
      }),
      { seed: 32, numRuns: 150 },
    );
  });

  test('the toolstack gives nodes the rights it names', () => {
    const bench = new Bench();
    bench.store.writeAsDom0('/local/domain/1/device/vif/0/state', '1', [perm(1, ''), perm(0, 'r')]);
    expect(bench.ask(1, 'GET_PERMS', 'device/vif/0/state|')).toEqual(['GET_PERMS n1|r0|']);
    expect(bench.ask(1, 'WRITE', 'device/vif/0/state|2')).toEqual(['WRITE OK|']);
  });
});
