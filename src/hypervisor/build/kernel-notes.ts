// What a kernel file tells Xen about itself: ELF notes named "Xen", or in older kernels the text of
// a section `__xen_guest`. Both fill the same record. Read as libelf reads them: notes in PT_NOTE
// segments, else in SHT_NOTE sections, else the section; a later note overrides an earlier one.
// Source: xen/common/libelf/libelf-dominfo.c. Not checked here: whether the values fit together.
import { NHDR, PT, SHT } from '../../abi/elf.ts';
import { XENFEAT, xenNoteRow, type FeatureName } from '../../abi/xen-notes.ts';
import { readField, textAt, type ElfFile } from './elf-file.ts';

/** no; yes; with the extended CR3 format (tables above 4 GiB); or either. */
export type PaeMode = 'no' | 'yes' | 'extended-cr3' | 'bimodal';

/** One note as found, for reports. Texts as such, numbers in hex, bytes in hex digits. */
export interface FoundNote {
  readonly name: string;
  readonly text: string;
}

export interface KernelNotes {
  source: 'notes' | '__xen_guest';
  found: FoundNote[];
  loader: string;
  guestOs: string;
  guestVersion: string;
  xenVersion: string;
  pae: PaeMode;
  bsdSymtab: boolean;
  /** Bits XENFEAT of the first word. */
  featuresSupported: number;
  featuresRequired: number;
  /** A feature that the kernel requires and nobody knows. */
  unknownRequired: string | undefined;
  virtBase: number | undefined;
  virtEntry: number | undefined;
  paddrOffset: number | undefined;
  hypercallVaddr: number | undefined;
  hvStartLow: number | undefined;
  initP2m: number | undefined;
  /** MOD_START_PFN: the ramdisk need not be mapped. */
  unmappedInitrd: boolean;
}

const emptyNotes = (source: KernelNotes['source']): KernelNotes => ({
  source, found: [], loader: '', guestOs: '', guestVersion: '', xenVersion: '', pae: 'no', bsdSymtab: false, featuresSupported: 0, featuresRequired: 0,
  unknownRequired: undefined, virtBase: undefined, virtEntry: undefined, paddrOffset: undefined, hypercallVaddr: undefined, hvStartLow: undefined,
  initP2m: undefined, unmappedInitrd: false,
});

/** What a note or key sets. Text rows get the text, number rows the number. */
const TEXT_NOTES: Readonly<Record<string, (notes: KernelNotes, text: string) => void>> = {
  LOADER: (notes, text) => void (notes.loader = text),
  GUEST_OS: (notes, text) => void (notes.guestOs = text),
  GUEST_VERSION: (notes, text) => void (notes.guestVersion = text),
  XEN_VERSION: (notes, text) => void (notes.xenVersion = text),
  PAE_MODE: (notes, text) => {
    if (text === 'yes') notes.pae = 'extended-cr3';
    if (text.includes('bimodal')) notes.pae = 'bimodal';
  },
  BSD_SYMTAB: (notes, text) => void (notes.bsdSymtab ||= text === 'yes'),
  FEATURES: (notes, text) => parseFeatures(notes, text),
};
const NUMBER_NOTES: Readonly<Record<string, (notes: KernelNotes, value: number) => void>> = {
  ENTRY: (notes, value) => void (notes.virtEntry = value),
  HYPERCALL_PAGE: (notes, value) => void (notes.hypercallVaddr = value),
  VIRT_BASE: (notes, value) => void (notes.virtBase = value),
  PADDR_OFFSET: (notes, value) => void (notes.paddrOffset = value),
  HV_START_LOW: (notes, value) => void (notes.hvStartLow = value),
  INIT_P2M: (notes, value) => void (notes.initP2m = value),
  MOD_START_PFN: (notes, value) => void (notes.unmappedInitrd = value !== 0),
  SUPPORTED_FEATURES: (notes, value) => void (notes.featuresSupported = (notes.featuresSupported | (value % 0x1_0000_0000)) >>> 0),
};

/** `!required|supported`: elf_xen_parse_features(). */
function parseFeatures(notes: KernelNotes, text: string): void {
  for (const word of text.split('|')) {
    const required = word.startsWith('!');
    const bit = XENFEAT[(required ? word.slice(1) : word) as FeatureName] as number | undefined;
    if (bit === undefined) {
      if (required) notes.unknownRequired ??= word.slice(1);
      continue;
    }
    notes.featuresSupported = (notes.featuresSupported | (1 << bit)) >>> 0;
    if (required) notes.featuresRequired = (notes.featuresRequired | (1 << bit)) >>> 0;
  }
}

const align4 = (value: number): number => Math.ceil(value / 4) * 4;
/** A file of notes that never end is none. ELF_MAX_TOTAL_NOTE_COUNT in libelf-private.h. */
const MAX_NOTES = 65536;

/** Parses the notes in a range of the file. Returns how many were Xen's. */
function parseNoteRange(elf: ElfFile, notes: KernelNotes, start: number, end: number): number {
  const { bytes } = elf;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let count = 0;
  let seen = 0;
  // The description is bounded by the file, not by `end`: Debian's PV GRUB gives its last note
  // (PAE_MODE, 4 bytes) a size of 12.
  for (let at = start; at >= 0 && at < end && at + NHDR.sizeBytes <= bytes.length && seen < MAX_NOTES; seen++) {
    const nameBytes = align4(readField(view, at, NHDR.fields.n_namesz));
    const descBytes = readField(view, at, NHDR.fields.n_descsz);
    const type = readField(view, at, NHDR.fields.n_type);
    const desc = at + NHDR.sizeBytes + nameBytes;
    if (textAt(bytes.subarray(0, Math.min(bytes.length, at + NHDR.sizeBytes + 8)), at + NHDR.sizeBytes) === 'Xen') {
      parseNote(notes, bytes, view, type, desc, descBytes);
      count++;
    }
    at = desc + align4(descBytes);
  }
  return count;
}

function parseNote(notes: KernelNotes, bytes: Uint8Array, view: DataView, type: number, desc: number, descBytes: number): void {
  const row = xenNoteRow(type);
  if (row === undefined) {
    notes.found.push({ name: `type 0x${type.toString(16)}`, text: hexBytes(bytes.subarray(desc, desc + descBytes)) });
    return;
  }
  if (row.kind === 'text') {
    const text = textAt(bytes, desc);
    notes.found.push({ name: row.name, text });
    TEXT_NOTES[row.name]?.(notes, text);
  } else if (row.kind === 'number') {
    const value = numberAt(view, desc, descBytes);
    notes.found.push({ name: row.name, text: hexWord(value) });
    NUMBER_NOTES[row.name]?.(notes, value);
  } else notes.found.push({ name: row.name, text: hexBytes(bytes.subarray(desc, desc + descBytes)) });
}

/** elf_note_numeric(): 1, 2, 4 or 8 bytes; other sizes count as 0. */
function numberAt(view: DataView, at: number, sizeBytes: number): number {
  if (at + sizeBytes > view.byteLength) return 0;
  const type = ({ 1: 'u8', 2: 'u16', 4: 'u32', 8: 'u64' } as const)[sizeBytes];
  return type === undefined ? 0 : readField(view, at, { at: 0, type });
}

const hexBytes = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
const hexWord = (value: number): string => `0x${(value < 0 ? BigInt.asUintN(64, BigInt(value)) : BigInt(value)).toString(16)}`;

// ---- the older section -------------------------------------------------------------------------

/** Keys of `__xen_guest` that have another name than their note. */
const GUEST_KEYS: Readonly<Record<string, string>> = { GUEST_VER: 'GUEST_VERSION', XEN_VER: 'XEN_VERSION', VIRT_ENTRY: 'ENTRY', ELF_PADDR_OFFSET: 'PADDR_OFFSET' };

/** `KEY=value,KEY,KEY=value` up to a NUL: elf_xen_parse_guest_info(). HYPERCALL_PAGE is a frame number from VIRT_BASE. */
function parseGuestSection(text: string, wordBits: 32 | 64): KernelNotes {
  const notes = emptyNotes('__xen_guest');
  let hypercallPfn: number | undefined;
  for (const pair of text.split(',')) {
    const equals = pair.indexOf('=');
    const key = (equals < 0 ? pair : pair.slice(0, equals)).trim();
    const value = equals < 0 ? '' : pair.slice(equals + 1);
    if (key === '') continue;
    notes.found.push({ name: key, text: value });
    const name = GUEST_KEYS[key] ?? key;
    if (key === 'HYPERCALL_PAGE') hypercallPfn = parseNumber(value, wordBits);
    else if (key === 'BSD_SYMTAB') notes.bsdSymtab = true;
    else if (key === 'PAE') notes.pae = value === 'yes[extended-cr3]' ? 'extended-cr3' : value.includes('bimodal') ? 'bimodal' : value.startsWith('yes') ? 'yes' : 'no';
    else if (TEXT_NOTES[name] !== undefined) TEXT_NOTES[name](notes, value);
    else NUMBER_NOTES[name]?.(notes, parseNumber(value, wordBits));
  }
  if (hypercallPfn !== undefined) notes.hypercallVaddr = hypercallPfn * 4096 + (notes.virtBase ?? 0);
  return notes;
}

/** strtoull(value, 0): hex with 0x, octal with 0, else decimal; the rest of the text is ignored. */
function parseNumber(text: string, wordBits: 32 | 64): number {
  const match = /^\s*(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)/.exec(text);
  if (match === null) return 0;
  const digits = match[1] as string;
  const value = BigInt(/^0[0-7]/.test(digits) ? `0o${digits.slice(1)}` : digits);
  return Number(wordBits === 64 ? BigInt.asIntN(64, value) : BigInt.asUintN(32, value));
}

/** Everything that the file says, or undefined: neither notes nor the section. */
export function readKernelNotes(elf: ElfFile): KernelNotes | undefined {
  const notes = emptyNotes('notes');
  let count = 0;
  for (const segment of elf.segments) {
    // Some binutils leave p_offset of note segments at 0.
    if (segment.type === PT.NOTE && segment.offset !== 0) count += parseNoteRange(elf, notes, segment.offset, segment.offset + segment.fileBytes);
  }
  if (count === 0) {
    for (const section of elf.sections) {
      if (section.type === SHT.NOTE) count += parseNoteRange(elf, notes, section.offset, section.offset + section.sizeBytes);
    }
  }
  if (count > 0) return notes;
  const section = elf.sections.find((row) => row.name === '__xen_guest');
  return section === undefined ? undefined : parseGuestSection(textAt(elf.bytes, section.offset), elf.wordBits);
}
