// The page of hypercall stubs, 32 bytes each, stub n for hypercall n. `iret` never returns: guests
// jump to its stub with a frame on the stack. Source: pv_ring1_init_hypercall_page() and
// pv_ring3_init_hypercall_page() in xen/arch/x86/pv/hypercall.c.
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';

const STUB_BYTES = 32;
const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

/** mov $n,%eax; int $0x82; ret */
const stub32 = (nr: number): number[] => [0xb8, ...u32(nr), 0xcd, 0x82, 0xc3];
/** push %eax; mov $n,%eax; int $0x82 */
const iret32 = (nr: number): number[] => [0x50, 0xb8, ...u32(nr), 0xcd, 0x82];
/** push %rcx; push %r11; mov $n,%eax; syscall; pop %r11; pop %rcx; ret */
const stub64 = (nr: number): number[] => [0x51, 0x41, 0x53, 0xb8, ...u32(nr), 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3];
/** push %rcx; push %r11; push %rax; mov $n,%eax; syscall */
const iret64 = (nr: number): number[] => [0x51, 0x41, 0x53, 0x50, 0xb8, ...u32(nr), 0x0f, 0x05];

/** The page for a guest of that word size. Bytes between stubs are breakpoints (INT3), as in Xen. */
export function hypercallPage(wordBits: 32 | 64): Uint8Array {
  const page = new Uint8Array(4096).fill(0xcc);
  for (let nr = 0; nr < 4096 / STUB_BYTES; nr++) {
    const isIret = nr === HYPERCALL.iret;
    page.set(wordBits === 64 ? (isIret ? iret64(nr) : stub64(nr)) : isIret ? iret32(nr) : stub32(nr), nr * STUB_BYTES);
  }
  return page;
}
