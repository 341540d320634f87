// From two recordings that part to the instruction that parts their states: before it they are the same,
// so nothing earlier can matter; after it they are not. Binary search over the instructions between a place
// where both are the same and one where they are not, in two timelines. (States may differ for a while and
// become the same again, as when registers are overwritten that nobody reads: then several instructions
// part them, and the search finds one.)
import { bytesToHex } from '../base/hash.ts';
import { eventLine } from '../log/event-text.ts';
import { contextOf } from './diff.ts';
import { ipOf } from './backtrace.ts';
import { compareWorlds, type StateDiff } from './state-diff.ts';
import { vaddrText, type SymbolsByDomain } from './symbols.ts';
import type { Timeline } from './timeline.ts';

const CODE_BEFORE = 1;
const CODE_LINES = 6;

export interface InstructionBisect {
  readonly verdict: string;
  /** Instructions of all vCPUs after which the states differ, and one before are the same; undefined: they differ from the start, or never. */
  readonly insns: number | undefined;
  readonly vcpu: string | undefined;
  readonly instruction: string | undefined;
  readonly code: readonly string[];
  /** What each made during it. */
  readonly eventsA: readonly string[];
  readonly eventsB: readonly string[];
  readonly state: StateDiff | undefined;
  /** Parts of the state that differ from the start, and were not searched for. */
  readonly leftOut: readonly string[];
  /** States compared. */
  readonly comparisons: number;
}

/** `until`: instructions of all vCPUs at which they are known to have parted. */
export function bisectInstructions(a: Timeline, b: Timeline, until: number, symbols: SymbolsByDomain | undefined): InstructionBisect {
  let comparisons = 0;
  const stateAt = (timeline: Timeline, insns: number): Map<string, string> => {
    timeline.seek({ insns });
    return new Map(timeline.digest().map(({ name, digest }) => [name, bytesToHex(digest)]));
  };
  const differentParts = (insns: number): string[] => {
    comparisons++;
    const [left, right] = [stateAt(a, insns), stateAt(b, insns)];
    return [...new Set([...left.keys(), ...right.keys()])].filter((name) => left.get(name) !== right.get(name));
  };
  // Recordings of other settings may differ in a part from the start: the search is for what differs besides.
  const leftOut = differentParts(0);
  const same = (insns: number): boolean => differentParts(insns).every((name) => leftOut.includes(name));
  const nothing = { insns: undefined, vcpu: undefined, instruction: undefined, code: [], eventsA: [], eventsB: [], leftOut };
  if (same(until)) return { ...nothing, verdict: leftOut.length === 0 ? `after ${until} instructions the states are still the same: what differs is in no state` : `the states differ before the first instruction in ${leftOut.join(', ')}, and up to instruction ${until} in nothing else`, state: compareWorlds(a.world, b.world, symbols), comparisons };
  let low = 0;
  let high = until;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (same(middle)) low = middle;
    else high = middle;
  }
  const before = a.seek({ insns: low });
  const eventsBefore = { a: before.eventCount, b: b.seek({ insns: low }).eventCount };
  const { vcpu, instruction, code } = nextInstruction(a, symbols);
  const after = { a: a.seek({ insns: high }).eventCount, b: b.seek({ insns: high }).eventCount };
  const state = compareWorlds(a.world, b.world, symbols);
  const made = (timeline: Timeline, from: number, to: number): string[] => [...timeline.recording.events(from, Math.min(to, timeline.recording.eventCount))].slice(0, 20).map((event) => eventLine(event, { ...contextOf(timeline.recording), symbols }));
  const parts = differentParts(high).filter((name) => !leftOut.includes(name));
  const first = state.differences.find(({ what }) => parts.some((part) => part.startsWith('processor') && what.startsWith(part.slice('processor '.length)))) ?? state.differences[0];
  const effect = `${parts.join(', ')} differ${parts.length === 1 ? 's' : ''}${first === undefined ? '' : `; ${first.what} is ${first.a} in A and ${first.b} in B`}`;
  return {
    verdict: `instruction ${high}${vcpu === undefined ? '' : ` (${vcpu}, ${instruction})`} parts the states, which are the same before it${leftOut.length === 0 ? '' : ` but for ${leftOut.join(', ')}`}: ${effect}`,
    insns: high, vcpu, instruction, code, eventsA: made(a, eventsBefore.a, after.a), eventsB: made(b, eventsBefore.b, after.b), leftOut, state, comparisons,
  };
}

/** Whose turn it is here, and what it performs next. */
export function nextInstruction({ world }: Timeline, symbols: SymbolsByDomain | undefined): Pick<InstructionBisect, 'vcpu' | 'instruction' | 'code'> {
  const { current } = world.saveOwn();
  const cpu = current?.cpu;
  if (current === undefined || cpu === undefined) return { vcpu: undefined, instruction: undefined, code: [] };
  const text = (vaddr: number): string => symbols?.get(current.domain.domId)?.text(vaddr) ?? vaddrText(vaddr);
  const ip = ipOf(current.domain.abi.wordBits, cpu);
  const code = cpu.disassemble(ip, CODE_LINES).map(({ vaddr, bytes, text: insn }) => `${text(vaddr)}  ${bytes.padEnd(24)} ${insn}`);
  const [line] = cpu.disassemble(ip, CODE_BEFORE);
  return { vcpu: `d${current.domain.domId}v${current.vcpuId}`, instruction: line === undefined ? undefined : `${line.text} at ${text(line.vaddr)}`, code };
}
