// Which fields of two events differ. For reports on files alone: nothing of a world is needed.
import { EVENT, eventRow } from '../abi/events.ts';
import { bytesToHex } from '../base/hash.ts';
import type { TextContext } from '../log/event-text.ts';
import type { PositionedEvent } from '../log/reader.ts';

/** Something that both events have, with different values. */
export interface Difference {
  readonly name: string;
  readonly expected: string;
  readonly actual: string;
}

/** Where a guest has what a hypercall event shows. Source: xen/include/public/arch-x86/xen-x86_{32,64}.h. */
const REGISTERS: Readonly<Record<32 | 64, Readonly<Record<string, string>>>> = {
  32: { result: 'eax', a0: 'ebx', a1: 'ecx', a2: 'edx', a3: 'esi', a4: 'edi', a5: 'ebp' },
  64: { result: 'rax', a0: 'rdi', a1: 'rsi', a2: 'rdx', a3: 'r10', a4: 'r8', a5: 'r9' },
};

/** `levels`: of page tables by domain, as in a TextContext. */
export function differencesOf(expected: PositionedEvent | undefined, actual: PositionedEvent | undefined, levels: TextContext['levels']): Difference[] {
  if (expected === undefined || actual === undefined) return [];
  const found: Difference[] = [];
  const compare = (name: string, a: number | string, b: number | string): void => {
    if (a !== b) found.push({ name, expected: String(a), actual: String(b) });
  };
  const row = eventRow(expected.kind);
  compare('kind', row?.name ?? expected.kind, eventRow(actual.kind)?.name ?? actual.kind);
  compare('domain', expected.domId, actual.domId);
  compare('vcpu', expected.vcpuId, actual.vcpuId);
  compare('retired instructions', expected.retired, actual.retired);
  compare('virtual time in ns', expected.nowNs, actual.nowNs);
  if (row === undefined || expected.kind !== actual.kind) return found;
  const registers = expected.kind === EVENT.hypercall ? REGISTERS[(levels.get(expected.domId) ?? 4) === 4 ? 64 : 32] : {};
  let at = 0;
  for (const field of row.fields) {
    const register = registers[field.name];
    const name = register === undefined ? field.name : `${field.name} (${register})`;
    const wide = field.type === 'u64' || field.type === 's64';
    const text = (event: PositionedEvent): string => (wide ? hex64(event.values[at] ?? 0, event.values[at + 1] ?? 0) : String(event.values[at] ?? 0));
    compare(name, text(expected), text(actual));
    at += wide ? 2 : 1;
  }
  if (row.bytes !== undefined) compare(row.bytes.name, bytesToHex(expected.bytes ?? new Uint8Array(0)), bytesToHex(actual.bytes ?? new Uint8Array(0)));
  return found;
}

const hex64 = (lo: number, hi: number): string => `0x${((BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0)).toString(16)}`;
