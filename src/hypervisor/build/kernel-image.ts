// A kernel file, understood: what it is, where its parts go, what it wants of the domain. Pure data
// over the file's bytes; building a domain from it is build-domain.ts.
//
//   file ─ gzip or bzImage? (kernel-container.ts) ─► ELF ─► notes ─► addresses ─► KernelImage
//
// Segments are placed by their physical addresses: the guest sees segment byte `paddr` at
// paddr + VIRT_BASE - PADDR_OFFSET, whatever p_vaddr says (Linux's per-CPU segment has p_vaddr 0).
// Sources: xen/common/libelf/libelf-dominfo.c and libelf-loader.c, tools/libs/guest/xg_dom_elfloader.c.
import { PF_RWX, PT, SHT } from '../../abi/elf.ts';
import { FEATURES_WE_LACK, XENFEAT } from '../../abi/xen-notes.ts';
import type { AbiName } from '../personality.ts';
import { isElf, readElf, readSymbols, type ElfFile, type ElfSection, type ElfSymbol } from './elf-file.ts';
import { readKernelNotes, type FoundNote, type KernelNotes, type PaeMode } from './kernel-notes.ts';

/** `fileBytes` bytes at `offset` go to `vaddr`, followed by zeros up to `memBytes`. */
export interface KernelSegment {
  readonly vaddr: number;
  readonly offset: number;
  readonly fileBytes: number;
  readonly memBytes: number;
}

/** A copy of the symbol table behind the kernel, as BSD kernels want it. */
export interface SymtabPlan {
  readonly vaddr: number;
  readonly symtab: ElfSection;
  readonly strtab: ElfSection;
  readonly header: ElfSection;
}

export interface KernelImage {
  readonly bytes: Uint8Array;
  readonly machine: 'i386' | 'x86_64';
  readonly wordBits: 32 | 64;
  /** Personality that fits the file best; `xen3-pae` is never chosen by itself. */
  readonly abi: AbiName;
  readonly pae: PaeMode;
  readonly source: 'notes' | '__xen_guest';
  readonly notes: readonly FoundNote[];
  readonly guestOs: string;
  readonly guestVersion: string;
  readonly virtBase: number;
  readonly entry: number;
  /** First and last+1 address of everything that is loaded. */
  readonly virtStart: number;
  readonly virtEnd: number;
  readonly hypercallVaddr: number | undefined;
  /** INIT_P2M: where the p2m list is to be mapped; undefined: behind the kernel. */
  readonly initP2m: number | undefined;
  readonly hvStartLow: number | undefined;
  readonly unmappedInitrd: boolean;
  readonly featuresSupported: number;
  readonly featuresRequired: number;
  readonly segments: readonly KernelSegment[];
  readonly bsdSymtab: SymtabPlan | undefined;
}

export interface KernelProblem {
  /** A clause that follows the file's name: "is not an ELF file". */
  readonly problem: string;
}

/** Understands an ELF kernel (already unpacked: kernel-container.ts), or says what is wrong with it. */
export function parseKernel(bytes: Uint8Array): KernelImage | KernelProblem {
  if (!isElf(bytes)) return { problem: 'is not an ELF kernel (nor a gzip file or bzImage that holds one)' };
  const elf = readElf(bytes);
  if ('problem' in elf) return elf;
  const notes = readKernelNotes(elf);
  if (notes === undefined) return { problem: 'has no Xen ELF notes and no __xen_guest section, so it was not built to run as a PV guest' };
  const refusal = checkNotes(notes);
  return refusal ?? place(elf, notes);
}

/** elf_xen_note_check(), and what a PV domain cannot give. */
function checkNotes(notes: KernelNotes): KernelProblem | undefined {
  // CONFIG_PVH without CONFIG_XEN_PV, or grub-i386-xen_pvh.bin.
  if (notes.loader === '' && notes.guestOs === '' && notes.found.some(({ name }) => name === 'PHYS32_ENTRY')) {
    return { problem: 'was built for PVH domains alone (of what Xen asks PV kernels it says only PHYS32_ENTRY); a PV kernel is wanted here: built with CONFIG_XEN_PV, or of GRUB the file without "pvh" in its name' };
  }
  if (!notes.loader.startsWith('generic') && !notes.guestOs.startsWith('linux')) {
    return { problem: notes.loader === '' ? 'has no ELF note LOADER; PV kernels say "generic" there' : `wants the loader "${notes.loader}" for "${notes.guestOs}"; only the loader "generic" is there` };
  }
  if (!notes.xenVersion.startsWith('xen-3.0')) return { problem: `wants the Xen interface "${notes.xenVersion}"; only "xen-3.0" is there` };
  if (notes.unknownRequired !== undefined) return { problem: `requires the feature ${notes.unknownRequired}, which no Xen has` };
  const missing = FEATURES_WE_LACK.find((name) => ((notes.featuresRequired >>> XENFEAT[name]) & 1) === 1);
  if (missing !== undefined) return { problem: `requires the feature ${missing}, which a PV domain does not have` };
  return undefined;
}

/** elf_xen_addr_calc_check(): where everything goes. */
function place(elf: ElfFile, notes: KernelNotes): KernelImage | KernelProblem {
  const { bytes } = elf;
  const loads = elf.segments.filter((segment) => segment.type === PT.LOAD && (segment.flags & PF_RWX) !== 0);
  if (loads.length === 0) return { problem: 'has no segments to load' };
  for (const segment of loads) {
    if (segment.offset < 0 || segment.fileBytes < 0 || segment.offset + segment.fileBytes > bytes.length) return { problem: `is truncated: a segment of ${segment.fileBytes} bytes at ${segment.offset} lies past its end at ${bytes.length}` };
    if (segment.memBytes < segment.fileBytes || segment.memBytes > 2 ** 32 || !Number.isSafeInteger(segment.paddr)) return { problem: `has a segment whose sizes make no sense (${segment.fileBytes} bytes in the file, ${segment.memBytes} in memory)` };
  }
  if (notes.paddrOffset !== undefined && notes.virtBase === undefined) return { problem: 'sets PADDR_OFFSET without VIRT_BASE' };
  const virtBase = notes.virtBase ?? 0;
  // Kernels with the older section put virtual addresses into p_paddr.
  const virtOffset = virtBase - (notes.paddrOffset ?? (notes.source === 'notes' ? 0 : virtBase));
  const segments = loads.map((segment) => ({ vaddr: segment.paddr + virtOffset, offset: segment.offset, fileBytes: segment.fileBytes, memBytes: segment.memBytes }));
  const virtStart = Math.min(...segments.map((segment) => segment.vaddr));
  let virtEnd = Math.max(...segments.map((segment) => segment.vaddr + segment.memBytes));
  const bsdSymtab = notes.bsdSymtab ? planSymtab(elf, virtEnd) : undefined;
  if (bsdSymtab !== undefined) virtEnd = bsdSymtab.vaddr + symtabSizes(elf.wordBits, bsdSymtab).totalBytes;
  const entry = notes.virtEntry ?? elf.entry;
  if (entry < virtStart || entry > virtEnd || virtBase > virtStart) {
    return { problem: `has its entry ${hex(entry)} or its base ${hex(virtBase)} outside what it loads (${hex(virtStart)} to ${hex(virtEnd)})` };
  }
  if (virtStart % 4096 !== 0) return { problem: `is loaded at ${hex(virtStart)}, which is not the start of a page` };
  if (notes.initP2m !== undefined && notes.initP2m >= virtStart && notes.initP2m < virtEnd) return { problem: `wants its p2m list at ${hex(notes.initP2m)}, inside the kernel itself` };
  return {
    bytes, machine: elf.machine, wordBits: elf.wordBits, abi: elf.wordBits === 64 ? 'pv64' : notes.pae === 'no' ? 'xen3-nopae' : 'pv32pae', pae: notes.pae,
    source: notes.source, notes: notes.found, guestOs: notes.guestOs, guestVersion: notes.guestVersion, virtBase, entry, virtStart, virtEnd,
    hypercallVaddr: notes.hypercallVaddr, hvStartLow: notes.hvStartLow, unmappedInitrd: notes.unmappedInitrd,
    // libxenguest ignores an INIT_P2M that is not below the kernel or not a page, and 32-bit ones.
    initP2m: elf.wordBits === 64 && notes.initP2m !== undefined && notes.initP2m % 4096 === 0 && unsigned48(notes.initP2m) < unsigned48(virtBase) ? notes.initP2m : undefined,
    featuresSupported: notes.featuresSupported, featuresRequired: notes.featuresRequired, segments, bsdSymtab,
  };
}

/** Signed canonical addresses compare as Xen compares them: unsigned. */
const unsigned48 = (vaddr: number): number => (vaddr < 0 ? vaddr + 2 ** 48 : vaddr);
const hex = (vaddr: number): string => `0x${(vaddr < 0 ? BigInt.asUintN(64, BigInt(vaddr)) : BigInt(vaddr)).toString(16)}`;

/** elf_parse_bsdsyms(): undefined if the file has no usable symbol table. */
function planSymtab(elf: ElfFile, end: number): SymtabPlan | undefined {
  const symtab = elf.sections.find((section) => section.type === SHT.SYMTAB);
  const strtab = symtab === undefined ? undefined : elf.sections[symtab.link];
  const header = elf.sections[0];
  if (symtab === undefined || strtab === undefined || header === undefined || strtab.type !== SHT.STRTAB) return undefined;
  if ([symtab, strtab].some((section) => section.offset < 0 || section.offset + section.sizeBytes > elf.bytes.length)) return undefined;
  return { vaddr: roundTo(end, elf.wordBits / 8), symtab, strtab, header };
}

const roundTo = (value: number, unit: number): number => Math.ceil(value / unit) * unit;

/** Offsets from the start of the copy: a length word, an ELF header, three section headers, the tables. */
export function symtabSizes(wordBits: 32 | 64, plan: SymtabPlan): { headerBytes: number; symtabAt: number; strtabAt: number; totalBytes: number } {
  const unit = wordBits / 8;
  const headerBytes = 4 + (wordBits === 64 ? 64 + 3 * 64 : 52 + 3 * 40);
  // The reference builder reserves by the file's class but places by the larger of the two headers.
  const symtabAt = roundTo(4 + 64 + 3 * 64, unit);
  const strtabAt = roundTo(symtabAt + plan.symtab.sizeBytes, unit);
  return { headerBytes, symtabAt, strtabAt, totalBytes: roundTo(strtabAt + plan.strtab.sizeBytes, unit) };
}

/** Names and addresses for reports; [] when the file is stripped. */
export function kernelSymbols(image: KernelImage): ElfSymbol[] {
  const elf = readElf(image.bytes);
  return 'problem' in elf ? [] : readSymbols(elf);
}
