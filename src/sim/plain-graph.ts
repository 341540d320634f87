// Plain records as text, and back: what a checkpoint holds besides memory and processors. Unlike JSON it
// keeps `undefined`, bigints, Maps, Sets, typed arrays and which places hold the same object; and it
// refuses what is not data (a function, an instance of a class), with the path that leads there, so
// that nobody hangs something on a record that a checkpoint would lose.
//
// Objects that live outside (a vCPU, its processor, rows of constants) are written by name; so are large
// byte arrays (a disk's blocks), which are contents of their own: they must never be changed in place.
import { InvariantViolation, assert } from '../base/assert.ts';

export interface Externals {
  /** Undefined for objects that are part of the data. */
  nameOf(value: object): string | undefined;
  find(name: string): unknown;
}

/** Byte arrays from this size on are contents, if somebody keeps contents. */
export const CONTENT_BYTES = 1024;

const TYPED = { Uint8Array, Uint16Array, Uint32Array, Int8Array, Int16Array, Int32Array, Float64Array, BigUint64Array, BigInt64Array } as const;
type TypedName = keyof typeof TYPED;

// A node: string, boolean, null and ordinary numbers stand for themselves; everything else is a list
// whose first member says what it is.
type Node = string | number | boolean | null | readonly [tag: string, ...rest: unknown[]];

/** The text of a value. Equal states made in the same order have equal texts. */
export function encodeGraph(value: unknown, externals: Externals): string {
  const seen = new Map<object, number>();
  countShared(value, externals, seen);
  const numbers = new Map<object, number>();
  const path: string[] = [];
  const within = (step: string, member: unknown): Node => {
    path.push(step);
    const node = encode(member);
    path.pop();
    return node;
  };
  const encode = (member: unknown): Node => {
    switch (typeof member) {
      case 'string':
      case 'boolean':
        return member;
      case 'number':
        return Number.isFinite(member) && !Object.is(member, -0) ? member : ['number', Object.is(member, -0) ? '-0' : String(member)];
      case 'undefined':
        return ['undefined'];
      case 'bigint':
        return ['bigint', member.toString()];
      case 'object':
        return member === null ? null : encodeObject(member);
      default:
        throw new InvariantViolation(`${path.join('.')} is a ${typeof member}: a checkpoint cannot hold it`);
    }
  };
  const encodeObject = (object: object): Node => {
    const name = externals.nameOf(object);
    if (name !== undefined) return ['external', name];
    const known = numbers.get(object);
    if (known !== undefined) return ['again', known];
    if ((seen.get(object) as number) === 1) return encodeContent(object);
    numbers.set(object, numbers.size);
    return ['shared', numbers.size - 1, encodeContent(object)];
  };
  const encodeContent = (object: object): Node => {
    if (Array.isArray(object)) return ['list', object.map((member, index) => within(String(index), member))];
    if (object instanceof Map) return ['map', [...object].map(([key, member]) => [encode(key), within(String(key), member)])];
    if (object instanceof Set) return ['set', [...object].map((member) => within('member', member))];
    const kind = object.constructor?.name as TypedName | undefined;
    if (ArrayBuffer.isView(object) && kind !== undefined && Object.hasOwn(TYPED, kind)) return ['typed', kind, Array.from(object as unknown as ArrayLike<number | bigint>, String)];
    const prototype: unknown = Object.getPrototypeOf(object);
    if (prototype !== Object.prototype && prototype !== null) throw new InvariantViolation(`${path.join('.')} is a ${kind ?? 'thing of no class'}: a checkpoint cannot hold it`);
    return ['record', Object.entries(object).map(([key, member]) => [key, within(key, member)])];
  };
  return JSON.stringify(encode(value));
}

/** How often each object is met; external ones are not looked into. */
function countShared(value: unknown, externals: Externals, seen: Map<object, number>): void {
  if (typeof value !== 'object' || value === null || externals.nameOf(value) !== undefined) return;
  const times = seen.get(value) ?? 0;
  seen.set(value, times + 1);
  if (times > 0 || ArrayBuffer.isView(value)) return;
  if (value instanceof Map) for (const [key, member] of value) [key, member].forEach((each) => countShared(each, externals, seen));
  else if (value instanceof Set || Array.isArray(value)) for (const member of value) countShared(member, externals, seen);
  else for (const member of Object.values(value)) countShared(member, externals, seen);
}

/** The value of a text of encodeGraph(): fresh objects, external ones as `externals` finds them. */
export function decodeGraph(text: string, externals: Externals): unknown {
  const shared: unknown[] = [];
  const decode = (node: Node, number?: number): unknown => {
    if (typeof node !== 'object' || node === null) return node;
    const [tag, first, second] = node as readonly [string, never, never];
    // A shared object is known under its number before its members are made: they may lead back to it.
    const made = <T>(object: T): T => {
      if (number !== undefined) shared[number] = object;
      return object;
    };
    switch (tag) {
      case 'undefined':
        return undefined;
      case 'number':
        return Number(first);
      case 'bigint':
        return BigInt(first);
      case 'external':
        return externals.find(first);
      case 'again':
        return shared[first];
      case 'shared':
        return decode(second, first);
      case 'list': {
        const list = made<unknown[]>([]);
        for (const member of first as Node[]) list.push(decode(member));
        return list;
      }
      case 'map': {
        const map = made(new Map<unknown, unknown>());
        for (const [key, member] of first as [Node, Node][]) map.set(decode(key), decode(member));
        return map;
      }
      case 'set': {
        const set = made(new Set<unknown>());
        for (const member of first as Node[]) set.add(decode(member));
        return set;
      }
      case 'typed':
        return made(decodeTyped(first, second));
      case 'record': {
        const record = made<Record<string, unknown>>({});
        for (const [key, member] of first as [string, Node][]) record[key] = decode(member);
        return record;
      }
      default:
        throw new InvariantViolation(`a checkpoint holds a '${tag}'`);
    }
  };
  return decode(JSON.parse(text) as Node);
}

function decodeTyped(kind: TypedName, members: readonly string[]): unknown {
  assert(Object.hasOwn(TYPED, kind), `a checkpoint holds a typed array of kind ${kind}`);
  if (kind === 'BigUint64Array' || kind === 'BigInt64Array') return TYPED[kind].from(members.map(BigInt));
  return TYPED[kind].from(members.map(Number));
}
