// A chunk's events turned on their side before they are compressed: all kinds, then all values of one
// field of one kind, each as its difference from the one before. What repeats stands together then, and
// DEFLATE finds it: some 30 percent less than the events in a row. The bytes that digests and replay
// see are the events in a row, as the encoder made them: fromColumns() gives back exactly those.
//
//   how many events · their kinds · then kind by kind, in the order in which they first appear:
//     which position fields there are · each of them (domain, vcpu, insns_delta, time_skew_ns)
//     f1, 0 where it is absent · then group by group: which fields there are · f2 · .. · f14
//     the lengths of the byte strings · the byte strings
//
// A group is a value of f1, if that is small (the number of a hypercall, the name of a choice). Every
// column is as long as the ones before it say, so no lengths are written.
//
// Whatever is not in canonical form is not turned (toColumns gives undefined) and stays in a row.
// Not here: compression, and whether it is worth it (writer.ts).
import { MAX_VARINT_BYTES, readVarint, varint, writeVarint32, writeVarint64, writeZigzag64, unzigzag } from '../base/varint.ts';

const BYTES_FIELD = 15;
const POSITION_FIELDS = 4;
const EVENT_TAG = (1 << 3) | 2;
/** Values of f1 from here on are one group. */
const MANY = 64;
const groupOf = (lo: number, hi: number): number => (hi === 0 && lo < MANY ? lo : MANY);

// -- turning --------------------------------------------------------------------------------------

/** Bytes that grow. */
class Column {
  bytes = new Uint8Array(64);
  at = 0;
  #lo = 0;
  #hi = 0;

  room(size: number): void {
    if (this.at + size <= this.bytes.length) return;
    const grown = new Uint8Array(Math.max(this.bytes.length * 2, this.at + size));
    grown.set(this.bytes.subarray(0, this.at));
    this.bytes = grown;
  }
  plain(lo: number, hi = 0): void {
    this.room(MAX_VARINT_BYTES);
    this.at = writeVarint64(this.bytes, this.at, lo, hi);
  }
  difference(lo: number, hi: number): void {
    this.room(MAX_VARINT_BYTES);
    this.at = writeZigzag64(this.bytes, this.at, (lo - this.#lo) | 0, (hi - this.#hi - (lo < this.#lo ? 1 : 0)) | 0);
    this.#lo = lo;
    this.#hi = hi;
  }
  append(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }
}
const column = (): Column => new Column();

/** Columns of one group of a kind: which fields there are, and the fields 2 to 14. */
class GroupColumns {
  readonly masks = column();
  readonly fields = Array.from({ length: BYTES_FIELD }, column);
}
class KindColumns {
  readonly shapes = column();
  readonly position = Array.from({ length: POSITION_FIELDS }, column);
  readonly first = column();
  readonly groups = new Map<number, GroupColumns>();
  readonly lengths = column();
  readonly strings = column();

  group(number: number): GroupColumns {
    let group = this.groups.get(number);
    if (group === undefined) this.groups.set(number, (group = new GroupColumns()));
    return group;
  }
  all(): Column[] {
    const groups = [...this.groups.values()].flatMap(({ masks, fields }) => [masks, ...fields]);
    return [this.shapes, ...this.position, this.first, ...groups, this.lengths, this.strings];
  }
}

/** The columns of the events, or undefined if the bytes are not canonical events. */
export function toColumns(events: Uint8Array): Uint8Array | undefined {
  const kinds = column();
  const byKind = new Map<number, KindColumns>();
  let count = 0;
  for (let at = 0; at < events.length; count++) {
    if (events[at] !== EVENT_TAG) return undefined;
    at = readVarint(events, at + 1, events.length);
    const end = at < 0 ? -1 : at + varint.lo;
    if (at < 0 || end > events.length || !turnEvent(kinds, byKind, events, at, end)) return undefined;
    at = end;
  }
  const out = column();
  out.plain(count);
  for (const { bytes, at } of [kinds, ...[...byKind.values()].flatMap((kind) => kind.all())]) out.append(bytes.subarray(0, at));
  return out.bytes.subarray(0, out.at);
}

const position = { lo: new Uint32Array(POSITION_FIELDS), hi: new Uint32Array(POSITION_FIELDS) };

/** One event at events[at..end). False: not canonical. */
function turnEvent(kinds: Column, byKind: Map<number, KindColumns>, events: Uint8Array, at: number, end: number): boolean {
  let shape = 0;
  let number = 0;
  for (let before = 0; number === 0; ) {
    at = readVarint(events, at, end);
    const field = varint.lo >>> 3;
    if (at < 0 || field <= before || (varint.lo & 7) !== (field > POSITION_FIELDS ? 2 : 0)) return false;
    at = readVarint(events, at, end);
    if (at < 0) return false;
    before = field;
    if (field > POSITION_FIELDS) number = field;
    else {
      shape |= 1 << (field - 1);
      position.lo[field - 1] = varint.lo;
      position.hi[field - 1] = varint.hi;
    }
  }
  if (at + varint.lo !== end) return false;
  kinds.plain(number);
  let kind = byKind.get(number);
  if (kind === undefined) byKind.set(number, (kind = new KindColumns()));
  kind.shapes.plain(shape);
  for (let i = 0; i < POSITION_FIELDS; i++) if ((shape & (1 << i)) !== 0) kind.position[i]?.plain(position.lo[i] as number, position.hi[i]);
  return turnBody(kind, events, at, end);
}

const body = { lo: new Uint32Array(BYTES_FIELD + 1), hi: new Uint32Array(BYTES_FIELD + 1) };

function turnBody(kind: KindColumns, events: Uint8Array, at: number, end: number): boolean {
  let mask = 0;
  body.lo[1] = body.hi[1] = 0;
  for (let before = 0; at < end; ) {
    at = readVarint(events, at, end);
    const field = varint.lo >>> 3;
    if (at < 0 || field <= before || field > BYTES_FIELD || (varint.lo & 7) !== (field === BYTES_FIELD ? 2 : 0)) return false;
    at = readVarint(events, at, end);
    if (at < 0 || at > end) return false;
    before = field;
    mask |= 1 << field;
    body.lo[field] = varint.lo;
    body.hi[field] = varint.hi;
    if (field !== BYTES_FIELD) continue;
    kind.lengths.plain(varint.lo);
    kind.strings.append(events.subarray(at, at + varint.lo));
    at += varint.lo;
  }
  if (at !== end) return false;
  const firstLo = body.lo[1] as number;
  const firstHi = body.hi[1] as number;
  kind.first.difference(firstLo, firstHi);
  const group = kind.group(groupOf(firstLo, firstHi));
  group.masks.plain(mask & ~2);
  for (let field = 2; field < BYTES_FIELD; field++) if ((mask & (1 << field)) !== 0) group.fields[field]?.difference(body.lo[field] as number, body.hi[field] as number);
  return true;
}

// -- turning back ---------------------------------------------------------------------------------

/** Thrown and caught in this file: the columns end too early, or say what no columns say. */
class NoColumns extends Error {}

/** The values of one column, taken one by one. */
class Values {
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
  next = 0;
  constructor(count: number) {
    this.lo = new Uint32Array(count);
    this.hi = new Uint32Array(count);
  }
}
/** Most columns of most kinds: nothing is ever taken from them. */
const NO_VALUES = new Values(0);
/** How many of the column's values have bit `bit`. */
function countBit(values: Values, bit: number): number {
  let count = 0;
  for (const value of values.lo) count += (value >>> bit) & 1;
  return count;
}

class ColumnReader {
  readonly #bytes: Uint8Array;
  at = 0;
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }
  get left(): number {
    return this.#bytes.length - this.at;
  }
  /** A count of things that take a byte each at least. */
  count(): number {
    this.#read();
    if (varint.hi !== 0 || varint.lo > this.left) throw new NoColumns();
    return varint.lo;
  }
  plain(count: number): Values {
    if (count === 0) return NO_VALUES;
    const values = new Values(count);
    for (let i = 0; i < count; i++) {
      this.#read();
      values.lo[i] = varint.lo;
      values.hi[i] = varint.hi;
    }
    return values;
  }
  differences(count: number): Values {
    if (count === 0) return NO_VALUES;
    const values = new Values(count);
    let lo = 0;
    let hi = 0;
    for (let i = 0; i < count; i++) {
      this.#read();
      unzigzag();
      const sum = lo + varint.lo;
      hi = (hi + varint.hi + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
      lo = sum >>> 0;
      values.lo[i] = lo;
      values.hi[i] = hi;
    }
    return values;
  }
  string(length: number): Uint8Array {
    if (length > this.left) throw new NoColumns();
    this.at += length;
    return this.#bytes.subarray(this.at - length, this.at);
  }
  #read(): void {
    this.at = readVarint(this.#bytes, this.at, this.#bytes.length);
    if (this.at < 0) throw new NoColumns();
  }
}

interface KindValues {
  readonly shapes: Values;
  readonly position: readonly Values[];
  readonly first: Values;
  readonly groups: ReadonlyMap<number, { readonly masks: Values; readonly fields: readonly Values[] }>;
  readonly lengths: Values;
  readonly strings: Uint8Array;
  stringsAt: number;
}

function readKind(reader: ColumnReader, count: number): KindValues {
  const shapes = reader.plain(count);
  const positions = Array.from({ length: POSITION_FIELDS }, (_, i) => reader.plain(countBit(shapes, i)));
  const first = reader.differences(count);
  const members = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const number = groupOf(first.lo[i] as number, first.hi[i] as number);
    members.set(number, (members.get(number) ?? 0) + 1);
  }
  const groups = new Map<number, { masks: Values; fields: Values[] }>();
  let strings = 0;
  for (const [number, size] of members) {
    const masks = reader.plain(size);
    groups.set(number, { masks, fields: Array.from({ length: BYTES_FIELD }, (_, field) => reader.differences(field < 2 ? 0 : countBit(masks, field))) });
    strings += countBit(masks, BYTES_FIELD);
  }
  const lengths = reader.plain(strings);
  return { shapes, position: positions, first, groups, lengths, strings: reader.string(lengths.lo.reduce((sum, length) => sum + length, 0)), stringsAt: 0 };
}

/** The events of these columns, if they are exactly `rawBytes` long. */
export function fromColumns(bytes: Uint8Array, rawBytes: number): Uint8Array | undefined {
  try {
    const reader = new ColumnReader(bytes);
    const kinds = reader.plain(reader.count());
    const members = new Map<number, number>();
    for (const kind of kinds.lo) members.set(kind, (members.get(kind) ?? 0) + 1);
    const byKind = new Map<number, KindValues>();
    for (const [kind, count] of members) byKind.set(kind, readKind(reader, count));
    const out = column();
    out.room(rawBytes);
    for (const kind of kinds.lo) {
      writeEvent(kind, byKind.get(kind) as KindValues, out);
      if (out.at > rawBytes) return undefined;
    }
    return reader.left === 0 && out.at === rawBytes ? out.bytes.subarray(0, rawBytes) : undefined;
  } catch (error) {
    if (error instanceof NoColumns) return undefined;
    throw error;
  }
}

const HEAD = column();
const BODY = column();

function putField(to: Column, field: number, values: Values): void {
  to.plain(field << 3);
  to.plain(values.lo[values.next] as number, values.hi[values.next]);
  values.next++;
}

function writeEvent(number: number, kind: KindValues, out: Column): void {
  HEAD.at = BODY.at = 0;
  const shape = kind.shapes.lo[kind.shapes.next++] as number;
  for (let i = 0; i < POSITION_FIELDS; i++) if ((shape & (1 << i)) !== 0) putField(HEAD, i + 1, kind.position[i] as Values);
  writeBody(kind);
  HEAD.plain(((number << 3) | 2) >>> 0);
  HEAD.plain(BODY.at);
  out.room(1 + MAX_VARINT_BYTES);
  out.bytes[out.at++] = EVENT_TAG;
  out.at = writeVarint32(out.bytes, out.at, HEAD.at + BODY.at);
  out.append(HEAD.bytes.subarray(0, HEAD.at));
  out.append(BODY.bytes.subarray(0, BODY.at));
}

function writeBody(kind: KindValues): void {
  const { first } = kind;
  const lo = first.lo[first.next] as number;
  const hi = first.hi[first.next] as number;
  if (lo === 0 && hi === 0) first.next++;
  else putField(BODY, 1, first);
  const group = kind.groups.get(groupOf(lo, hi));
  if (group === undefined) throw new NoColumns();
  const mask = group.masks.lo[group.masks.next++] as number;
  for (let field = 2; field < BYTES_FIELD; field++) if ((mask & (1 << field)) !== 0) putField(BODY, field, group.fields[field] as Values);
  if ((mask & (1 << BYTES_FIELD)) === 0) return;
  const length = kind.lengths.lo[kind.lengths.next++] as number;
  BODY.plain((BYTES_FIELD << 3) | 2);
  BODY.plain(length);
  BODY.append(kind.strings.subarray(kind.stringsAt, kind.stringsAt + length));
  kind.stringsAt += length;
}
