// Names for a guest's addresses: from the kernel's own symbol table, from the one that a stripped Linux
// kernel carries in its data (kallsyms.ts), or from a System.map.
import { isElf, readElf, readSymbols } from '../hypervisor/build/elf-file.ts';
import type { DomainImages } from '../sim/build-world.ts';
import { FIRST_DOMID } from '../sim/spec.ts';
import { readKallsyms } from './kallsyms.ts';

interface Symbol {
  readonly vaddr: number;
  readonly name: string;
  readonly isCode?: boolean;
}

/** By domain. */
export type SymbolsByDomain = ReadonlyMap<number, Symbols>;

/** An address this far behind the last symbol before it is no part of it. */
const MOST_OFFSET = 1 << 20;
const PLAIN = /^[\x21-\x7e]{1,500}$/;

export class Symbols {
  readonly #symbols: readonly Symbol[];

  constructor(symbols: readonly Symbol[]) {
    // 64-bit Linux lists offsets within its per-CPU areas, which are no addresses.
    const high = symbols.some(({ vaddr }) => vaddr < 0);
    // Names are shown on terminals: one that would write something else there is none.
    this.#symbols = symbols.filter(({ vaddr, name }) => (!high || vaddr < 0) && PLAIN.test(name)).sort((a, b) => a.vaddr - b.vaddr);
  }

  get count(): number {
    return this.#symbols.length;
  }

  /** `start_kernel+0x1c`, or undefined. */
  at(vaddr: number): string | undefined {
    const symbol = this.#before(vaddr);
    if (symbol === undefined) return undefined;
    return vaddr === symbol.vaddr ? symbol.name : `${symbol.name}+0x${(vaddr - symbol.vaddr).toString(16)}`;
  }

  /** Can a call return to it? Not to the first byte of something. */
  isReturn(vaddr: number): boolean {
    const symbol = this.#before(vaddr);
    return symbol?.isCode === true && symbol.vaddr !== vaddr;
  }

  /** The address, with its name if it has one. */
  text(vaddr: number): string {
    const name = this.at(vaddr);
    return `${vaddrText(vaddr)}${name === undefined ? '' : ` <${name}>`}`;
  }

  /** The last symbol of those that begin here or before; of several, the first. */
  #before(vaddr: number): Symbol | undefined {
    let low = 0;
    let high = this.#symbols.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#symbols[middle] as Symbol).vaddr <= vaddr) low = middle + 1;
      else high = middle;
    }
    let index = low - 1;
    const symbol = this.#symbols[index];
    if (symbol === undefined || vaddr - symbol.vaddr > MOST_OFFSET || (symbol.vaddr < 0 && vaddr >= 0)) return undefined;
    while (this.#symbols[index - 1]?.vaddr === symbol.vaddr) index--;
    return this.#symbols[index];
  }
}

/** As a guest writes it: addresses of 64-bit guests are signed numbers everywhere else. */
export const vaddrText = (vaddr: number): string => `0x${(vaddr < 0 ? BigInt.asUintN(64, BigInt(vaddr)) : vaddr).toString(16)}`;

/** Of an ELF kernel (none if it says nothing of itself), or of the text of a System.map (`c0100000 T _text` a line). */
export function symbolsFrom(bytes: Uint8Array): Symbols {
  if (isElf(bytes)) return new Symbols(symbolsOfElf(bytes));
  const rows: Symbol[] = [];
  for (const line of new TextDecoder('latin1').decode(bytes).split('\n')) {
    const match = /^([0-9a-fA-F]{8,16}) ([a-zA-Z]) (\S+)/.exec(line);
    if (match !== null) rows.push({ vaddr: Number(match[1]?.length === 16 ? BigInt.asIntN(64, BigInt(`0x${match[1]}`)) : BigInt(`0x${match[1]}`)), name: match[3] as string, isCode: isCode(match[2] as string) });
  }
  return new Symbols(rows);
}

const isCode = (type: string): boolean => 'tTwW'.includes(type);

function symbolsOfElf(bytes: Uint8Array): Symbol[] {
  const elf = readElf(bytes);
  if ('problem' in elf) return [];
  const rows = readSymbols(elf);
  if (rows.length > 0) return rows;
  return readKallsyms(bytes, elf.wordBits === 64 ? 8 : 4).map(({ vaddr, name, type }) => ({ vaddr, name, isCode: isCode(type) }));
}

/** Of the kernels that a world is built of. */
export const imageSymbols = (images: readonly DomainImages[], map?: Uint8Array): SymbolsByDomain => symbolsByDomain(images.map(({ kernel }) => kernel.bytes), map);

/** Of the domains' kernels, in their order; `map`: a System.map for the first one instead of what its kernel says. */
export function symbolsByDomain(kernels: readonly (Uint8Array | undefined)[], map?: Uint8Array): SymbolsByDomain {
  const found = new Map<number, Symbols>();
  const known = new Map<Uint8Array, Symbols>();
  kernels.forEach((kernel, index) => {
    const bytes = index === 0 && map !== undefined ? map : kernel;
    if (bytes === undefined) return;
    const symbols = known.get(bytes) ?? symbolsFrom(bytes);
    known.set(bytes, symbols);
    if (symbols.count > 0) found.set(FIRST_DOMID + index, symbols);
  });
  return found;
}
