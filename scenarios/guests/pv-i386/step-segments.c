/*
 * Descriptor tables of our own: a GDT frame (read-only first, since Xen gives it
 * a type), entries changed by update_descriptor, an LDT, segment loads through
 * both, and the stack that ring 3 would enter on.
 */
#include "kernel.h"

static u64 gdt[512] __attribute__((aligned(4096)));
static u64 ldt[512] __attribute__((aligned(4096)));
static volatile u32 marker[4] = { 0x11111111, 0x22222222, 0x33333333, 0x44444444 };

/* A byte-granular segment, DPL 1: access 0xb3 is writable data, 0xbb readable code. */
static u64 descriptor(u32 base, u32 limit, u32 access)
{
    u32 low = base << 16 | (limit & 0xffff);
    u32 high = (base & 0xff000000) | (limit & 0xf0000) | 0x00400000 | access << 8 | (base >> 16 & 0xff);
    return (u64)high << 32 | low;
}
enum { DATA = 0xb3, CODE = 0xbb };

static u32 read_gs(u32 offset)
{
    u32 value;
    __asm__ volatile("movl %%gs:(%1), %0" : "=r"(value) : "r"(offset) : "memory");
    return value;
}
static void load_gs(u32 selector) { __asm__ volatile("movw %w0, %%gs" : : "r"(selector) : "memory"); }

static s32 update_descriptor(u64 *entry, u64 value)
{
    u64 where = maddr_of(entry);
    return hypercall4(HC_update_descriptor, (u32)where, (u32)(where >> 32), (u32)value, (u32)(value >> 32));
}

static void own_gdt(void)
{
    u32 frame = mfn_of(gdt), value;
    /* Page granular, up to 0xcfffffff: a 32-bit Xen would not let it reach Xen itself. */
    gdt[1] = descriptor(0, 0xcffff, CODE) | 0x0080000000000000ull;
    gdt[2] = descriptor((u32)marker, 15, DATA);
    CHECK_RC(hypercall2(HC_set_gdt, &frame, 512), -EINVAL); /* still mapped writable */
    make_readonly(gdt);
    CHECK_RC(hypercall2(HC_set_gdt, &frame, 512), 0);
    CHECK(try_write(gdt, 0) == VEC_PF);

    load_gs(2 << 3 | 1);
    CHECK(read_gs(4) == marker[1]);
    TRY("movl %%gs:(%1), %0", : "=r"(value) : "r"(16) : "memory");
    CHECK(last_fault.vector == VEC_GP || option("qemu")); /* beyond the limit */

    /* Code through our own descriptor, and back into Xen's. */
    u32 cs = 0;
    __asm__ volatile("ljmp %1, $1f\n1:\tmovl %%cs, %0\n\tljmp %2, $2f\n2:"
                     : "=r"(cs) : "i"(1 << 3 | 1), "i"(FLAT_RING1_CS) : "memory");
    CHECK((cs & 0xffff) == (1 << 3 | 1));

    CHECK_RC(update_descriptor(&gdt[2], descriptor((u32)&marker[2], 7, DATA)), 0);
    load_gs(2 << 3 | 1);
    CHECK(read_gs(4) == marker[3]);
    load_gs(0); /* a 32-bit Xen reloads the segments on every way out, and would call failsafe */
    CHECK_RC(update_descriptor(&gdt[2], 0), 0);
    TRY("movw %w0, %%gs", : : "r"(2 << 3 | 1) : "memory");
    CHECK(last_fault.vector == VEC_GP && last_fault.error == 2 << 3);
    load_gs(0);
}

static void own_ldt(void)
{
    ldt[1] = descriptor((u32)marker, 15, DATA);
    make_readonly(ldt);
    CHECK_RC(mmuext(MMUEXT_SET_LDT, (u32)ldt, 512), 0);
    load_gs(1 << 3 | 4 | 1);
    CHECK(read_gs(8) == marker[2]);
    CHECK_RC(update_descriptor(&ldt[1], descriptor((u32)&marker[3], 3, DATA)), 0);
    load_gs(1 << 3 | 4 | 1);
    CHECK(read_gs(0) == marker[3]);
    load_gs(0);
    CHECK_RC(mmuext(MMUEXT_SET_LDT, 0, 0), 0);
    TRY("movw %w0, %%gs", : : "r"(1 << 3 | 4 | 1) : "memory");
    CHECK(last_fault.vector == VEC_GP);
    make_writable(ldt); /* Xen has let go of it */
    CHECK(try_write(ldt, 0) == NO_VECTOR);
}

void set_kernel_stack(u32 esp) { CHECK_RC(hypercall2(HC_stack_switch, FLAT_RING1_DS, esp), 0); }

void step_segments(void)
{
    own_gdt();
    print("seg: own GDT ok\n");
    own_ldt();
    print("seg: own LDT ok\n");
    set_kernel_stack((u32)__builtin_frame_address(0));
    CHECK_RC(hypercall2(HC_set_gdt, 0, 0), 0);
    make_writable(gdt);
    print("seg: stack_switch, GDT given back, ok\n");
}
