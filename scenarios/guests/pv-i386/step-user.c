/*
 * A process in ring 3 with an address space of its own: its traps, its system
 * calls, pages that appear when touched, a page copied when written, and timer
 * interrupts in the middle of it.
 *
 * It runs twice: entered by the iret hypercall, and by the IRET instruction.
 */
#include "kernel.h"
#include "user.h"

extern const u8 user_program[], user_program_end[];

static u32 demand_faults, cow_faults, skipped, syscalls;
static u32 *cow_original, *cow_copy;
static void *owned[32];
static u32 owned_count;

static void *own_page(void)
{
    CHECK(owned_count < ARRAY_SIZE(owned));
    return owned[owned_count++] = alloc_page();
}

/* A table for va in the live, pinned tree: filled, made read-only, then hung in. */
static void need_l1(u32 va)
{
    if (find_l1e(root_table, va)) return;
    pte_t *l1 = alloc_page();
    make_readonly(l1);
    CHECK_RC(update_entry(find_l2e(root_table, va), make_pte(mfn_of(l1), TABLE_FLAGS)), 0);
}

static void map_user(u32 va, const volatile void *page, u32 flags)
{
    need_l1(va);
    CHECK_RC(set_va((void *)va, make_pte(mfn_of(page), flags)), 0);
}

static int page_fault(struct trap_frame *f)
{
    u32 va = vcpu()->cr2, page = va & ~(PAGE_SIZE - 1);
    int write = f->error & 2, present = f->error & 1;
    CHECK(f->error & 4); /* from ring 3 */
    if (present && write && page == USER_COW) {
        cow_copy = own_page();
        memcpy(cow_copy, cow_original, PAGE_SIZE);
        map_user(page, cow_copy, USER_RW);
        cow_faults++;
        return 1;
    }
    if (!present && ((va >= USER_HEAP && va < USER_HEAP_END) || (va >= USER_STACK_LOW && va < USER_STACK_TOP))) {
        map_user(page, own_page(), USER_RW);
        demand_faults++;
        return 1;
    }
    if (present && page == USER_KERNEL_VA) {
        f->eip += 2; /* movl (%ebx), %eax */
        skipped++;
        return 1;
    }
    print("user: fault at %08x error %x\n", va, f->error);
    return 0;
}

static void system_call(struct trap_frame *f)
{
    syscalls++;
    switch (f->eax) {
    case 1:
        leave_user(f->ebx);
    case 4:
        for (u32 i = 0; i < f->edx; i++) {
            char text[2] = { ((const char *)f->ecx)[i], 0 };
            print("%s", text);
        }
        f->eax = f->edx;
        return;
    case 27:
        f->eax = (u32)set_timer(now_ns() + 100000);
        return;
    default:
        f->eax = (u32)-ENOSYS;
    }
}

int user_trap(struct trap_frame *f)
{
    switch (f->vector) {
    case VEC_PF:
        return page_fault(f);
    case VEC_SYSCALL:
        system_call(f);
        return 1;
    case VEC_GP: /* hlt */
        CHECK(f->error == 0);
        f->eip += 1;
        break;
    case VEC_UD:
    case VEC_DE: /* ud2, divl %ebx */
        f->eip += 2;
        break;
    case VEC_BP:
        break;
    default:
        return 0;
    }
    skipped++;
    return 1;
}

static void run_process(int native_iret)
{
    pte_t *kernel_root = root_table, *root = new_root();
    demand_faults = cow_faults = skipped = syscalls = owned_count = 0;

    u8 *code = own_page();
    memcpy(code, user_program, (u32)(user_program_end - user_program));
    cow_original = own_page();
    cow_original[0] = USER_COW_VALUE;
    add_l1(root, USER_BASE)[L1_INDEX(USER_BASE)] = make_pte(mfn_of(code), USER_RO);
    pin_root(root);
    switch_root(root);
    map_user(USER_COW, cow_original, USER_RO);
    map_user(USER_TICKS, timer_page, USER_RO);

    if (native_iret) irq_enable(); /* IRET does not know the upcall mask */
    u32 before = upcalls;
    int result = enter_user(USER_BASE, USER_STACK_TOP, native_iret);
    irq_disable();
    if (result != USER_RESULT) fail("the ring-3 program gave %x, not %x", result, USER_RESULT);
    CHECK(demand_faults == 7 && cow_faults == 1 && skipped == 5 && syscalls == 3);
    CHECK(upcalls > before);
    CHECK(cow_original[0] == USER_COW_VALUE && cow_copy[0] == USER_COW_VALUE + 1);
    CHECK_RC(set_timer(0), 0);

    switch_root(kernel_root);
    drop_root(root);
    for (u32 i = 0; i < owned_count; i++) free_page(owned[i]);
    print("user: %u demand faults, %u copied, %u skipped, %s, ok\n", demand_faults, cow_faults, skipped,
          native_iret ? "IRET" : "iret hypercall");
}

void step_user(void)
{
    u32 before = pages_free();
    run_process(0);
    run_process(1);
    CHECK(pages_free() == before);
}
