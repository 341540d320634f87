// Reads an ELF file of either class through the tables of abi/elf.ts. Addresses come out as numbers:
// unsigned for 32-bit files, signed canonical ones for 64-bit files (0xffffffff80000000 is -2^31).
//
// Why not a package: those on npm read the whole file into objects with bigints, want streams or
// Node's Buffer, and do not look at notes that run past their segment, which libelf reads and which
// Debian's PV GRUB has. A reader over the tables is these few lines.
// Checked: headers, and that named ranges lie inside the file. Not checked: alignment, overlap.
import type { Field } from '../../base/layout.ts';
import { EHDR32, EHDR64, EI, ELF_CLASS, ELF_DATA_LSB, ELF_MACHINE, ELF_MAGIC, PHDR32, PHDR64, SHDR32, SHDR64, SHF_EXECINSTR, SHT, STT, SYM32, SYM64 } from '../../abi/elf.ts';

export interface ElfSegment {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly vaddr: number;
  readonly paddr: number;
  readonly fileBytes: number;
  readonly memBytes: number;
}
export interface ElfSection {
  readonly name: string;
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly sizeBytes: number;
  readonly link: number;
}
export interface ElfSymbol {
  readonly name: string;
  readonly vaddr: number;
  readonly sizeBytes: number;
  /** In a section of code. */
  readonly isCode: boolean;
}

export interface ElfFile {
  readonly bytes: Uint8Array;
  readonly wordBits: 32 | 64;
  readonly machine: 'i386' | 'x86_64';
  readonly entry: number;
  readonly segments: readonly ElfSegment[];
  readonly sections: readonly ElfSection[];
}

export const isElf = (bytes: Uint8Array): boolean => ELF_MAGIC.every((byte, index) => bytes[index] === byte);

/** Reads one field. The caller has checked that it lies inside the file. */
export function readField(view: DataView, at: number, field: Field): number {
  const where = at + field.at;
  switch (field.type) {
    case 'u8':
      return view.getUint8(where);
    case 'u16':
      return view.getUint16(where, true);
    case 'u32':
      return view.getUint32(where, true);
    case 'i32':
      return view.getInt32(where, true);
    case 'u64':
      return view.getInt32(where + 4, true) * 0x1_0000_0000 + view.getUint32(where, true);
  }
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** The text up to its NUL, cut at the end of the file. */
export function textAt(bytes: Uint8Array, at: number): string {
  let text = '';
  for (let i = at; i >= 0 && i < bytes.length && bytes[i] !== 0; i++) text += String.fromCharCode(bytes[i] as number);
  return text;
}

/** Headers of an ELF file, or one clause that says what is wrong with it. */
export function readElf(bytes: Uint8Array): ElfFile | { readonly problem: string } {
  if (!isElf(bytes)) return { problem: 'is not an ELF file' };
  if (bytes.length < EHDR32.sizeBytes) return { problem: `is truncated: ${bytes.length} bytes are less than an ELF header` };
  const wide = bytes[EI.class] === ELF_CLASS.elf64;
  if (!wide && bytes[EI.class] !== ELF_CLASS.elf32) return { problem: `has ELF class ${bytes[EI.class]}, neither 32 nor 64 bits` };
  if (bytes[EI.data] !== ELF_DATA_LSB) return { problem: 'is a big-endian ELF file; a kernel for x86 is little-endian' };
  const ehdr = (wide ? EHDR64 : EHDR32).fields;
  if (bytes.length < (wide ? EHDR64 : EHDR32).sizeBytes) return { problem: `is truncated: ${bytes.length} bytes are less than an ELF header` };
  const view = viewOf(bytes);
  const machine = readField(view, 0, ehdr.e_machine);
  if (machine !== (wide ? ELF_MACHINE.x86_64 : ELF_MACHINE.i386)) return { problem: `is built for ELF machine ${machine}; only i386 (3) and x86-64 (62) kernels can run` };

  const segments = readTable(view, wide ? PHDR64 : PHDR32, readField(view, 0, ehdr.e_phoff), readField(view, 0, ehdr.e_phentsize), readField(view, 0, ehdr.e_phnum));
  if (segments === undefined) return { problem: 'is truncated: its program headers lie past the end of the file' };
  const sections = readTable(view, wide ? SHDR64 : SHDR32, readField(view, 0, ehdr.e_shoff), readField(view, 0, ehdr.e_shentsize), readField(view, 0, ehdr.e_shnum));
  if (sections === undefined) return { problem: 'is truncated: its section headers lie past the end of the file' };
  const names = sections[readField(view, 0, ehdr.e_shstrndx)]?.sh_offset;
  return {
    bytes, wordBits: wide ? 64 : 32, machine: wide ? 'x86_64' : 'i386', entry: readField(view, 0, ehdr.e_entry),
    segments: segments.map((row) => ({ type: row.p_type, flags: row.p_flags, offset: row.p_offset, vaddr: row.p_vaddr, paddr: row.p_paddr, fileBytes: row.p_filesz, memBytes: row.p_memsz })),
    sections: sections.map((row) => ({ name: names === undefined ? '' : textAt(bytes, names + row.sh_name), type: row.sh_type, flags: row.sh_flags, offset: row.sh_offset, sizeBytes: row.sh_size, link: row.sh_link })),
  };
}

function readTable<N extends string>(view: DataView, table: { readonly sizeBytes: number; readonly fields: Readonly<Record<N, Field>> }, offset: number, stride: number, count: number): Record<N, number>[] | undefined {
  if (count === 0) return [];
  if (offset < 0 || stride < table.sizeBytes || offset + stride * count > view.byteLength) return undefined;
  return Array.from({ length: count }, (_, index) => {
    const row: Partial<Record<N, number>> = {};
    for (const name of Object.keys(table.fields) as N[]) row[name] = readField(view, offset + stride * index, table.fields[name]);
    return row as Record<N, number>;
  });
}

/** Functions, objects and untyped labels of the symbol table, ascending by address; [] for a stripped file. */
export function readSymbols(elf: ElfFile): ElfSymbol[] {
  const table = elf.sections.find((section) => section.type === SHT.SYMTAB);
  const strings = table === undefined ? undefined : elf.sections[table.link];
  if (table === undefined || strings === undefined || table.offset < 0 || table.offset + table.sizeBytes > elf.bytes.length) return [];
  const sym = elf.wordBits === 64 ? SYM64 : SYM32;
  const view = viewOf(elf.bytes);
  const symbols: ElfSymbol[] = [];
  for (let at = table.offset; at + sym.sizeBytes <= table.offset + table.sizeBytes; at += sym.sizeBytes) {
    const kind = readField(view, at, sym.fields.st_info) & 15;
    if (readField(view, at, sym.fields.st_shndx) === 0 || (kind !== STT.FUNC && kind !== STT.OBJECT && kind !== STT.NOTYPE)) continue;
    const section = elf.sections[readField(view, at, sym.fields.st_shndx)];
    const name = textAt(elf.bytes, strings.offset + readField(view, at, sym.fields.st_name));
    if (name !== '') symbols.push({ name, vaddr: readField(view, at, sym.fields.st_value), sizeBytes: readField(view, at, sym.fields.st_size), isCode: section !== undefined && (section.flags & SHF_EXECINSTR) !== 0 });
  }
  return symbols.sort((a, b) => a.vaddr - b.vaddr || (a.name < b.name ? -1 : 1));
}
