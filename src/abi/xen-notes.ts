// What a kernel file says about itself to Xen: the ELF notes by number, and the features by bit.
// Sources: xen/include/public/elfnote.h, xen/include/public/features.h.

export type XenNoteKind = 'number' | 'text' | 'bytes';

export interface XenNoteRow {
  readonly type: number;
  readonly name: string;
  readonly kind: XenNoteKind;
}

export const XEN_NOTES = [
  { type: 0, name: 'INFO', kind: 'text' },
  { type: 1, name: 'ENTRY', kind: 'number' },
  { type: 2, name: 'HYPERCALL_PAGE', kind: 'number' },
  { type: 3, name: 'VIRT_BASE', kind: 'number' },
  { type: 4, name: 'PADDR_OFFSET', kind: 'number' },
  { type: 5, name: 'XEN_VERSION', kind: 'text' },
  { type: 6, name: 'GUEST_OS', kind: 'text' },
  { type: 7, name: 'GUEST_VERSION', kind: 'text' },
  { type: 8, name: 'LOADER', kind: 'text' },
  { type: 9, name: 'PAE_MODE', kind: 'text' },
  { type: 10, name: 'FEATURES', kind: 'text' },
  { type: 11, name: 'BSD_SYMTAB', kind: 'text' },
  { type: 12, name: 'HV_START_LOW', kind: 'number' },
  { type: 13, name: 'L1_MFN_VALID', kind: 'bytes' },
  { type: 14, name: 'SUSPEND_CANCEL', kind: 'number' },
  { type: 15, name: 'INIT_P2M', kind: 'number' },
  { type: 16, name: 'MOD_START_PFN', kind: 'number' },
  { type: 17, name: 'SUPPORTED_FEATURES', kind: 'number' },
  { type: 18, name: 'PHYS32_ENTRY', kind: 'number' },
  { type: 19, name: 'PHYS32_RELOC', kind: 'bytes' },
] as const satisfies readonly XenNoteRow[];
export type XenNoteName = (typeof XEN_NOTES)[number]['name'];

const BY_TYPE = new Map<number, (typeof XEN_NOTES)[number]>(XEN_NOTES.map((row) => [row.type, row]));
export const xenNoteRow = (type: number): (typeof XEN_NOTES)[number] | undefined => BY_TYPE.get(type);

/** XENFEAT_*: bit numbers of the first feature word, by the names that FEATURES strings use. */
export const XENFEAT = {
  writable_page_tables: 0, writable_descriptor_tables: 1, auto_translated_physmap: 2, supervisor_mode_kernel: 3, pae_pgdir_above_4gb: 4,
  hvm_callback_vector: 8, dom0: 11,
} as const;
export type FeatureName = keyof typeof XENFEAT;

/** Features that a kernel may require of us but a PV domain does not have. */
export const FEATURES_WE_LACK: readonly FeatureName[] = ['auto_translated_physmap', 'supervisor_mode_kernel', 'hvm_callback_vector', 'dom0'];
