// The layout of the model kernel's first page: code stubs of operations, then the entry points that
// it registers with whoever runs it. A processor that finds itself at an entry's address starts the
// kernel's generator for that entry; one at a stub's address performs the pending operation.
//
//   KERNEL_TEXT ─► [stub of operation 0][1]...  16 bytes each
//   + 0x800     ─► [entry 0][1]...              16 bytes each
import { OPERATION_ROWS } from './operations.ts';

export const PAGE_OFFSET = 0xc000_0000;
/** Pseudo-physical page 0 stays unused. */
export const KERNEL_TEXT = PAGE_OFFSET + 0x1000;
const SLOT_BYTES = 16;
const ENTRIES_AT = 0x800;

/** Where the kernel is entered. `fixup`: where a fault handler returns to when it gives up an access of the kernel's. */
export const ENTRY_NAMES = ['start', 'event', 'failsafe', 'fixup', 'syscall', 'divide', 'debug', 'nmi', 'breakpoint', 'overflow', 'bounds', 'invalidOpcode', 'deviceNotAvailable', 'doubleFault', 'invalidTss', 'segmentNotPresent', 'stackSegment', 'generalProtection', 'pageFault', 'timer', 'irq'] as const;
export type EntryName = (typeof ENTRY_NAMES)[number];

export const stubVaddr = (kind: number): number => KERNEL_TEXT + kind * SLOT_BYTES;
export const entryVaddr = (name: EntryName): number => KERNEL_TEXT + ENTRIES_AT + ENTRY_NAMES.indexOf(name) * SLOT_BYTES;
/** The entry at that address, undefined if there is none. */
export function entryAt(vaddr: number): EntryName | undefined {
  const offset = vaddr - KERNEL_TEXT - ENTRIES_AT;
  return offset >= 0 && offset % SLOT_BYTES === 0 ? ENTRY_NAMES[offset / SLOT_BYTES] : undefined;
}

/** The page's bytes: stubs; UD2 at the entries, for processors that would run them. */
export function kernelTextPage(): Uint8Array {
  const page = new Uint8Array(4096).fill(0xcc);
  OPERATION_ROWS.forEach(({ code }, kind) => page.set(code, kind * SLOT_BYTES));
  ENTRY_NAMES.forEach((_, index) => page.set([0x0f, 0x0b], ENTRIES_AT + index * SLOT_BYTES));
  return page;
}
