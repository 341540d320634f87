/*
 * Two domains and nothing between them but Xen: one gives a page and an unbound
 * port, the other takes both; then they hand a word back and forth through the
 * page, each waking the other through the channel.
 *
 *   give: grant ── alloc_unbound ── write both into xenstore ── answer ── look that all is given back
 *   take: read xenstore ── map ── bind_interdomain ── ask ──────┘  unmap ── close
 */
#include "kernel.h"

#define ROUNDS 100
static u8 map_page[PAGE_SIZE] __attribute__((aligned(4096)));
static volatile u32 woken;
static struct xs_reply reply;

static void on_peer(u32 port)
{
    (void)port;
    woken = 1;
}

static u32 scramble(u32 word) { return word * 1664525u + 1013904223u; }

/* The other side's turn is over when the count is no longer ours. */
static void await_turn(volatile u32 *count, u32 value)
{
    while (*count != value) {
        if (!wait_for(&woken, 5000000000ull)) fail("the other domain has been silent for 5 s at round %u", *count);
        woken = 0;
        barrier();
    }
}

static void write_number(const char *path, u32 value)
{
    char digits[12];
    format_decimal(digits, value);
    xs_must(XS_WRITE, path, digits, &reply);
}

static void give(u32 self, u32 peer)
{
    volatile u32 *page = alloc_page();
    u32 *secret = alloc_page();
    u32 ref = grant_page((void *)page, peer, 0), other = grant_page(secret, 0, 0);
    struct evtchn_alloc_unbound channel = { DOMID_SELF, (u16)peer, 0 };
    CHECK_RC(event_op(EVTCHNOP_alloc_unbound, &channel), 0);
    bind_handler(channel.port, on_peer);
    page[1] = 0x600d;

    /* Everybody may read what is below data/pair. */
    char perms[12] = "r";
    format_decimal(perms + 1, self);
    xs_must(XS_MKDIR, "data/pair", 0, &reply);
    xs_request(XS_SET_PERMS, 0, "data/pair", perms, 0, &reply);
    if (reply.type == XS_ERROR) fail("set_perms gave %s", reply.data);
    write_number("data/pair/ref", ref);
    write_number("data/pair/other", other);
    write_number("data/pair/port", channel.port);

    for (u32 round = 0; round < ROUNDS; round++) {
        await_turn(page, round * 2 + 1);
        page[1] = scramble(page[1]);
        barrier();
        page[0] = round * 2 + 2;
        CHECK_RC(event_notify(channel.port), 0);
    }
    await_turn(page, ROUNDS * 2 + 1);
    while (grant_in_use(ref)) sleep_until(now_ns() + 1000000);
    grant_end(ref);
    grant_end(other);
    close_port(channel.port);
    print("pair: gave domain %u a page and a port, %u rounds, all given back\n", peer, ROUNDS);
}

static u32 read_number(u32 peer, const char *name)
{
    char path[64], digits[12];
    format_decimal(digits, peer);
    append(append(append(append(path, "/local/domain/"), digits), "/data/pair/"), name);
    for (u32 tries = 0; tries < 5000; tries++) {
        xs_request(XS_READ, 0, path, 0, 0, &reply);
        if (reply.type != XS_ERROR) return parse_number(reply.data);
        if (strcmp(reply.data, "ENOENT") && strcmp(reply.data, "EACCES")) fail("xenstore read of %s gave %s", path, reply.data);
        sleep_until(now_ns() + 1000000);
    }
    fail("%s did not appear", path);
}

static s32 map(u32 peer, u32 ref, u32 *handle)
{
    struct gnttab_map op = { (u32)map_page, GNTMAP_host_map, ref, (u16)peer, 99, 0, 0 };
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_map_grant_ref, &op, 1), 0);
    *handle = op.handle;
    return op.status;
}

static void take(u32 peer)
{
    u32 port = read_number(peer, "port"), ref = read_number(peer, "ref"), other = read_number(peer, "other");
    u32 handle, own_mfn = mfn_of(map_page), word;
    CHECK(map(peer, other, &handle) < 0); /* granted to domain 0, not to us */
    if (map(peer, ref, &handle)) fail("mapping reference %u of domain %u was refused", ref, peer);
    volatile u32 *page = (volatile u32 *)map_page;
    CHECK(page[1] == 0x600d);
    struct evtchn_bind_interdomain bind = { (u16)peer, port, 0 };
    CHECK_RC(event_op(EVTCHNOP_bind_interdomain, &bind), 0);
    bind_handler(bind.local_port, on_peer);

    for (u32 round = 0; round < ROUNDS; round++) {
        word = page[1];
        barrier();
        page[0] = round * 2 + 1;
        CHECK_RC(event_notify(bind.local_port), 0);
        await_turn(page, round * 2 + 2);
        CHECK(page[1] == scramble(word));
    }
    page[0] = ROUNDS * 2 + 1;
    CHECK_RC(event_notify(bind.local_port), 0);
    struct gnttab_unmap unmap = { (u32)map_page, 0, handle, 99 };
    CHECK_RC(hypercall3(HC_grant_table_op, GNTTABOP_unmap_grant_ref, &unmap, 1), 0);
    CHECK(unmap.status == 0);
    CHECK_RC(set_va(map_page, make_pte(own_mfn, KERNEL_RW)), 0);
    close_port(bind.local_port);
    print("pair: took a page and a port of domain %u, %u rounds, last word %08x\n", peer, ROUNDS, word);
}

void step_pair(void)
{
    const char *value = option("role");
    if (!value) return;
    int gives = strcmp(value, "give") == 0;
    value = option("peer");
    if (!value) fail("pair: peer=N is missing");
    u32 peer = parse_number(value);
    grants_init();
    if (gives) give(xs_own_domid(), peer);
    else take(peer);
}
