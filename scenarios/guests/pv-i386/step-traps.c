/*
 * Exceptions of the kernel itself, and the privileged instructions that Xen
 * emulates for it.
 *
 * The trap table is set; here each exception is raised once and must arrive
 * with the right vector, error code and address.
 */
#include "kernel.h"

static u32 unmapped_va(void) { return 0x00001000; } /* nothing of ours is below VIRT_BASE yet */

static void check_fault(u32 vector, u32 error, const char *what)
{
    if (last_fault.vector != vector || last_fault.error != error)
        fail("%s: vector %x error %x, not %x/%x", what, last_fault.vector, last_fault.error, vector, error);
}

static void exceptions(void)
{
    u32 eax = 1, edx = 0, before;

    TRY("divl %2", : "+a"(eax), "+d"(edx) : "r"(0) : "cc", "memory");
    check_fault(VEC_DE, 0, "#DE");
    TRY("ud2", : : : "memory");
    check_fault(VEC_UD, 0, "#UD");
    before = breakpoint_traps;
    __asm__ volatile("int3" : : : "memory");
    CHECK(breakpoint_traps == before + 1 && last_fault.vector == VEC_BP);
    __asm__ volatile("movb $0x7f, %%al; addb $1, %%al; into" : : : "eax", "cc", "memory");
    CHECK(breakpoint_traps == before + 2 && last_fault.vector == VEC_OF);
    __asm__ volatile("int $0x80" : : : "memory");
    CHECK(breakpoint_traps == before + 3 && last_fault.vector == VEC_SYSCALL);

    static const s32 limits[2] = { 10, 20 };
    TRY("boundl %0, %1", : : "r"(9), "m"(limits) : "memory");
    check_fault(VEC_BR, 0, "#BR");
    TRY("boundl %0, %1", : : "r"(20), "m"(limits) : "memory");
    CHECK(last_fault.vector == NO_VECTOR);

    TRY("hlt", : : : "memory"); /* privileged, and not emulated */
    check_fault(VEC_GP, 0, "hlt");
    TRY("lgdt %0", : : "m"(limits) : "memory");
    check_fault(VEC_GP, 0, "lgdt");
    TRY("int $0x60", : : : "memory"); /* no entry: #GP with vector * 8 + 2 */
    check_fault(VEC_GP, option("qemu64") ? 0x60 * 16 + 2 : 0x60 * 8 + 2, "int 0x60");
    TRY("movw %w0, %%gs", : : "r"(0x41) : "memory"); /* an empty descriptor */
    check_fault(VEC_GP, 0x40, "bad selector");

    /* Single step: the trap comes after the instruction behind POPF. */
    before = debug_traps;
    __asm__ volatile("pushf; orl $0x100, (%%esp); popf; nop" : : : "cc", "memory");
    CHECK(debug_traps == before + 1);
}

static void page_faults(void)
{
    u32 value;
    volatile u32 *nothing = (volatile u32 *)unmapped_va();
    CHECK(try_read(nothing, &value) == VEC_PF);
    check_fault(VEC_PF, 0, "read of nothing");
    CHECK(last_fault.cr2 == (u32)nothing);
    CHECK(try_write(nothing + 3, 1) == VEC_PF);
    check_fault(VEC_PF, 2, "write to nothing");
    CHECK(last_fault.cr2 == (u32)(nothing + 3));
    CHECK(try_write(root_table, 0) == VEC_PF); /* a page table is read-only */
    check_fault(VEC_PF, 3, "write to a page table");
    CHECK(try_read(root_table, &value) == NO_VECTOR);
    CHECK(try_read((volatile u32 *)m2p, &value) == NO_VECTOR);
    CHECK(try_write((volatile u32 *)m2p, value) != NO_VECTOR);
}

static void cpuid(u32 leaf, u32 out[4], int forced)
{
    if (forced)
        __asm__ volatile("ud2a; .ascii \"xen\"; cpuid"
                         : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "0"(leaf), "2"(0));
    else
        __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "0"(leaf), "2"(0));
}

static void emulated(void)
{
    u32 cr0, cr3, cr4, lo, hi, regs[4];
    __asm__ volatile("movl %%cr0, %0" : "=r"(cr0));
    CHECK((cr0 & 0x80000001) == 0x80000001); /* PG, PE */
    __asm__ volatile("movl %%cr3, %0" : "=r"(cr3));
    CHECK((cr3 >> 12 | cr3 << 20) == mfn_of(root_table)); /* a 32-bit guest sees the frame number rotated */
    __asm__ volatile("movl %0, %%cr3" : : "r"(cr3) : "memory");
    __asm__ volatile("movl %%cr4, %0" : "=r"(cr4));
    if (PAE) CHECK(cr4 & 0x20);
    __asm__ volatile("wbinvd" : : : "memory");
    TRY("rdmsr", : "=a"(lo), "=d"(hi) : "c"(0x1b) : "memory"); /* IA32_APIC_BASE */
    CHECK(last_fault.vector == NO_VECTOR || last_fault.vector == VEC_GP);

    char maker[13];
    cpuid(0x40000000, regs, 1);
    memcpy(maker, &regs[1], 12);
    maker[12] = 0;
    if (memcmp(maker, "XenVMM", 6)) fail("forced cpuid 0x40000000 says \"%s\"", maker);
    cpuid(0, regs, 0);
    CHECK(regs[0] >= 1);
    cpuid(1, regs, 1);
    CHECK(regs[3] & 1 << 4); /* TSC */

    /* The task-switched bit: hypercall, CR0, CLTS and #NM agree. */
    CHECK_RC(hypercall1(HC_fpu_taskswitch, 1), 0);
    __asm__ volatile("movl %%cr0, %0" : "=r"(cr0));
    CHECK(cr0 & 8);
    __asm__ volatile("clts");
    __asm__ volatile("movl %%cr0, %0" : "=r"(cr0));
    CHECK(!(cr0 & 8));
    CHECK_RC(hypercall1(HC_fpu_taskswitch, 1), 0);
    TRY("fnclex", : : : "memory");
    check_fault(VEC_NM, 0, "#NM"); /* Xen clears TS when it delivers this */
    CHECK_RC(hypercall1(HC_fpu_taskswitch, 0), 0);
    __asm__ volatile("movl %%cr0, %0" : "=r"(cr0));
    CHECK(!(cr0 & 8));

    CHECK_RC(hypercall2(HC_set_debugreg, 0, 0xc0100000), 0);
    CHECK((u32)hypercall1(HC_get_debugreg, 0) == 0xc0100000);
    CHECK_RC(hypercall2(HC_set_debugreg, 0, 0), 0);
    CHECK(hypercall2(HC_set_debugreg, 8, 0) < 0); /* -EINVAL once, -ENODEV today */
}

void step_traps(void)
{
    exceptions();
    page_faults();
    print("traps: exceptions ok\n");
    emulated();
    print("traps: emulated instructions ok\n");
}
