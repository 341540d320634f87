// What differs between two worlds: registers, the records of Xen and dom0 (ports, grants, page types and
// counts, xenstore), words of memory with the mapping that leads to them. Bounded, and without any effect
// on either world.
import { FRAME_TYPE_NAMES } from '../hypervisor/frame-table.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import { schedulerState } from '../sim/state-digest.ts';
import type { World } from '../sim/world.ts';
import { sameBytes } from '../base/hash.ts';
import type { Symbols } from './symbols.ts';

export interface StateDifference {
  readonly what: string;
  readonly a: string;
  readonly b: string;
}

export interface StateDiff {
  readonly differences: readonly StateDifference[];
  /** How many there are beyond those listed, by part. */
  readonly more: Readonly<Record<string, number>>;
}

const MOST_PER_PART = 24;
const MOST_WORDS_PER_FRAME = 4;

class Found {
  readonly differences: StateDifference[] = [];
  readonly more: Record<string, number> = {};
  readonly #counts = new Map<string, number>();

  add(part: string, what: string, a: string, b: string): void {
    const count = (this.#counts.get(part) ?? 0) + 1;
    this.#counts.set(part, count);
    if (count <= MOST_PER_PART) this.differences.push({ what, a, b });
    else this.more[part] = (this.more[part] ?? 0) + 1;
  }
}

export function compareWorlds(a: World, b: World, symbols: Symbols | undefined): StateDiff {
  const found = new Found();
  for (const [domId, domain] of a.hv.domains) {
    const other = b.hv.domains.get(domId);
    if (other === undefined) {
      found.add('domains', `domain ${domId}`, 'there', 'gone');
      continue;
    }
    domain.vcpus.forEach((vcpu, index) => compareRegisters(found, vcpu, other.vcpus[index], symbols));
    comparePlain(found, `d${domId}`, recordOf(domain), recordOf(other));
  }
  compareFrames(found, a, b);
  comparePlain(found, 'dom0', a.saveServices(), b.saveServices());
  comparePlain(found, 'scheduler', schedulerState(a), schedulerState(b));
  compareMemory(found, a, b);
  return { differences: found.differences, more: found.more };
}

const hex = (value: number | bigint): string => `0x${(typeof value === 'number' ? value >>> 0 : value).toString(16)}`;

function compareRegisters(found: Found, a: Vcpu, b: Vcpu | undefined, symbols: Symbols | undefined): void {
  const others = new Map(b?.cpu?.registers().map(({ name, value }) => [name, value]));
  for (const { name, value } of a.cpu?.registers() ?? []) {
    const other = others.get(name);
    if (other === value) continue;
    const text = (shown: number | bigint | undefined): string => (shown === undefined ? '(none)' : name === 'retired' ? String(shown) : typeof shown === 'number' && symbols !== undefined ? symbols.text(shown) : hex(shown));
    found.add('registers', `d${a.domain.domId}v${a.vcpuId} ${name}`, text(value), text(other));
  }
}

/** A domain without the way back up and the processors. */
const recordOf = (domain: Domain): object => ({ ...domain, abi: undefined, build: undefined, vcpus: domain.vcpus.map((vcpu) => ({ ...vcpu, domain: undefined, cpu: undefined })) });

function comparePlain(found: Found, path: string, a: unknown, b: unknown): void {
  if (Object.is(a, b)) return;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
    found.add(path.split(/[.[]/)[0] as string, path, leafText(a), leafText(b));
    return;
  }
  if (a instanceof Uint8Array && b instanceof Uint8Array && sameBytes(a, b)) return;
  const [left, right] = [members(a), members(b)];
  for (const key of new Set([...left.keys(), ...right.keys()])) comparePlain(found, Array.isArray(a) ? `${path}[${key}]` : `${path}.${key}`, left.get(key), right.get(key));
}
function members(value: object): Map<string, unknown> {
  if (value instanceof Map) return new Map([...value].map(([key, member]) => [String(key), member]));
  if (value instanceof Set) return new Map([...value].map((member) => [String(member), true]));
  return new Map(Object.entries(value));
}
function leafText(value: unknown): string {
  const text = typeof value === 'bigint' ? hex(value) : value === undefined ? '(none)' : typeof value === 'object' && value !== null ? 'a record' : JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 120)}...` : text;
}

function compareFrames(found: Found, a: World, b: World): void {
  const [left, right] = [a.hv.frames, b.hv.frames];
  for (let mfn = 0; mfn < left.frameCount; mfn++) {
    if (left.owner[mfn] === right.owner[mfn] && left.type[mfn] === right.type[mfn] && left.flags[mfn] === right.flags[mfn] && left.typeCount[mfn] === right.typeCount[mfn] && left.refCount[mfn] === right.refCount[mfn]) continue;
    found.add('page types', `mfn ${mfn.toString(16)} type`, left.describe(mfn), right.describe(mfn));
  }
}

function compareMemory(found: Found, a: World, b: World): void {
  const [left, right] = [a.frameHashes.current(), b.frameHashes.current()];
  const differ: number[] = [];
  for (const mfn of new Set([...left.keys(), ...right.keys()])) {
    const [one, other] = [left.get(mfn), right.get(mfn)];
    if (one === undefined || other === undefined || !sameBytes(one, other)) differ.push(mfn);
  }
  differ.sort((x, y) => x - y);
  const mappings = mappingsOf(a, new Set(differ.slice(0, MOST_PER_PART)));
  for (const mfn of differ) {
    const type = FRAME_TYPE_NAMES[a.hv.frames.type[mfn] as number];
    const mapping = mappings.get(mfn);
    const where = mapping === undefined ? '' : `, at ${hex(mapping.vaddr)} by the entry at maddr ${hex(mapping.pteMaddr)}`;
    const words = differentWords(a, b, mfn);
    for (const at of words.slice(0, MOST_WORDS_PER_FRAME)) {
      const maddr = mfn * 4096 + at;
      found.add('memory', `memory mfn ${mfn.toString(16)}+${at.toString(16)} (${type}, ${words.length} words differ${where === '' ? '' : where.replace(hex(mapping?.vaddr ?? 0), hex((mapping?.vaddr ?? 0) + at))})`, hex(a.machine.readU32(maddr)), hex(b.machine.readU32(maddr)));
    }
  }
}

function differentWords(a: World, b: World, mfn: number): number[] {
  const words: number[] = [];
  for (let at = 0; at < 4096; at += 4) if (a.machine.readU32(mfn * 4096 + at) !== b.machine.readU32(mfn * 4096 + at)) words.push(at);
  return words;
}

interface Mapping {
  readonly vaddr: number;
  readonly pteMaddr: number;
}

/** For frames: the lowest address at which a vCPU's current tables map each, and the entry that does. Large pages are left out. */
export function mappingsOf(world: World, wanted: ReadonlySet<number>): Map<number, Mapping> {
  const found = new Map<number, Mapping>();
  for (const { vcpus, abi } of world.hv.domains.values()) {
    for (const { guestTableMfn } of vcpus) if (guestTableMfn !== 0) walkTables(world, guestTableMfn, abi.levels, abi.pteBytes, 0, (mfn, mapping) => {
      if (wanted.has(mfn) && !found.has(mfn)) found.set(mfn, mapping);
    });
  }
  return found;
}

function walkTables({ machine }: World, table: number, level: number, entryBytes: 4 | 8, base: number, leaf: (mfn: number, mapping: Mapping) => void): void {
  const indexBits = entryBytes === 8 ? 9 : 10;
  const entries = level === 3 && entryBytes === 8 && base === 0 ? 512 : 4096 / entryBytes;
  const span = 4096 * 2 ** (indexBits * (level - 1));
  for (let index = 0; index < entries; index++) {
    const pteMaddr = table * 4096 + index * entryBytes;
    const lo = machine.readU32(pteMaddr);
    if ((lo & 1) === 0) continue;
    const mfn = (entryBytes === 8 ? (machine.readU32(pteMaddr + 4) & 0xfffff) * 0x10_0000 : 0) + (lo >>> 12);
    const vaddr = base + index * span;
    if (mfn >= machine.frameCount) continue;
    if (level === 1) leaf(mfn, { vaddr, pteMaddr });
    else if (level > 2 || (lo & 0x80) === 0) walkTables({ machine } as World, mfn, level - 1, entryBytes, vaddr, leaf);
  }
}

/** The word at a linear address of a 32-bit guest, without any effect; undefined if nothing is mapped there. */
export function mappedWord({ machine }: World, vcpu: Vcpu, vaddr: number): number | undefined {
  const { levels, pteBytes } = vcpu.domain.abi;
  const indexBits = pteBytes === 8 ? 9 : 10;
  let table = vcpu.guestTableMfn;
  for (let level = levels as number; level >= 1; level--) {
    const index = Math.floor(vaddr / (4096 * 2 ** (indexBits * (level - 1)))) % 2 ** indexBits;
    const lo = machine.readU32(table * 4096 + index * pteBytes);
    if ((lo & 1) === 0 || (level === 2 && (lo & 0x80) !== 0)) return undefined;
    table = (pteBytes === 8 ? (machine.readU32(table * 4096 + index * pteBytes + 4) & 0xfffff) * 0x10_0000 : 0) + (lo >>> 12);
    if (table >= machine.frameCount) return undefined;
  }
  return (vaddr & 0xfff) > 0xffc ? undefined : machine.readU32(table * 4096 + (vaddr & 0xfff));
}

/** Lines for a terminal. */
export function stateLines({ differences, more }: StateDiff): string[] {
  return [...differences.map(({ what, a, b }) => `    ${what}: ${a} in A, ${b} in B`), ...Object.entries(more).map(([part, count]) => `    and ${count} more of ${part}`)];
}
