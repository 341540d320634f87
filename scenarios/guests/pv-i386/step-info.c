/*
 * What Xen tells a guest about itself: start_info, the version, the memory
 * reservation, the frame lists that must agree with each other.
 */
#include "kernel.h"

static void check_frame_lists(void)
{
    u32 pages = start_info->nr_pages;
    for (u32 pfn = 0; pfn < pages; pfn += 61) {
        if (m2p[p2m[pfn]] != pfn) fail("m2p[p2m[%x]] is %x", pfn, m2p[p2m[pfn]]);
    }
    if (m2p[p2m[pages - 1]] != pages - 1) fail("m2p of the last page is %x", m2p[p2m[pages - 1]]);
}

void step_info(void)
{
    const struct start_info *si = start_info;
    char extra[16];
    u32 self = DOMID_SELF;

    CHECK(memcmp(si->magic, "xen-3.", 6) == 0);
    print("info: magic \"%s\" pages %x flags %x\n", si->magic, si->nr_pages, si->flags);
    print("info: store %x/%u console %x/%u\n", si->store_mfn, si->store_evtchn, si->console_mfn, si->console_evtchn);
    print("info: page tables %08x+%u p2m %08x m2p %08x\n", si->pt_base, si->nr_pt_frames, si->mfn_list, m2p_start);

    s32 version = hypercall2(HC_xen_version, XENVER_version, 0);
    CHECK(version >= 0x30000);
    memset(extra, 0, sizeof(extra));
    CHECK_RC(hypercall2(HC_xen_version, XENVER_extraversion, extra), 0);
    extra[15] = 0;
    struct xen_feature_info features = { 0, 0 };
    CHECK_RC(hypercall2(HC_xen_version, XENVER_get_features, &features), 0);
    print("info: Xen %u.%u%s features %x\n", (u32)version >> 16, version & 0xffff, extra, features.submap);

    s32 now = hypercall2(HC_memory_op, XENMEM_current_reservation, &self);
    s32 max = hypercall2(HC_memory_op, XENMEM_maximum_reservation, &self);
    s32 top = hypercall2(HC_memory_op, XENMEM_maximum_ram_page, 0);
    CHECK(now >= (s32)si->nr_pages);
    /* 32-bit results saturate or are -1 when there is no limit: nothing to check but an upper bound. */
    CHECK(max < 0 || max >= now);
    CHECK(top > 0);
    check_frame_lists();
    CHECK(vcpu()->evtchn_upcall_mask == 1);
    CHECK_RC(hypercall2(HC_xen_version, 999, 0), -ENOSYS);
    CHECK_RC(hypercall0(60), -ENOSYS);
    print("info: reservation %x, %u pages to use, ok\n", now, pages_free());
}
