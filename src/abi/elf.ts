// ELF files as tables: the structures of both classes, and the few constants that a kernel loader
// needs. Source: System V ABI, chapter 4, and its i386 and x86-64 supplements.
import { layout } from '../base/layout.ts';

const SOURCE = 'System V ABI, chapter 4';

export const ELF_MAGIC = [0x7f, 0x45, 0x4c, 0x46] as const;
/** e_ident bytes. */
export const EI = { class: 4, data: 5, sizeBytes: 16 } as const;
export const ELF_CLASS = { elf32: 1, elf64: 2 } as const;
export const ELF_DATA_LSB = 1;
export const ELF_MACHINE = { i386: 3, x86_64: 62 } as const;
export const PT = { LOAD: 1, NOTE: 4 } as const;
export const PF_RWX = 7;
export const SHF_EXECINSTR = 4;
export const SHT = { SYMTAB: 2, STRTAB: 3, NOTE: 7 } as const;
/** Low four bits of st_info. */
export const STT = { NOTYPE: 0, OBJECT: 1, FUNC: 2, SECTION: 3, FILE: 4 } as const;

export const EHDR32 = layout({
  sizeBytes: 52, source: SOURCE,
  fields: {
    e_ident: { at: 0, type: 'u8', count: 16 }, e_type: { at: 16, type: 'u16' }, e_machine: { at: 18, type: 'u16' }, e_version: { at: 20, type: 'u32' },
    e_entry: { at: 24, type: 'u32' }, e_phoff: { at: 28, type: 'u32' }, e_shoff: { at: 32, type: 'u32' }, e_flags: { at: 36, type: 'u32' },
    e_ehsize: { at: 40, type: 'u16' }, e_phentsize: { at: 42, type: 'u16' }, e_phnum: { at: 44, type: 'u16' }, e_shentsize: { at: 46, type: 'u16' },
    e_shnum: { at: 48, type: 'u16' }, e_shstrndx: { at: 50, type: 'u16' },
  },
});
export const EHDR64 = layout({
  sizeBytes: 64, source: SOURCE,
  fields: {
    e_ident: { at: 0, type: 'u8', count: 16 }, e_type: { at: 16, type: 'u16' }, e_machine: { at: 18, type: 'u16' }, e_version: { at: 20, type: 'u32' },
    e_entry: { at: 24, type: 'u64' }, e_phoff: { at: 32, type: 'u64' }, e_shoff: { at: 40, type: 'u64' }, e_flags: { at: 48, type: 'u32' },
    e_ehsize: { at: 52, type: 'u16' }, e_phentsize: { at: 54, type: 'u16' }, e_phnum: { at: 56, type: 'u16' }, e_shentsize: { at: 58, type: 'u16' },
    e_shnum: { at: 60, type: 'u16' }, e_shstrndx: { at: 62, type: 'u16' },
  },
});
export const PHDR32 = layout({
  sizeBytes: 32, source: SOURCE,
  fields: {
    p_type: { at: 0, type: 'u32' }, p_offset: { at: 4, type: 'u32' }, p_vaddr: { at: 8, type: 'u32' }, p_paddr: { at: 12, type: 'u32' },
    p_filesz: { at: 16, type: 'u32' }, p_memsz: { at: 20, type: 'u32' }, p_flags: { at: 24, type: 'u32' }, p_align: { at: 28, type: 'u32' },
  },
});
export const PHDR64 = layout({
  sizeBytes: 56, source: SOURCE,
  fields: {
    p_type: { at: 0, type: 'u32' }, p_flags: { at: 4, type: 'u32' }, p_offset: { at: 8, type: 'u64' }, p_vaddr: { at: 16, type: 'u64' },
    p_paddr: { at: 24, type: 'u64' }, p_filesz: { at: 32, type: 'u64' }, p_memsz: { at: 40, type: 'u64' }, p_align: { at: 48, type: 'u64' },
  },
});
export const SHDR32 = layout({
  sizeBytes: 40, source: SOURCE,
  fields: {
    sh_name: { at: 0, type: 'u32' }, sh_type: { at: 4, type: 'u32' }, sh_flags: { at: 8, type: 'u32' }, sh_addr: { at: 12, type: 'u32' },
    sh_offset: { at: 16, type: 'u32' }, sh_size: { at: 20, type: 'u32' }, sh_link: { at: 24, type: 'u32' }, sh_info: { at: 28, type: 'u32' },
    sh_addralign: { at: 32, type: 'u32' }, sh_entsize: { at: 36, type: 'u32' },
  },
});
export const SHDR64 = layout({
  sizeBytes: 64, source: SOURCE,
  fields: {
    sh_name: { at: 0, type: 'u32' }, sh_type: { at: 4, type: 'u32' }, sh_flags: { at: 8, type: 'u64' }, sh_addr: { at: 16, type: 'u64' },
    sh_offset: { at: 24, type: 'u64' }, sh_size: { at: 32, type: 'u64' }, sh_link: { at: 40, type: 'u32' }, sh_info: { at: 44, type: 'u32' },
    sh_addralign: { at: 48, type: 'u64' }, sh_entsize: { at: 56, type: 'u64' },
  },
});
export const SYM32 = layout({
  sizeBytes: 16, source: SOURCE,
  fields: { st_name: { at: 0, type: 'u32' }, st_value: { at: 4, type: 'u32' }, st_size: { at: 8, type: 'u32' }, st_info: { at: 12, type: 'u8' }, st_other: { at: 13, type: 'u8' }, st_shndx: { at: 14, type: 'u16' } },
});
export const SYM64 = layout({
  sizeBytes: 24, source: SOURCE,
  fields: { st_name: { at: 0, type: 'u32' }, st_info: { at: 4, type: 'u8' }, st_other: { at: 5, type: 'u8' }, st_shndx: { at: 6, type: 'u16' }, st_value: { at: 8, type: 'u64' }, st_size: { at: 16, type: 'u64' } },
});
/** Name and description follow, each padded to 4 bytes. The same in both classes. */
export const NHDR = layout({
  sizeBytes: 12, source: SOURCE,
  fields: { n_namesz: { at: 0, type: 'u32' }, n_descsz: { at: 4, type: 'u32' }, n_type: { at: 8, type: 'u32' } },
});
