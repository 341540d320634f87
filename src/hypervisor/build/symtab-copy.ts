// The symbol table as BSD kernels find it behind their last segment: a length word, then a small ELF
// file of its own with three section headers (none, SYMTAB, STRTAB) whose offsets are relative to
// its header. Source: elf_load_bsdsyms() in xen/common/libelf/libelf-loader.c.
import { EHDR32, EHDR64, SHDR32, SHDR64 } from '../../abi/elf.ts';
import { symtabSizes, type KernelImage, type SymtabPlan } from './kernel-image.ts';

const HEADER_AT = 4;
const SYMTAB = 1;
const STRTAB = 2;

/** The bytes to place at plan.vaddr. */
export function symtabBytes(image: KernelImage, plan: SymtabPlan): Uint8Array {
  const wide = image.wordBits === 64;
  const ehdr = wide ? EHDR64 : EHDR32;
  const shdr = wide ? SHDR64 : SHDR32;
  const sizes = symtabSizes(image.wordBits, plan);
  const out = new Uint8Array(sizes.totalBytes);
  const view = new DataView(out.buffer);
  const put = (at: number, type: string, value: number): void => {
    if (type === 'u64') view.setBigUint64(at, BigInt(value), true);
    else if (type === 'u32') view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
  };
  // The reference builder keeps room for a 64-bit header in either class.
  const sectionsAt = HEADER_AT + EHDR64.sizeBytes;
  view.setUint32(0, sizes.strtabAt + plan.strtab.sizeBytes - HEADER_AT, true);
  out.set(image.bytes.subarray(0, ehdr.sizeBytes), HEADER_AT);
  const header: Partial<Record<keyof typeof ehdr.fields, number>> = {
    e_version: 1, e_phoff: 0, e_shoff: EHDR64.sizeBytes, e_ehsize: ehdr.sizeBytes, e_phentsize: 0, e_phnum: 0, e_shentsize: shdr.sizeBytes, e_shnum: 3, e_shstrndx: 0,
  };
  for (const [name, value] of Object.entries(header)) {
    const field = ehdr.fields[name as keyof typeof ehdr.fields];
    put(HEADER_AT + field.at, field.type, value);
  }
  for (const [index, section, at] of [[SYMTAB, plan.symtab, sizes.symtabAt], [STRTAB, plan.strtab, sizes.strtabAt]] as const) {
    const base = sectionsAt + index * shdr.sizeBytes;
    const values = { sh_name: 0, sh_type: section.type, sh_offset: at - HEADER_AT, sh_size: section.sizeBytes, sh_link: index === SYMTAB ? STRTAB : 0, sh_entsize: index === SYMTAB ? (wide ? 24 : 16) : 0 };
    for (const [name, value] of Object.entries(values)) {
      const field = shdr.fields[name as keyof typeof shdr.fields];
      put(base + field.at, field.type, value);
    }
    out.set(image.bytes.subarray(section.offset, section.offset + section.sizeBytes), at);
  }
  return out;
}
