/*
 * Page tables as Xen's direct tables want them: they hold machine frames, a
 * frame in use as a table is mapped read-only, and a live entry changes by
 * hypercall.  One set of functions for both shapes:
 *
 *   PAE      root = L3 (4 entries) -> L2 (512) -> L1 (512); an L2 for slot 3 is
 *            private to its tree, since Xen keeps its own entries in it
 *   non-PAE  root = L2 (1024) -> L1 (1024)
 *
 * A fresh tree shares the kernel's L1 tables (they are counted references) and
 * owns everything below VIRT_BASE.
 */
#include "kernel.h"

s32 mmuext(u32 cmd, u32 arg1, u32 arg2)
{
    struct mmuext_op op = { cmd, arg1, arg2 };
    u32 done = 0xffff;
    s32 rc = hypercall4(HC_mmuext_op, &op, 1, &done, DOMID_SELF);
    CHECK(rc ? done == 0 : done == 1);
    return rc;
}

s32 update_entry(pte_t *entry, pte_t value)
{
    struct mmu_update request = { maddr_of(entry) | MMU_NORMAL_PT_UPDATE, value };
    return hypercall4(HC_mmu_update, &request, 1, 0, DOMID_SELF);
}

s32 set_va(volatile void *va, pte_t pte)
{
    return hypercall4(HC_update_va_mapping, va, (u32)pte, (u32)((u64)pte >> 32), UVMF_INVLPG);
}

void make_readonly(void *page) { CHECK_RC(set_va(page, make_pte(mfn_of(page), KERNEL_RO)), 0); }
void make_writable(void *page) { CHECK_RC(set_va(page, make_pte(mfn_of(page), KERNEL_RW)), 0); }

static pte_t *table_of(pte_t entry) { return entry & PTE_PRESENT ? mfn_to_virt(pte_mfn(entry)) : 0; }

pte_t *find_l2e(pte_t *root, u32 va)
{
#if PAE
    pte_t *l2 = table_of(root[va >> 30]);
    return l2 ? &l2[L2_INDEX(va)] : 0;
#else
    return &root[L2_INDEX(va)];
#endif
}

pte_t *find_l1e(pte_t *root, u32 va)
{
    pte_t *l2e = find_l2e(root, va);
    pte_t *l1 = l2e ? table_of(*l2e) : 0;
    return l1 ? &l1[L1_INDEX(va)] : 0;
}

pte_t *new_root(void)
{
    pte_t *root = alloc_page(), *from = find_l2e(root_table, VIRT_BASE), *to;
#if PAE
    pte_t *kernel_l2 = alloc_page();
    root[3] = make_pte(mfn_of(kernel_l2), L3_FLAGS);
#endif
    to = find_l2e(root, VIRT_BASE);
    /* Xen's own part begins with the machine-to-physical table; it fills that in itself. */
    for (u32 i = 0; i < (m2p_start - VIRT_BASE) >> L2_SHIFT; i++) to[i] = from[i];
    return root;
}

pte_t *add_l1(pte_t *root, u32 va)
{
    pte_t *l1 = alloc_page();
#if PAE
    if (!table_of(root[va >> 30])) root[va >> 30] = make_pte(mfn_of(alloc_page()), L3_FLAGS);
#endif
    *find_l2e(root, va) = make_pte(mfn_of(l1), TABLE_FLAGS);
    return l1;
}

/* Every table that the tree owns, the root last. */
static void for_own_tables(pte_t *root, void (*each)(void *table))
{
    for (u32 va = 0; va < VIRT_BASE; va += 1u << L2_SHIFT) {
        pte_t *l2e = find_l2e(root, va);
        pte_t *l1 = l2e ? table_of(*l2e) : 0;
        if (l1) each(l1);
#if PAE
        if (!l2e) va = (va | 0x3fffffff) - ((1u << L2_SHIFT) - 1); /* on to the last slot of this L2 */
#endif
    }
#if PAE
    for (u32 slot = 0; slot < 4; slot++)
        if (table_of(root[slot])) each(table_of(root[slot]));
#endif
    each(root);
}

void pin_root(pte_t *root)
{
    for_own_tables(root, make_readonly);
    CHECK_RC(mmuext(PIN_ROOT, mfn_of(root), 0), 0);
}

void switch_root(pte_t *root)
{
    CHECK_RC(mmuext(MMUEXT_NEW_BASEPTR, mfn_of(root), 0), 0);
    root_table = root;
}

static void *own_tables[32];
static u32 own_count;

static void collect(void *table)
{
    CHECK(own_count < ARRAY_SIZE(own_tables));
    own_tables[own_count++] = table;
}

void drop_root(pte_t *root)
{
    CHECK_RC(mmuext(MMUEXT_UNPIN_TABLE, mfn_of(root), 0), 0);
    own_count = 0;
    for_own_tables(root, collect); /* all of them first: freeing a page overwrites it */
    for (u32 i = 0; i < own_count; i++) {
        make_writable(own_tables[i]);
        free_page(own_tables[i]);
    }
}
