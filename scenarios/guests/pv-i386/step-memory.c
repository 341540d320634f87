/*
 * Page tables under Xen's rules: a window page remapped in every way Xen offers,
 * a tree of our own (allocate, fill, pin, switch to, change, leave, unpin, free),
 * mistakes and the errno each of them gets, and memory given back and taken anew.
 *
 * The window is a page of the kernel image whose own frame comes back at the end.
 */
#include "kernel.h"

static volatile u32 window[PAGE_SIZE / 4] __attribute__((aligned(4096)));
static u32 window_mfn;

#define TEST_VA 0x08048000u
#define EMPTY_VA 0xe0000000u /* kernel space where nothing is mapped */

static pte_t frame_pte(const void *page, u32 flags) { return make_pte(mfn_of(page), flags); }

/* A store to a page table is a protection fault for writing. */
static void must_be_readonly(void *table)
{
    u32 vector = try_write(table, 0);
    if (vector != VEC_PF || last_fault.error != 3 || last_fault.cr2 != (u32)table)
        fail("a store to the table at %08x: vector %x error %x cr2 %08x", (u32)table, vector, last_fault.error, last_fault.cr2);
}

/* ---- one entry at a time, and in batches ---- */
static void window_updates(void)
{
    u32 *a = alloc_page(), *b = alloc_page();
    pte_t *entry = find_l1e(root_table, (u32)window);
    a[7] = 0xa;
    b[7] = 0xb;
    CHECK_RC(set_va(window, frame_pte(a, KERNEL_RW)), 0);
    CHECK(window[7] == 0xa);
    CHECK(pte_mfn(*entry) == mfn_of(a));
    window[7] = 0xaa;
    CHECK(a[7] == 0xaa);

    CHECK_RC(set_va(window, frame_pte(b, KERNEL_RO)), 0);
    CHECK(window[7] == 0xb);
    CHECK(try_write(window, 1) == VEC_PF && last_fault.error == 3);
    CHECK_RC(set_va(window, 0), 0);
    CHECK(try_write(window, 1) == VEC_PF && last_fault.error == 2 && last_fault.cr2 == (u32)window);

    CHECK_RC(update_entry(entry, frame_pte(a, KERNEL_RW)), 0);
    CHECK(window[7] == 0xaa);

    /*
     * Three updates in one call; the third keeps the accessed and dirty bits that the table has
     * (Xen before 3.3 does not know that command: the two before it count).
     */
    struct mmu_update batch[3] = {
        { maddr_of(entry), frame_pte(b, KERNEL_RW) },
        { maddr_of(entry), frame_pte(a, KERNEL_RW) },
        { maddr_of(entry) | MMU_PT_UPDATE_PRESERVE_AD, frame_pte(a, PTE_PRESENT) },
    };
    u32 done = 0;
    s32 rc = hypercall4(HC_mmu_update, batch, 3, &done, DOMID_SELF);
    if (rc == -ENOSYS) {
        CHECK(done == 2 && *entry == frame_pte(a, KERNEL_RW));
    } else {
        CHECK(rc == 0 && done == 3 && *entry == frame_pte(a, KERNEL_RO));
    }

    /* A batch stops at the first bad entry and says how many went through. */
    batch[0].val = frame_pte(b, KERNEL_RW);
    batch[1].val = frame_pte(root_table, KERNEL_RW); /* a page table, writable */
    rc = hypercall4(HC_mmu_update, batch, 3, &done, DOMID_SELF);
    CHECK(rc < 0 && done == 1);
    CHECK(pte_mfn(*entry) == mfn_of(b));

    /* Two window updates and a flush as one multicall. */
    struct mmuext_op flush = { MMUEXT_TLB_FLUSH_LOCAL, 0, 0 };
    pte_t to_a = frame_pte(a, KERNEL_RW);
    struct multicall_entry calls[4] = {
        { HC_update_va_mapping, 1, { (u32)window, 0, 0, UVMF_NONE } },
        { HC_update_va_mapping, 1, { (u32)window, (u32)to_a, (u32)((u64)to_a >> 32), UVMF_NONE } },
        { HC_mmuext_op, 1, { (u32)&flush, 1, 0, DOMID_SELF } },
        { 63, 1, { 0 } },
    };
    CHECK_RC(hypercall2(HC_multicall, calls, 4), 0);
    CHECK(calls[0].result == 0 && calls[1].result == 0 && calls[2].result == 0 && calls[3].result == -ENOSYS);
    CHECK(window[7] == 0xaa);

    CHECK_RC(set_va(window, make_pte(window_mfn, KERNEL_RW)), 0);
    free_page(a);
    free_page(b);
    print("mm: update_va_mapping, mmu_update, multicall ok\n");
}

/* ---- a tree of our own ---- */
static void own_tree(void)
{
    pte_t *old = root_table, *root = new_root(), *l1 = add_l1(root, TEST_VA);
    volatile u32 *user = (volatile u32 *)TEST_VA;
    u32 *page = alloc_page(), *second = alloc_page(), value;
    page[0] = 0x1234;
    second[0] = 0x5678;
    l1[L1_INDEX(TEST_VA)] = frame_pte(page, USER_RW);

    CHECK(mmuext(PIN_ROOT, mfn_of(root), 0) == -EINVAL); /* its tables are mapped writable */
    pin_root(root);
    CHECK(try_read(user, &value) == VEC_PF);
    switch_root(root);
    CHECK(*user == 0x1234);
    *user = 0x4321;
    CHECK(page[0] == 0x4321);
    must_be_readonly(l1);

    pte_t *entry = find_l1e(root, TEST_VA + PAGE_SIZE);
    CHECK(entry == l1 + L1_INDEX(TEST_VA) + 1);
    CHECK_RC(update_entry(entry, frame_pte(second, USER_RO)), 0);
    CHECK(user[1024] == 0x5678);
    CHECK(try_write(&user[1024], 0) == VEC_PF && last_fault.error == 3);
    CHECK_RC(set_va(user + 1024, frame_pte(second, USER_RW)), 0);
    user[1024] = 0x8765;
    CHECK(second[0] == 0x8765);
    CHECK_RC(set_va(user + 1024, 0), 0);
    CHECK(try_read(user + 1024, &value) == VEC_PF);

    /* A pinned table stays one: no other type, no writable mapping. */
    s32 rc = set_va(window, frame_pte(l1, KERNEL_RW));
    if (rc != -EBUSY && rc != -EINVAL) fail("mapping a live L1 writable gave %d", rc);
    CHECK_RC(set_va(window, frame_pte(l1, KERNEL_RO)), 0);
    CHECK(window[L1_INDEX(TEST_VA) * (sizeof(pte_t) / 4)] == (u32)l1[L1_INDEX(TEST_VA)]);
    CHECK_RC(set_va(window, make_pte(window_mfn, KERNEL_RW)), 0);

    switch_root(old);
    CHECK(try_read(user, &value) == VEC_PF);
    drop_root(root);
    CHECK(try_write(l1, 0) == NO_VECTOR);
    free_page(page);
    free_page(second);
    print("mm: own tree pinned, used, dropped, ok\n");
}

/* ---- pinning single tables, and what is refused ---- */
static void mistakes(void)
{
    pte_t *l1 = alloc_page(), *l2e = find_l2e(root_table, EMPTY_VA);
    u32 *page = alloc_page(), mfn = mfn_of(l1);
    l1[0] = frame_pte(page, KERNEL_RW);

    CHECK_RC(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -EINVAL); /* mapped writable */
    make_readonly(l1);
    CHECK_RC(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), -EINVAL); /* not pinned */
    CHECK_RC(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    CHECK_RC(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -EINVAL); /* already pinned */
    CHECK(mmuext(MMUEXT_PIN_L2_TABLE, mfn, 0) < 0);         /* it is an L1 */
    s32 rc = set_va(l1, make_pte(mfn, KERNEL_RW));
    if (rc != -EBUSY && rc != -EINVAL) fail("mapping a pinned L1 writable gave %d", rc);
    must_be_readonly(l1);
    CHECK(mmuext(MMUEXT_NEW_BASEPTR, mfn, 0) < 0);
    CHECK(mmuext(MMUEXT_PIN_L1_TABLE, 0xfffff, 0) < 0); /* no such frame */
    CHECK_RC(mmuext(99, 0, 0), -ENOSYS);
    CHECK(update_entry(l1, make_pte(mfn, KERNEL_RW)) < 0); /* an entry that maps its own table writable */
    CHECK_RC(update_entry(l1, make_pte(mfn, KERNEL_RO)), 0);
    CHECK_RC(update_entry(l1, 0), 0);
    CHECK_RC(update_entry(l2e, frame_pte(page, TABLE_FLAGS)), -EINVAL); /* a page in writable use is no table */
    CHECK(hypercall4(HC_update_va_mapping, 0xfffff000, 0, 0, 0) < 0);    /* Xen's own range */
    CHECK_RC(hypercall2(HC_vm_assist, 9, 0), -ENOSYS);
    CHECK_RC(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    make_writable(l1);
    free_page(l1);
    free_page(page);
    print("mm: mistakes refused, ok\n");
}

/* ---- writable page tables ---- */
/* A 64-bit entry goes in as two stores, high half first, so that it is never half valid. */
static void store_entry(pte_t *entry, pte_t value)
{
    volatile u32 *half = (volatile u32 *)entry;
    if (PAE) half[1] = (u32)((u64)value >> 32);
    barrier();
    half[0] = (u32)value;
}

static void writable_tables(void)
{
    pte_t *entry = find_l1e(root_table, (u32)window);
    u32 *page = alloc_page(), value;
    page[3] = 0xc0ffee;
    must_be_readonly(entry);
    CHECK_RC(hypercall2(HC_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0);
    store_entry(entry, 0);
    mmuext(MMUEXT_INVLPG_LOCAL, (u32)window, 0);
    CHECK(try_read(window, &value) == VEC_PF);
    store_entry(entry, frame_pte(page, KERNEL_RW));
    CHECK(window[3] == 0xc0ffee);
    CHECK(*entry == frame_pte(page, KERNEL_RW) || *entry == frame_pte(page, KERNEL_RW & ~PTE_DIRTY));
    pte_t old = *entry, new = frame_pte(page, KERNEL_RO);
#if PAE
    __asm__ volatile("lock cmpxchg8b %1" : "+A"(old), "+m"(*entry) : "b"((u32)new), "c"((u32)(new >> 32)) : "memory", "cc");
#else
    __asm__ volatile("lock cmpxchgl %2, %1" : "+a"(old), "+m"(*entry) : "r"(new) : "memory", "cc");
#endif
    mmuext(MMUEXT_INVLPG_LOCAL, (u32)window, 0);
    CHECK(try_write(window, 1) == VEC_PF && last_fault.error == 3);
    store_entry(entry, 0);
    store_entry(entry, make_pte(window_mfn, KERNEL_RW));
    mmuext(MMUEXT_INVLPG_LOCAL, (u32)window, 0);
    window[0] = 1;
    CHECK_RC(hypercall2(HC_vm_assist, VMASST_CMD_disable, VMASST_TYPE_writable_pagetables), 0);
    must_be_readonly(entry);
    free_page(page);
    print("mm: writable page tables ok\n");
}

/* ---- the machine-to-physical table, and pages given back ---- */
static s32 set_m2p(u32 mfn, u32 pfn)
{
    struct mmu_update request = { (u64)mfn << 12 | MMU_MACHPHYS_UPDATE, pfn };
    return hypercall4(HC_mmu_update, &request, 1, 0, DOMID_SELF);
}

static s32 reservation(u32 op, u32 *frame)
{
    struct memory_reservation r = { frame, 1, 0, 0, DOMID_SELF };
    return hypercall2(HC_memory_op, op, &r);
}

static void give_back(void *page, u32 take_op)
{
    u32 pfn = pfn_of(page), mfn = p2m[pfn], self = DOMID_SELF, frame = mfn;
    s32 before = hypercall2(HC_memory_op, XENMEM_current_reservation, &self);
    CHECK_RC(set_va(page, 0), 0);
    CHECK_RC(reservation(XENMEM_decrease_reservation, &frame), 1);
    p2m[pfn] = 0xffffffff;
    CHECK_RC(hypercall2(HC_memory_op, XENMEM_current_reservation, &self), before - 1);
    CHECK(set_va(page, make_pte(mfn, KERNEL_RW)) < 0); /* not ours any more */

    frame = take_op == XENMEM_populate_physmap ? pfn : 0;
    CHECK_RC(reservation(take_op, &frame), 1);
    p2m[pfn] = frame;
    if (take_op == XENMEM_increase_reservation) CHECK_RC(set_m2p(frame, pfn), 0);
    CHECK(m2p[frame] == pfn);
    CHECK_RC(set_va(page, make_pte(frame, KERNEL_RW)), 0);
    *(volatile u32 *)page = 0x600d;
    CHECK_RC(hypercall2(HC_memory_op, XENMEM_current_reservation, &self), before);
}

static void frames(void)
{
    void *a = alloc_page(), *b = alloc_page();
    CHECK_RC(set_m2p(mfn_of(a), pfn_of(b)), 0);
    CHECK(m2p[mfn_of(a)] == pfn_of(b));
    CHECK_RC(set_m2p(mfn_of(a), pfn_of(a)), 0);
    CHECK(m2p[mfn_of(a)] == pfn_of(a));
    give_back(a, XENMEM_increase_reservation);
    give_back(b, XENMEM_populate_physmap);
    free_page(a);
    free_page(b);
    print("mm: machine-to-physical table, decrease and increase, ok\n");
}

void step_memory(void)
{
    u32 before = pages_free();
    window_mfn = mfn_of((const void *)window);
    window_updates();
    own_tree();
    mistakes();
    writable_tables();
    frames();
    CHECK(pages_free() == before);
}
