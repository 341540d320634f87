/*
 * Pages: which ones the domain builder left us, and a small allocator.
 *
 *   VIRT_BASE .. kernel, p2m list, start_info, rings, page tables, boot stack,
 *   then at least 512 KiB of mapped padding  -> alloc_page, free_page
 *   pseudo-physical pages beyond the mapping -> map_range takes them in order
 *
 * Not done: mapping all of memory; the steps need a few dozen pages only.
 */
#include "kernel.h"

u32 *p2m;
const u32 *m2p;
u32 m2p_start, m2p_end;
pte_t *root_table;

extern u32 boot_esp;
static u32 next_pfn, mapped_end_pfn, high_pfn;
static u32 *free_list, free_count;

static u32 page_up(u32 va) { return (va - VIRT_BASE + PAGE_SIZE - 1) >> 12; }
static u32 max(u32 a, u32 b) { return a > b ? a : b; }

void memory_init(void)
{
    struct machphys_mapping where;
    p2m = (u32 *)start_info->mfn_list;
    root_table = (pte_t *)start_info->pt_base;
    if (hypercall2(HC_memory_op, XENMEM_machphys_mapping, &where) == 0) {
        m2p_start = where.v_start;
        m2p_end = where.v_end;
    } else {
        m2p_start = PAE ? MACH2PHYS_VIRT_START_PAE : MACH2PHYS_VIRT_START_NONPAE;
        m2p_end = m2p_start + (PAE ? 0x01000000 : 0x00400000);
    }
    m2p = (const u32 *)m2p_start;

    u32 used = max(page_up(boot_esp), pfn_of(root_table) + start_info->nr_pt_frames);
    if (start_info->mfn_list >= VIRT_BASE && start_info->mfn_list < m2p_start)
        used = max(used, page_up(start_info->mfn_list + start_info->nr_pages * 4));
    if (start_info->mod_len) used = max(used, page_up(start_info->mod_start + start_info->mod_len));
    next_pfn = mapped_end_pfn = max(used, pfn_of(start_info) + 1);
    while (mapped_end_pfn < start_info->nr_pages) {
        pte_t *l1e = find_l1e(root_table, (u32)pfn_to_virt(mapped_end_pfn));
        if (!l1e || !(*l1e & PTE_PRESENT)) break;
        mapped_end_pfn++;
    }
    high_pfn = mapped_end_pfn;
}

u32 pages_free(void) { return free_count + mapped_end_pfn - next_pfn; }

void *alloc_page(void)
{
    u32 *page = free_list;
    if (page) {
        free_list = (u32 *)*page;
        free_count--;
    } else {
        if (next_pfn >= mapped_end_pfn) fail("no page left below pfn %x", mapped_end_pfn);
        page = pfn_to_virt(next_pfn++);
    }
    clear_page(page);
    return page;
}

void free_page(void *page)
{
    *(u32 **)page = free_list;
    free_list = page;
    free_count++;
}

/* Steps: 1 an L1 table where there is none, 2 fill it, 3 make it read-only, 4 hang it in. */
void map_range(u32 va, u32 pages)
{
    while (pages) {
        CHECK(!find_l1e(root_table, va));
        pte_t *l1 = alloc_page();
        u32 slot = L1_INDEX(va);
        for (; slot < PTES && pages; slot++, pages--, va += PAGE_SIZE) {
            if (high_pfn >= start_info->nr_pages)
                fail("the domain has too little memory: %u pages are not enough", start_info->nr_pages);
            l1[slot] = make_pte(p2m[high_pfn++], KERNEL_RW);
        }
        make_readonly(l1);
        CHECK_RC(update_entry(find_l2e(root_table, va - PAGE_SIZE), make_pte(mfn_of(l1), TABLE_FLAGS)), 0);
    }
}
