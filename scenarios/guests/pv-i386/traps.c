/*
 * Exceptions: the trap table, and one dispatcher for everything that head.S
 * brings in (exceptions, the system-call vector, event upcalls).
 *
 * A fault of the kernel itself is looked up in the exception table that TRY
 * writes: found, execution goes on behind the instruction and last_fault keeps
 * what happened; not found, the run ends with the registers on the console.
 */
#include "kernel.h"

extern const u32 trap_entries[20];
extern void syscall_entry(void);
extern const u32 ex_table_start[][2], ex_table_end[][2];

struct fault_record last_fault;
u32 debug_traps, breakpoint_traps;

/* #BP, #OF and the system call may come from ring 3. Only the system call leaves events on: its handler may take long. */
void traps_init(void)
{
    static struct trap_info table[22];
    u32 n = 0;
    for (u32 vector = 0; vector < 20; vector++) {
        u32 dpl = vector == VEC_BP || vector == VEC_OF ? 3 : 0;
        table[n++] = (struct trap_info){ (u8)vector, (u8)(dpl | TI_EVENTS_OFF), FLAT_RING1_CS, trap_entries[vector] };
    }
    table[n++] = (struct trap_info){ VEC_SYSCALL, 3, FLAT_RING1_CS, (u32)syscall_entry };
    table[n] = (struct trap_info){ 0, 0, 0, 0 };
    CHECK_RC(hypercall1(HC_set_trap_table, table), 0);
}

void traps_forget(void) { hypercall1(HC_set_trap_table, 0); }

void failsafe_reached(void);
void failsafe_reached(void) { fail("failsafe callback"); }

static void show(const struct trap_frame *f)
{
    print("\nexception %u error %08x cr2 %08x\n", f->vector, f->error, vcpu()->cr2);
    print("eip %x:%08x eflags %08x\n", f->cs & 0xffff, f->eip, f->eflags);
    print("eax %08x ebx %08x ecx %08x edx %08x\n", f->eax, f->ebx, f->ecx, f->edx);
    print("esi %08x edi %08x ebp %08x esp %08x\n", f->esi, f->edi, f->ebp, user_frame(f) ? f->esp : (u32)&f->esp);
}

static int fix_up(struct trap_frame *f)
{
    for (const u32 (*e)[2] = ex_table_start; e < ex_table_end; e++) {
        if ((*e)[0] != f->eip) continue;
        f->eip = (*e)[1];
        return 1;
    }
    return 0;
}

void trap_dispatch(struct trap_frame *f);
void trap_dispatch(struct trap_frame *f)
{
    if (f->vector == VEC_EVENT) {
        events_dispatch();
        return;
    }
    if (user_frame(f)) {
        if (user_trap(f)) return;
    } else {
        last_fault = (struct fault_record){ f->vector, f->error, f->eip, vcpu()->cr2 };
        switch (f->vector) {
        case VEC_DB:
            debug_traps++;
            f->eflags &= ~0x100u; /* TF */
            return;
        case VEC_BP: /* traps, not faults: eip is behind the instruction already */
        case VEC_OF:
        case VEC_SYSCALL:
            breakpoint_traps++;
            return;
        }
        if (fix_up(f)) return;
    }
    show(f);
    fail("unexpected exception %u at %08x", f->vector, f->eip);
}

u32 try_read(const volatile void *address, u32 *value)
{
    u32 v = 0;
    TRY("movl %1, %0", : "+r"(v) : "m"(*(const volatile u32 *)address) : "memory");
    *value = v;
    return last_fault.vector;
}

u32 try_write(volatile void *address, u32 value)
{
    TRY("movl %1, %0", : "=m"(*(volatile u32 *)address) : "r"(value) : "memory");
    return last_fault.vector;
}
