// What a user gets when a replay is not exact: where, what was expected, what came, the processor,
// the code at the instruction pointer and the events that led there.
import { eventLine } from '../log/event-text.ts';
import { positionText, type PositionedEvent } from '../log/reader.ts';
import type { World } from '../sim/world.ts';
import type { Replayer } from './replayer.ts';

const HISTORY = 20;
const INSNS = 6;

export interface DivergenceReport {
  readonly position: string;
  readonly sentence: string;
  readonly expected: string | undefined;
  readonly actual: string | undefined;
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
  return { position, sentence: sentence(replayer, position), expected: line(divergence?.expected), actual: line(divergence?.actual), registers, code, history: history.map((event) => eventLine(event, context)) };
}

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
    ...(rows.length > 0 ? ['processor in the replay:', ...rows] : []),
    ...(report.code.length > 0 ? ['code at its instruction pointer:', ...report.code.map((text) => `  ${text}`)] : []),
    `the ${report.history.length} events before it:`,
    ...report.history.map((text) => `  ${text}`),
  ];
}
