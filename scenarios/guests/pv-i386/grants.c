/*
 * Grants to other domains, and the words that drivers and pairs of domains have in
 * common: the table is one frame of version 1, references are given out in order.
 */
#include "kernel.h"

static u8 table_page[PAGE_SIZE] __attribute__((aligned(4096)));
static volatile struct grant_entry *table;
/* Xen keeps the first eight for itself. */
static u32 next_ref = 8;

void grants_init(void)
{
    if (table) return;
    u32 frame = 0;
    struct gnttab_setup_table setup = { DOMID_SELF, 1, 99, &frame };
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_setup_table, &setup, 1), 0);
    CHECK(setup.status == 0 && frame != 0);
    CHECK_RC(set_va(table_page, make_pte(frame, KERNEL_RW)), 0);
    table = (volatile struct grant_entry *)table_page;
}

u32 grant_page(void *page, u32 dom, int readonly)
{
    CHECK(next_ref < PAGE_SIZE / sizeof(struct grant_entry));
    volatile struct grant_entry *entry = table + next_ref;
    entry->frame = mfn_of(page);
    entry->domid = (u16)dom;
    barrier();
    entry->flags = readonly ? GTF_permit_access | GTF_readonly : GTF_permit_access;
    return next_ref++;
}

int grant_in_use(u32 ref) { return (table[ref].flags & (GTF_reading | GTF_writing)) != 0; }

void grant_end(u32 ref)
{
    CHECK(!grant_in_use(ref));
    table[ref].flags = 0;
}

void xs_must(u32 type, const char *first, const char *second, struct xs_reply *reply)
{
    xs_request(type, 0, first, second, 1, reply);
    if (reply->type == XS_ERROR) fail("xenstore request %u of %s gave %s", type, first, reply->data);
}

u32 xs_own_domid(void)
{
    struct xs_reply reply;
    xs_must(XS_READ, "domid", 0, &reply);
    return parse_number(reply.data);
}

char *append(char *to, const char *text)
{
    u32 n = strlen(text);
    memcpy(to, text, n + 1);
    return to + n;
}
