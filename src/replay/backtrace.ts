// How a guest's kernel came to where it is: the words of its stack that are addresses of its code. Without
// frame pointers that is all there is to know, so a line may be left over from an earlier call.
import type { Vcpu } from '../hypervisor/domain.ts';
import type { World } from '../sim/world.ts';
import { mappedWord } from './state-diff.ts';
import type { SymbolsByDomain } from './symbols.ts';

const MOST_LINES = 12;
const MOST_WORDS = 512;
const ESP = 4;

/** Where a processor is, as an address of the guest. */
export const ipOf = (wordBits: 32 | 64, cpu: NonNullable<Vcpu['cpu']>): number => (wordBits === 64 ? cpu.rip() : cpu.eip());

/** Of the vCPU whose turn it is; empty without symbols. */
export function backtraceLines(world: World, symbols: SymbolsByDomain | undefined): string[] {
  const { current } = world.saveOwn();
  return current === undefined ? [] : backtraceOf(world, current, symbols);
}

/** `at 0xc0101004 <hypercall_page+0x4>`, and a line for every word of the stack that a call may have left there. */
export function backtraceOf(world: World, vcpu: Vcpu, symbols: SymbolsByDomain | undefined): string[] {
  const { cpu, domain: { domId, abi: { wordBits } } } = vcpu;
  const names = symbols?.get(domId);
  if (names === undefined || cpu === undefined) return [];
  const ip = ipOf(wordBits, cpu);
  const lines = [`at ${names.text(ip)}`];
  const stack = wordBits === 64 ? Number(BigInt.asIntN(64, cpu.reg64(ESP))) : cpu.reg(ESP);
  for (let word = 0; word < MOST_WORDS && lines.length < MOST_LINES; word++) {
    const at = stack + word * (wordBits / 8);
    const value = mappedWord(world, vcpu, wordBits === 64 ? at : at >>> 0);
    if (value === undefined) break;
    if (names.isReturn(value)) lines.push(`? ${names.text(value)}`);
  }
  return lines;
}
