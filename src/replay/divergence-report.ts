// What a user gets when a replay is not exact: where, what was expected, what came, the processor,
// the code at the instruction pointer and the events that led there.
import { EVENT, eventRow } from '../abi/events.ts';
import { bytesToHex } from '../base/hash.ts';
import { eventLine } from '../log/event-text.ts';
import { positionText, type PositionedEvent } from '../log/reader.ts';
import type { World } from '../sim/world.ts';
import type { Replayer } from './replayer.ts';

const HISTORY = 20;
const INSNS = 6;

/** Something that both events have, with different values. */
export interface Difference {
  readonly name: string;
  readonly expected: string;
  readonly actual: string;
}

export interface DivergenceReport {
  readonly position: string;
  readonly sentence: string;
  readonly expected: string | undefined;
  readonly actual: string | undefined;
  /** Fields of the two events that differ; registers by name where the event shows them. */
  readonly differences: readonly Difference[];
  readonly registers: readonly { readonly name: string; readonly value: string }[];
  readonly code: readonly string[];
  readonly history: readonly string[];
}


/** Undefined if the replay did not diverge. */
export function reportDivergence(world: World, replayer: Replayer): DivergenceReport | undefined {
  const { divergence, stateDivergence, recording } = replayer;
  if (divergence === undefined && stateDivergence === undefined) return undefined;
  const at = divergence?.index ?? stateDivergence?.atEvent ?? 0;
  const first = Math.max(0, at - HISTORY);
  const history = [...recording.events(first, Math.min(at, recording.eventCount))];
  const where = divergence?.expected ?? divergence?.actual ?? history.at(-1);
  const position = where === undefined ? String(at) : positionText(where);
  const { registers, code } = processorAt(world, where);
  const context = recording.textContext();
  const line = (event: PositionedEvent | undefined): string | undefined => (event === undefined ? undefined : eventLine(event, context));
  return { position, sentence: sentence(replayer, position), expected: line(divergence?.expected), actual: line(divergence?.actual), differences: differencesOf(divergence?.expected, divergence?.actual), registers, code, history: history.map((event) => eventLine(event, context)) };
}

/** Where an i386 guest's hypercall event has its registers: EAX holds the result. */
const REGISTER_OF: Readonly<Record<string, string>> = { result: 'result (eax)', a0: 'a0 (ebx)', a1: 'a1 (ecx)', a2: 'a2 (edx)', a3: 'a3 (esi)', a4: 'a4 (edi)', a5: 'a5 (ebp)' };

export function differencesOf(expected: PositionedEvent | undefined, actual: PositionedEvent | undefined): Difference[] {
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
  const isHypercall = expected.kind === EVENT.hypercall;
  let at = 0;
  for (const field of row.fields) {
    const name = isHypercall ? (REGISTER_OF[field.name] ?? field.name) : field.name;
    const wide = field.type === 'u64' || field.type === 's64';
    const text = (event: PositionedEvent): string => (wide ? hex64(event.values[at] ?? 0, event.values[at + 1] ?? 0) : String(event.values[at] ?? 0));
    compare(name, text(expected), text(actual));
    at += wide ? 2 : 1;
  }
  if (row.bytes !== undefined) compare(row.bytes.name, bytesToHex(expected.bytes ?? new Uint8Array(0)), bytesToHex(actual.bytes ?? new Uint8Array(0)));
  return found;
}

const hex64 = (lo: number, hi: number): string => `0x${((BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0)).toString(16)}`;

function sentence(replayer: Replayer, position: string): string {
  const { divergence, stateDivergence } = replayer;
  if (stateDivergence !== undefined) return `at ${position} every event was the recorded one, but the state differs in: ${stateDivergence.parts.map((part) => part.name).join(', ')}`;
  if (divergence?.expected === undefined) return `at ${position} the recording had ended, but the replay went on`;
  if (divergence.actual === undefined) return `at ${position} the replay had ended, but the recording goes on`;
  return `at ${position} the replay made another event than the recording has`;
}

function processorAt(world: World, where: PositionedEvent | undefined): Pick<DivergenceReport, 'registers' | 'code'> {
  const cpu = where === undefined ? undefined : world.hv.vcpu(where.domId, where.vcpuId)?.cpu;
  if (cpu === undefined) return { registers: [], code: [] };
  const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
  return {
    registers: cpu.registers().map(({ name, value }) => ({ name, value: name === 'retired' ? String(value) : hex(value) })),
    code: cpu.disassemble(cpu.eip(), INSNS).map(({ vaddr, bytes, text }) => `${hex(vaddr)}  ${bytes.padEnd(24)} ${text}`),
  };
}

/** Lines for a terminal. */
export function divergenceLines(report: DivergenceReport): string[] {
  const registers = report.registers.map(({ name, value }) => `${name}=${value}`);
  const rows: string[] = [];
  for (let i = 0; i < registers.length; i += 6) rows.push(`  ${registers.slice(i, i + 6).join(' ')}`);
  return [
    `DIVERGED: ${report.sentence}`,
    `  expected  ${report.expected ?? '(the end of the recording)'}`,
    `  actual    ${report.actual ?? '(the end of the replay)'}`,
    ...report.differences.map(({ name, expected, actual }) => `  differs   ${name}: recorded ${expected}, now ${actual}`),
    ...(rows.length > 0 ? ['processor in the replay:', ...rows] : []),
    ...(report.code.length > 0 ? ['code at its instruction pointer:', ...report.code.map((text) => `  ${text}`)] : []),
    `the ${report.history.length} events before it:`,
    ...report.history.map((text) => `  ${text}`),
  ];
}
