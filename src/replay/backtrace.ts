// How a guest's kernel came to where it is: the words of its stack that are addresses of its code. Without
// frame pointers that is all there is to know, so a line may be left over from an earlier call.
import type { World } from '../sim/world.ts';
import { mappedWord } from './state-diff.ts';
import type { Symbols } from './symbols.ts';

const MOST_LINES = 12;
const MOST_WORDS = 256;

/** Of the vCPU whose turn it is; empty without symbols. */
export function backtraceLines(world: World, symbols: Symbols | undefined): string[] {
  const { current } = world.saveOwn();
  const cpu = current?.cpu;
  if (symbols === undefined || current === undefined || cpu === undefined || current.domain.abi.wordBits !== 32) return [];
  const lines = [`at ${symbols.text(cpu.eip())}`];
  const esp = cpu.reg(4);
  for (let word = 0; word < MOST_WORDS && lines.length < MOST_LINES; word++) {
    const value = mappedWord(world, current, (esp + word * 4) >>> 0);
    if (value === undefined) break;
    const name = symbols.at(value);
    if (name !== undefined && name.includes('+')) lines.push(`? ${symbols.text(value)}`);
  }
  return lines;
}
