// Makes small ELF kernels for tests: segments, notes or a __xen_guest section, symbols.
import { EHDR32, EHDR64, PHDR32, PHDR64, SHDR32, SHDR64, SYM32, SYM64 } from '../../src/abi/elf.ts';
import type { Field } from '../../src/base/layout.ts';

export interface ElfRecipe {
  readonly wordBits?: 32 | 64;
  readonly machine?: number;
  readonly entry?: bigint;
  readonly segments?: readonly { readonly paddr: bigint; readonly vaddr?: bigint; readonly bytes: Uint8Array; readonly memBytes?: number }[];
  /** type, and a text or a number of 4 or 8 bytes. */
  readonly notes?: readonly (readonly [number, string | number | bigint])[];
  readonly guestSection?: string;
  readonly symbols?: readonly { readonly name: string; readonly value: bigint }[];
}

const put = (view: DataView, at: number, field: Field, value: bigint): void => {
  if (field.type === 'u64') view.setBigUint64(at + field.at, BigInt.asUintN(64, value), true);
  else if (field.type === 'u32' || field.type === 'i32') view.setUint32(at + field.at, Number(BigInt.asUintN(32, value)), true);
  else if (field.type === 'u16') view.setUint16(at + field.at, Number(value), true);
  else view.setUint8(at + field.at, Number(value));
};
const structure = (table: { readonly sizeBytes: number; readonly fields: Readonly<Record<string, Field>> }, values: Readonly<Record<string, number | bigint>>): Uint8Array => {
  const bytes = new Uint8Array(table.sizeBytes);
  for (const [name, value] of Object.entries(values)) put(new DataView(bytes.buffer), 0, table.fields[name] as Field, BigInt(value));
  return bytes;
};
export const ascii = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0));
const padded = (bytes: Uint8Array): number[] => [...bytes, ...new Array<number>((4 - (bytes.length % 4)) % 4).fill(0)];

function noteBytes(notes: NonNullable<ElfRecipe['notes']>): Uint8Array {
  const out: number[] = [];
  for (const [type, value] of notes) {
    const desc = typeof value === 'string' ? ascii(`${value}\0`) : new Uint8Array(typeof value === 'bigint' ? 8 : 4);
    if (typeof value === 'bigint') new DataView(desc.buffer).setBigUint64(0, BigInt.asUintN(64, value), true);
    if (typeof value === 'number') new DataView(desc.buffer).setUint32(0, value, true);
    const header = new Uint8Array(12);
    [4, desc.length, type].forEach((word, index) => new DataView(header.buffer).setUint32(index * 4, word, true));
    out.push(...header, ...ascii('Xen\0'), ...padded(desc));
  }
  return Uint8Array.from(out);
}

/** Header, program headers, contents, section headers. */
export function makeElf(recipe: ElfRecipe): Uint8Array {
  const wide = recipe.wordBits === 64;
  const ehdr = wide ? EHDR64 : EHDR32;
  const phdr = wide ? PHDR64 : PHDR32;
  const shdr = wide ? SHDR64 : SHDR32;
  const segments = recipe.segments ?? [{ paddr: 0x10_0000n, bytes: new Uint8Array(4096).fill(0x90) }];
  const programHeaders = segments.length + (recipe.notes === undefined ? 0 : 1);
  const parts: Uint8Array[] = [];
  let at = ehdr.sizeBytes + programHeaders * phdr.sizeBytes;
  const place = (bytes: Uint8Array): number => {
    const where = at;
    parts.push(bytes);
    at += bytes.length;
    return where;
  };
  const headers = segments.map((segment) =>
    structure(phdr, {
      p_type: 1, p_flags: 7, p_offset: place(segment.bytes), p_vaddr: segment.vaddr ?? segment.paddr, p_paddr: segment.paddr,
      p_filesz: segment.bytes.length, p_memsz: segment.memBytes ?? segment.bytes.length, p_align: 4096,
    }),
  );
  if (recipe.notes !== undefined) {
    const bytes = noteBytes(recipe.notes);
    headers.push(structure(phdr, { p_type: 4, p_flags: 4, p_offset: place(bytes), p_filesz: bytes.length, p_align: 4 }));
  }
  const names = '\0.shstrtab\0__xen_guest\0.symtab\0.strtab\0';
  const sections = [structure(shdr, {}), structure(shdr, { sh_name: names.indexOf('.shstrtab'), sh_type: 3, sh_offset: place(ascii(names)), sh_size: names.length })];
  if (recipe.guestSection !== undefined) {
    const bytes = ascii(`${recipe.guestSection}\0`);
    sections.push(structure(shdr, { sh_name: names.indexOf('__xen_guest'), sh_type: 1, sh_offset: place(bytes), sh_size: bytes.length }));
  }
  if (recipe.symbols !== undefined) {
    const texts = `\0${recipe.symbols.map((symbol) => `${symbol.name}\0`).join('')}`;
    const sym = wide ? SYM64 : SYM32;
    const table = recipe.symbols.flatMap((symbol) => [...structure(sym, { st_name: texts.indexOf(`\0${symbol.name}\0`) + 1, st_value: symbol.value, st_info: 2, st_shndx: 1 })]);
    sections.push(structure(shdr, { sh_name: names.indexOf('.symtab'), sh_type: 2, sh_offset: place(Uint8Array.from(table)), sh_size: table.length, sh_link: sections.length + 1, sh_entsize: sym.sizeBytes }));
    sections.push(structure(shdr, { sh_name: names.indexOf('.strtab'), sh_type: 3, sh_offset: place(ascii(texts)), sh_size: texts.length }));
  }
  const header = structure(ehdr, {
    e_type: 2, e_machine: recipe.machine ?? (wide ? 62 : 3), e_version: 1, e_entry: recipe.entry ?? segments[0]?.paddr ?? 0n, e_phoff: ehdr.sizeBytes, e_shoff: at,
    e_ehsize: ehdr.sizeBytes, e_phentsize: phdr.sizeBytes, e_phnum: programHeaders, e_shentsize: shdr.sizeBytes, e_shnum: sections.length, e_shstrndx: 1,
  });
  header.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1], 0);
  return Uint8Array.from([header, ...headers, ...parts, ...sections].flatMap((bytes) => [...bytes]));
}

/** Notes that every loadable kernel has. */
export const BASIC_NOTES: readonly (readonly [number, string | number | bigint])[] = [[5, 'xen-3.0'], [8, 'generic'], [6, 'test']];
