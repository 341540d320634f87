// The syntax of xl.cfg: assignments of strings, numbers and lists, one a line, with `+=` to add to an
// earlier value. Values keep the line they stand on, since every complaint names it.
// Source: docs/man/xl.cfg.5, tools/libs/util/libxlu_cfg_l.l and libxlu_cfg_y.y.
import { UsageError } from '../../base/assert.ts';

export type XlValue =
  | { readonly kind: 'text'; readonly text: string; readonly line: number }
  | { readonly kind: 'list'; readonly items: readonly XlValue[]; readonly line: number };

/** By key, in the order in which they are first assigned. */
export type XlConfig = ReadonlyMap<string, XlValue>;

type Token = { readonly kind: 'word' | 'number' | 'text' | 'mark' | 'end'; readonly text: string; readonly line: number };

const TOKENS = /[ \t\r]+|#[^\n]*|(?<newline>\n)|(?<mark>\+=|[=[\],;])|(?<number>0[xX][0-9a-fA-F]+|-?[0-9]+)|(?<word>[A-Za-z_][A-Za-z0-9_]*)|"(?<double>(?:[^"\\\n]|\\.)*)"|'(?<single>(?:[^'\\\n]|\\.)*)'/y;

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', t: '\t', r: '\r', a: '\x07', b: '\b', f: '\f', v: '\v' };
const unescape = (text: string): string => text.replace(/\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)/g, (_all, code: string) => (/^x../.test(code) ? String.fromCharCode(parseInt(code.slice(1), 16)) : /^[0-7]{3}$/.test(code) ? String.fromCharCode(parseInt(code, 8)) : (ESCAPES[code] ?? code)));

function tokensOf(file: string, source: string): Token[] {
  const tokens: Token[] = [];
  let line = 1;
  TOKENS.lastIndex = 0;
  while (TOKENS.lastIndex < source.length) {
    const at = TOKENS.lastIndex;
    const groups = TOKENS.exec(source)?.groups;
    if (groups === undefined) throw new UsageError(`${file}:${line}: ${JSON.stringify(source.slice(at).split('\n')[0]?.slice(0, 40))} is no xl.cfg syntax; write key = "text", key = 12 or key = [ "a", "b" ]`);
    const { newline, mark, number, word, double, single } = groups;
    if (newline !== undefined) tokens.push({ kind: 'end', text: 'the end of the line', line: line++ });
    else if (mark !== undefined) tokens.push(mark === ';' ? { kind: 'end', text: ';', line } : { kind: 'mark', text: mark, line });
    else if (number !== undefined) tokens.push({ kind: 'number', text: String(Number(number)), line });
    else if (word !== undefined) tokens.push({ kind: 'word', text: word, line });
    else if (double !== undefined || single !== undefined) tokens.push({ kind: 'text', text: unescape((double ?? single) as string), line });
  }
  tokens.push({ kind: 'end', text: 'the end of the file', line });
  return tokens;
}

class Parser {
  readonly #file: string;
  readonly #tokens: readonly Token[];
  #at = 0;

  constructor(file: string, source: string) {
    this.#file = file;
    this.#tokens = tokensOf(file, source);
  }

  parse(): XlConfig {
    const config = new Map<string, XlValue>();
    while (this.#at < this.#tokens.length) {
      const token = this.#next();
      if (token.kind === 'end') continue;
      if (token.kind !== 'word') this.#complain(token, 'a key');
      const mark = this.#next();
      if (mark.text !== '=' && mark.text !== '+=') this.#complain(mark, `= after ${token.text}`);
      const value = this.#value();
      const end = this.#next();
      if (end.kind !== 'end') this.#complain(end, 'the end of the line');
      config.set(token.text, mark.text === '+=' ? this.#joined(token, config.get(token.text), value) : value);
    }
    return config;
  }

  #next(): Token {
    return this.#tokens[this.#at++] ?? (this.#tokens.at(-1) as Token);
  }

  #value(): XlValue {
    const token = this.#next();
    const { line } = token;
    if (token.kind === 'text' || token.kind === 'number') return { kind: 'text', text: token.text, line };
    if (token.text !== '[') this.#complain(token, 'a text, a number or a list');
    const items: XlValue[] = [];
    for (;;) {
      const item = this.#afterLines();
      if (item.text === ']' && item.kind === 'mark') return { kind: 'list', items, line };
      this.#at--;
      items.push(this.#value());
      const after = this.#afterLines();
      if (after.kind === 'mark' && after.text === ']') return { kind: 'list', items, line };
      if (after.kind !== 'mark' || after.text !== ',') this.#complain(after, ', or ]');
    }
  }

  /** Inside a list, lines end without meaning. */
  #afterLines(): Token {
    for (;;) {
      const token = this.#next();
      if (token.kind !== 'end' || this.#at >= this.#tokens.length) return token;
    }
  }

  #joined(key: Token, old: XlValue | undefined, more: XlValue): XlValue {
    if (old === undefined) return more;
    if (old.kind === 'text' && more.kind === 'text') return { ...old, text: old.text + more.text };
    if (old.kind === 'list' && more.kind === 'list') return { ...old, items: [...old.items, ...more.items] };
    throw new UsageError(`${this.#file}:${key.line}: ${key.text} was a ${old.kind} on line ${old.line}; a ${more.kind} cannot be added to it`);
  }

  #complain(token: Token, wanted: string): never {
    throw new UsageError(`${this.#file}:${token.line}: there is ${token.kind === 'end' ? token.text : JSON.stringify(token.text)} where ${wanted} should be`);
  }
}

/** Throws UsageError with file and line. */
export const parseXlConfig = (file: string, source: string): XlConfig => new Parser(file, source).parse();
