/*
 * The grant table: its frames, its size, an entry for a page of ours, and a grant
 * of this domain to itself mapped and unmapped again.
 */
#include "kernel.h"

static u8 table_page[PAGE_SIZE] __attribute__((aligned(4096)));
static u8 map_page[PAGE_SIZE] __attribute__((aligned(4096)));
#define REF 9

void step_grants(void)
{
    struct gnttab_query_size size = { DOMID_SELF, 0, 0, 99 };
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_query_size, &size, 1), 0);
    CHECK(size.status == 0 && size.max_nr_frames >= 1);

    u32 frame = 0, table_mfn = mfn_of(table_page), map_mfn = mfn_of(map_page);
    struct gnttab_setup_table setup = { DOMID_SELF, 1, 99, &frame };
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_setup_table, &setup, 1), 0);
    CHECK(setup.status == 0 && frame != 0);
    CHECK_RC(set_va(table_page, make_pte(frame, KERNEL_RW)), 0);
    print("gnttab: table of %u to %u frames at %x\n", size.nr_frames, size.max_nr_frames, frame);

    volatile struct grant_entry *entry = (volatile struct grant_entry *)table_page + REF;
    u32 *page = alloc_page(), self = 1;
    page[5] = 0x9eaf;
    CHECK(entry->flags == 0);

    /* Our own number: a grant's domain must be named, DOMID_SELF will not do there. */
    struct evtchn_alloc_unbound probe = { DOMID_SELF, DOMID_SELF, 0 };
    struct evtchn_status st;
    CHECK_RC(event_op(EVTCHNOP_alloc_unbound, &probe), 0);
    memset(&st, 0, sizeof(st));
    st.dom = DOMID_SELF;
    st.port = probe.port;
    CHECK_RC(event_op(EVTCHNOP_status, &st), 0);
    self = st.u.unbound.dom;
    close_port(probe.port);

    entry->frame = mfn_of(page);
    entry->domid = (u16)self;
    barrier();
    entry->flags = GTF_permit_access;
    struct gnttab_map map = { (u32)map_page, GNTMAP_host_map, REF, (u16)self, 99, 0, 0 };
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_map_grant_ref, &map, 1), 0);
    if (map.status) fail("mapping our own grant gave %d", map.status);
    CHECK(entry->flags == (GTF_permit_access | GTF_reading | GTF_writing));
    CHECK(((volatile u32 *)map_page)[5] == 0x9eaf);
    ((volatile u32 *)map_page)[6] = 0x77;
    CHECK(page[6] == 0x77);
    struct gnttab_unmap unmap = { (u32)map_page, 0, map.handle, 99 };
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_unmap_grant_ref, &unmap, 1), 0);
    CHECK(unmap.status == 0);
    CHECK(entry->flags == GTF_permit_access);
    u32 value;
    CHECK(try_read((volatile u32 *)map_page, &value) == VEC_PF);
    entry->flags = 0;
    print("gnttab: own grant mapped and unmapped, ok\n");

    /* A grant that is not there, and a command that is not. */
    map.ref = REF + 1;
    map.status = 99;
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_map_grant_ref, &map, 1), 0);
    CHECK(map.status < 0);
    CHECK_RC(hypercall3(HC_grant_table_op, 99, &map, 1), -ENOSYS);

    CHECK_RC(set_va(map_page, make_pte(map_mfn, KERNEL_RW)), 0);
    CHECK_RC(set_va(table_page, make_pte(table_mfn, KERNEL_RW)), 0);
    free_page(page);
    print("gnttab: refused what it should, ok\n");
}
