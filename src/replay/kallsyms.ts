// The names that a Linux kernel carries of itself (CONFIG_KALLSYMS): distributions strip their kernels, but
// these tables stay in its read-only data, and nothing says where. So they are found by their shape, from the
// one that gives itself away: 256 tokens, of which each digit stands for itself, and behind them their offsets.
//
//   addresses | offsets, base    count  names  markers  [order of names]  tokens  index    [offsets, base]
//   (before 4.6)  (up to 6.3)                                             ^ found first      (6.4 and later)
//
// A name is a length (two bytes from 128 on) and so many tokens; the first letter is its type, as in a
// System.map. A marker is where in the names every 256th begins. Whatever is not exactly so gives no names.
// Source: scripts/kallsyms.c and kernel/kallsyms.c of Linux.

export interface KallsymsRow {
  readonly vaddr: number;
  /** As in a System.map: t and T are code. */
  readonly type: string;
  readonly name: string;
}

const TOKENS = 256;
const MARKED = 256;
const DIGITS = [...'0123456789'].flatMap((digit) => [digit.charCodeAt(0), 0]);
/** More symbols, or a table further away from the next one, than any kernel has. */
const MOST_SYMBOLS = 1 << 20;
const MOST_PADDING = 3 * MOST_SYMBOLS;
/** Debian's kernels take 9 million of these; what was made to look like tables all over is given up. */
const MOST_STEPS = 40_000_000;
const GAVE_UP = new Error('this file looks like tables of names all over');

/** What a search may still cost: about so many bytes or words looked at. */
class Effort {
  #left = MOST_STEPS;
  spend(steps: number): void {
    this.#left -= steps;
    if (this.#left < 0) throw GAVE_UP;
  }
}

/** Ascending by address; [] if the kernel has none. `wordBytes`: of its addresses. */
export function readKallsyms(bytes: Uint8Array, wordBytes: 4 | 8): KallsymsRow[] {
  try {
    return search(bytes, wordBytes, new Effort());
  } catch (error) {
    if (error !== GAVE_UP) throw error;
    return [];
  }
}

function search(bytes: Uint8Array, wordBytes: 4 | 8, effort: Effort): KallsymsRow[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const tokens = findTokens(bytes, view, effort);
  if (tokens === undefined) return [];
  for (const stride of [4, 8] as const) {
    const names = findNames(bytes, view, tokens.at, stride, wordBytes, effort);
    if (names === undefined) continue;
    const vaddrs = addressesOf(view, names, tokens.end, wordBytes);
    if (vaddrs === undefined) return [];
    const rows: KallsymsRow[] = [];
    let at = names.at;
    for (const vaddr of vaddrs) {
      const { length, from } = nameAt(bytes, at);
      let text = '';
      for (let i = from; i < from + length; i++) text += tokens.texts[bytes[i] as number] as string;
      rows.push({ vaddr, type: text.slice(0, 1), name: text.slice(1) });
      at = from + length;
    }
    return rows;
  }
  return [];
}

interface Tokens {
  readonly at: number;
  /** Behind the index. */
  readonly end: number;
  readonly texts: readonly string[];
}

function findTokens(bytes: Uint8Array, view: DataView, effort: Effort): Tokens | undefined {
  const last = DIGITS.length - 2;
  // A digit at every 20th byte is rare enough to look at what is around it.
  for (let at = 0; at < bytes.length; at += DIGITS.length) {
    const byte = bytes[at] as number;
    const from = byte >= 0x30 && byte <= 0x39 ? at - 2 * (byte - 0x30) : byte === 0 ? at - 1 - 2 * ((bytes[at - 1] ?? 0) - 0x30) : -1;
    if (from < 0 || bytes[from] !== 0x30 || bytes[from + last] !== 0x39 || !DIGITS.every((digit, index) => bytes[from + index] === digit)) continue;
    const found = tokensAround(bytes, view, from, effort);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** `digits`: where token '0' is, the 48th. The first token ends at the 48th NUL before it, and begins at one of the words there. */
function tokensAround(bytes: Uint8Array, view: DataView, digits: number, effort: Effort): Tokens | undefined {
  let at = digits;
  for (let ends = 0; at > 0 && ends < 0x30; ) if (bytes[--at] === 0) ends++;
  for (let from = at - (at % 4); from >= 0 && at - from < MARKED; from -= 4) {
    const found = tokensFrom(bytes, view, from, effort);
    if (found !== undefined) return found;
  }
  return undefined;
}

function tokensFrom(bytes: Uint8Array, view: DataView, at: number, effort: Effort): Tokens | undefined {
  const texts: string[] = [];
  const offsets: number[] = [];
  let next = at;
  while (texts.length < TOKENS) {
    const end = bytes.subarray(next, next + MARKED).indexOf(0) + next;
    effort.spend(MARKED);
    if (end < next) return undefined;
    offsets.push(next - at);
    texts.push(String.fromCharCode(...bytes.subarray(next, end)));
    next = end + 1;
  }
  for (const unit of [4, 8]) {
    const index = Math.ceil(next / unit) * unit;
    if (index + 2 * TOKENS <= bytes.length && offsets.every((offset, i) => view.getUint16(index + 2 * i, true) === offset)) return { at, end: index + 2 * TOKENS, texts };
  }
  return undefined;
}

interface Names {
  readonly at: number;
  readonly countAt: number;
  readonly count: number;
}

const nameAt = (bytes: Uint8Array, at: number): { readonly length: number; readonly from: number } => {
  const first = bytes[at] as number;
  return first < 128 ? { length: first, from: at + 1 } : { length: (first & 127) | ((bytes[at + 1] as number) << 7), from: at + 2 };
};

/** Backwards from the tokens: the markers, which fall to 0; the names before them; and their count. */
function findNames(bytes: Uint8Array, view: DataView, tokensAt: number, stride: 4 | 8, wordBytes: number, effort: Effort): Names | undefined {
  const word = (at: number): number => (at < 0 || at + stride > bytes.length || (stride === 8 && view.getUint32(at + 4, true) !== 0) ? -1 : view.getUint32(at, true));
  // Linux 6.2 has the order of the names in between, three bytes each: ends of the markers are tried further and further away.
  for (let end = Math.floor(tokensAt / stride) * stride, skipped = 0; end > 0 && skipped <= MOST_PADDING; end -= stride, skipped += stride) {
    const most = word(end - stride);
    if (most < MARKED || most > 1 << 26) continue;
    let at = end - stride;
    let markers = 1;
    while (word(at - stride) >= 0 && word(at - stride) < word(at) && word(at) - word(at - stride) >= MARKED) {
      effort.spend(1);
      at -= stride;
      markers++;
      if (word(at) === 0) break;
    }
    if (word(at) !== 0 || markers < 2) continue;
    for (let from = at - most - 1; from >= at - most - 2 * MARKED * 128 && from >= 8; from--) {
      if (from % 4 !== 0) continue;
      effort.spend(1);
      for (const countAt of new Set([from - wordBytes, from - 4])) {
        const count = view.getUint32(countAt, true);
        if (count <= (markers - 1) * MARKED || count > markers * MARKED || count > MOST_SYMBOLS) continue;
        if (marked(bytes, from, at, count, (index) => word(at + index * stride), effort)) return { at: from, countAt, count };
      }
    }
  }
  return undefined;
}

/** Do the names begin where the markers say? */
function marked(bytes: Uint8Array, from: number, limit: number, count: number, marker: (index: number) => number, effort: Effort): boolean {
  let at = from;
  for (let index = 0; index < count; index++) {
    effort.spend(1);
    if (index % MARKED === 0 && at - from !== marker(index / MARKED)) return false;
    const { length, from: text } = nameAt(bytes, at);
    if (length === 0 || text + length > limit) return false;
    at = text + length;
  }
  return limit - at < 16;
}

/** Behind the index (6.4), before the count as offsets to a base, or as they are; ascending, or undefined. */
function addressesOf(view: DataView, { countAt, count }: Names, tokensEnd: number, wordBytes: 4 | 8): number[] | undefined {
  const up = (at: number): number => Math.ceil(at / wordBytes) * wordBytes;
  const address = (at: number): number => (wordBytes === 8 ? Number(view.getBigInt64(at, true)) : view.getUint32(at, true));
  const inFile = (at: number, sizeBytes: number): boolean => at >= 0 && at + sizeBytes <= view.byteLength;
  const relative = (offsets: number, baseAt: number): number[] | undefined => {
    if (!inFile(offsets, 4 * count) || !inFile(baseAt, wordBytes)) return undefined;
    const base = address(baseAt);
    const values = Array.from({ length: count }, (_, index) => view.getInt32(offsets + 4 * index, true));
    // Where per-CPU symbols are plain numbers, all others count down from the base.
    const percpu = values.some((value) => value < 0);
    return values.map((value) => (percpu ? (value >= 0 ? value : base - 1 - value) : base + value));
  };
  const absolute = (at: number): number[] | undefined => (inFile(at, wordBytes * count) ? Array.from({ length: count }, (_, index) => address(at + wordBytes * index)) : undefined);
  const tried = [
    relative(countAt - wordBytes - up(4 * count), countAt - wordBytes),
    relative(up(tokensEnd), up(up(tokensEnd) + 4 * count)),
    absolute(countAt - wordBytes * count),
  ];
  return tried.find((vaddrs) => vaddrs !== undefined && isKernels(vaddrs, wordBytes));
}

/** Unsigned and ascending, as the kernel's own search needs them, and most of them in the kernel's half. */
function isKernels(vaddrs: readonly number[], wordBytes: 4 | 8): boolean {
  const unsigned = (vaddr: number): number => (vaddr < 0 ? vaddr + 2 ** 64 : vaddr);
  const low = wordBytes === 8 ? 2 ** 63 : 0x4000_0000;
  let high = 0;
  for (const [index, vaddr] of vaddrs.entries()) {
    if (index > 0 && unsigned(vaddr) < unsigned(vaddrs[index - 1] as number)) return false;
    if (unsigned(vaddr) >= low) high++;
  }
  return high * 2 > vaddrs.length && vaddrs.at(0) !== vaddrs.at(-1);
}
