// What a user gets when a replay is not exact: where, what was expected, what came, the processor,
// the code at the instruction pointer and the events that led there.
import { eventLine } from '../log/event-text.ts';
import { positionText, type PositionedEvent } from '../log/reader.ts';
import type { World } from '../sim/world.ts';
import { backtraceOf, ipOf } from './backtrace.ts';
import { differencesOf, type Difference } from './event-differences.ts';
import type { Replayer } from './replayer.ts';
import { vaddrText, type SymbolsByDomain } from './symbols.ts';

const HISTORY = 20;
const INSNS = 6;

export interface DivergenceReport {
  readonly position: string;
  readonly sentence: string;
  readonly expected: string | undefined;
  readonly actual: string | undefined;
  /** Fields of the two events that differ; registers by name where the event shows them. */
  readonly differences: readonly Difference[];
  readonly registers: readonly { readonly name: string; readonly value: string }[];
  readonly code: readonly string[];
  /** Empty if its kernel has no symbols. */
  readonly backtrace: readonly string[];
  readonly history: readonly string[];
}

/** Undefined if the replay did not diverge. `symbolsOf` is asked only then. */
export function reportDivergence(world: World, replayer: Replayer, symbolsOf?: () => SymbolsByDomain): DivergenceReport | undefined {
  const { divergence, stateDivergence, recording } = replayer;
  if (divergence === undefined && stateDivergence === undefined) return undefined;
  const at = divergence?.index ?? stateDivergence?.atEvent ?? 0;
  const first = Math.max(0, at - HISTORY);
  const history = [...recording.events(first, Math.min(at, recording.eventCount))];
  const where = divergence?.expected ?? divergence?.actual ?? history.at(-1);
  const position = where === undefined ? String(at) : positionText(where);
  const symbols = symbolsOf?.();
  const { registers, code, backtrace } = processorAt(world, where, symbols);
  const context = { ...recording.textContext(), symbols };
  const line = (event: PositionedEvent | undefined): string | undefined => (event === undefined ? undefined : eventLine(event, context));
  return { position, sentence: sentence(replayer, position), expected: line(divergence?.expected), actual: line(divergence?.actual), differences: differencesOf(divergence?.expected, divergence?.actual, context.levels), registers, code, backtrace, history: history.map((event) => eventLine(event, context)) };
}

function sentence(replayer: Replayer, position: string): string {
  const { divergence, stateDivergence } = replayer;
  if (stateDivergence !== undefined) return `at ${position} every event was the recorded one, but the state differs in: ${stateDivergence.parts.map((part) => part.name).join(', ')}`;
  if (divergence?.expected === undefined) return `at ${position} the recording had ended, but the replay went on`;
  if (divergence.actual === undefined) return `at ${position} the replay had ended, but the recording goes on`;
  return `at ${position} the replay made another event than the recording has`;
}

function processorAt(world: World, where: PositionedEvent | undefined, symbols: SymbolsByDomain | undefined): Pick<DivergenceReport, 'registers' | 'code' | 'backtrace'> {
  const vcpu = where === undefined ? undefined : world.hv.vcpu(where.domId, where.vcpuId);
  const cpu = vcpu?.cpu;
  if (vcpu === undefined || cpu === undefined) return { registers: [], code: [], backtrace: [] };
  const { domId, abi } = vcpu.domain;
  const text = (vaddr: number): string => symbols?.get(domId)?.text(vaddr) ?? vaddrText(vaddr);
  const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
  return {
    registers: cpu.registers().map(({ name, value }) => ({ name, value: name === 'retired' ? String(value) : hex(value) })),
    code: cpu.disassemble(ipOf(abi.wordBits, cpu), INSNS).map(({ vaddr, bytes, text: insn }) => `${text(vaddr)}  ${bytes.padEnd(24)} ${insn}`),
    backtrace: backtraceOf(world, vcpu, symbols),
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
    ...(report.backtrace.length > 1 ? ['how it came there:', ...report.backtrace.map((text) => `  ${text}`)] : []),
    `the ${report.history.length} events before it:`,
    ...report.history.map((text) => `  ${text}`),
  ];
}
