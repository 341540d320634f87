// Names for a guest's addresses: from the kernel's own symbol table, or from a System.map.
import { isElf, readElf, readSymbols } from '../hypervisor/build/elf-file.ts';

interface Symbol {
  readonly vaddr: number;
  readonly name: string;
}

/** An address this far behind the last symbol before it is no part of it. */
const MOST_OFFSET = 1 << 20;

export class Symbols {
  readonly #symbols: readonly Symbol[];

  constructor(symbols: readonly Symbol[]) {
    this.#symbols = [...symbols].sort((a, b) => a.vaddr - b.vaddr);
  }

  get count(): number {
    return this.#symbols.length;
  }

  /** `start_kernel+0x1c`, or undefined. */
  at(vaddr: number): string | undefined {
    const symbol = this.#symbols.findLast((each) => each.vaddr <= vaddr);
    if (symbol === undefined || vaddr - symbol.vaddr > MOST_OFFSET) return undefined;
    return vaddr === symbol.vaddr ? symbol.name : `${symbol.name}+0x${(vaddr - symbol.vaddr).toString(16)}`;
  }

  /** The address, with its name if it has one. */
  text(vaddr: number): string {
    const name = this.at(vaddr);
    return `0x${(vaddr < 0 ? BigInt.asUintN(64, BigInt(vaddr)) : vaddr).toString(16)}${name === undefined ? '' : ` <${name}>`}`;
  }
}

/** Of an ELF kernel (none if it is stripped), or of the text of a System.map (`c0100000 T _text` a line). */
export function symbolsFrom(bytes: Uint8Array): Symbols {
  if (isElf(bytes)) {
    const elf = readElf(bytes);
    return new Symbols('problem' in elf ? [] : readSymbols(elf));
  }
  const rows: Symbol[] = [];
  for (const line of new TextDecoder('latin1').decode(bytes).split('\n')) {
    const match = /^([0-9a-fA-F]{8,16}) [a-zA-Z] (\S+)/.exec(line);
    // 64-bit kernels: addresses as signed numbers, as everywhere.
    if (match !== null) rows.push({ vaddr: Number(match[1]?.length === 16 ? BigInt.asIntN(64, BigInt(`0x${match[1]}`)) : BigInt(`0x${match[1]}`)), name: match[2] as string });
  }
  return new Symbols(rows);
}
