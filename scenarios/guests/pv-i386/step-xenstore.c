/*
 * The xenstore protocol from a guest's side: who we are, a directory of our own
 * under `data`, a watch, and transactions that end both ways.
 */
#include "kernel.h"

static struct xs_reply reply;

static int is_error(const char *name) { return reply.type == XS_ERROR && strcmp(reply.data, name) == 0; }

static void expect_value(u32 tx, const char *path, const char *value)
{
    xs_request(XS_READ, tx, path, 0, 0, &reply);
    if (reply.type == XS_ERROR || strcmp(reply.data, value)) fail("xenstore %s is \"%s\", not \"%s\"", path, reply.data, value);
}

static void expect_absent(u32 tx, const char *path)
{
    xs_request(XS_READ, tx, path, 0, 0, &reply);
    if (!is_error("ENOENT")) fail("xenstore %s is \"%s\", not absent", path, reply.data);
}

static void must(u32 type, u32 tx, const char *first, const char *second, int raw)
{
    xs_request(type, tx, first, second, raw, &reply);
    if (reply.type == XS_ERROR) fail("xenstore request %u of %s gave %s", type, first, reply.data);
}

/* Values and domain numbers differ between hosts, so ENOENT is an answer too. */
static void show(const char *path)
{
    xs_request(XS_READ, 0, path, 0, 0, &reply);
    if (reply.type == XS_ERROR && !is_error("ENOENT")) fail("xenstore read of %s gave %s", path, reply.data);
    print("xs: %s = %s\n", path, reply.data);
}

static u32 begin(void)
{
    must(XS_TRANSACTION_START, 0, "", 0, 0);
    u32 tx = parse_number(reply.data);
    CHECK(tx != 0);
    return tx;
}

static int reply_lists(const char *name)
{
    for (u32 at = 0; at < reply.len; at += strlen(reply.data + at) + 1)
        if (strcmp(reply.data + at, name) == 0) return 1;
    return 0;
}

static void who_we_are(void)
{
    static char path[64];
    show("domid");
    memcpy(path, reply.data, reply.len < 16 ? reply.len + 1 : 16);
    path[15] = 0;
    if (reply.type != XS_ERROR) {
        must(XS_GET_DOMAIN_PATH, 0, path, 0, 0);
        print("xs: our path = %s\n", reply.data);
    }
    show("name");
    show("memory/target");
}

static void own_keys(void)
{
    must(XS_MKDIR, 0, "data/rexen", 0, 0);
    must(XS_WRITE, 0, "data/rexen/colour", "green", 1);
    expect_value(0, "data/rexen/colour", "green");
    must(XS_WRITE, 0, "data/rexen/colour", "", 1);
    expect_value(0, "data/rexen/colour", "");
    must(XS_WRITE, 0, "data/rexen/shape", "round", 1);
    must(XS_DIRECTORY, 0, "data/rexen", 0, 0);
    CHECK(reply_lists("colour") && reply_lists("shape") && !reply_lists("rexen"));
    must(XS_GET_PERMS, 0, "data/rexen/shape", 0, 0);
    expect_absent(0, "data/rexen/weight");
    xs_request(XS_WRITE, 0, "/local/domain/0/name", "mine", 1, &reply);
    CHECK(is_error("EACCES"));
    print("xs: write, read, directory ok\n");
}

static void watches(void)
{
    u32 before = xs_watch_events;
    must(XS_WATCH, 0, "data/rexen/colour", "token-1", 0);
    if (xs_watch_events == before) xs_await_watch(); /* a new watch fires once at once */
    before = xs_watch_events;
    must(XS_WRITE, 0, "data/rexen/colour", "red", 1);
    if (xs_watch_events == before) xs_await_watch();
    if (strcmp(xs_watch_path, "data/rexen/colour")) fail("watch fired for %s", xs_watch_path);
    must(XS_UNWATCH, 0, "data/rexen/colour", "token-1", 0);
    before = xs_watch_events;
    must(XS_WRITE, 0, "data/rexen/colour", "blue", 1);
    expect_value(0, "data/rexen/colour", "blue");
    CHECK(xs_watch_events == before);
    print("xs: watch ok\n");
}

static void transactions(void)
{
    u32 tx = begin();
    must(XS_WRITE, tx, "data/rexen/colour", "white", 1);
    expect_value(tx, "data/rexen/colour", "white");
    expect_value(0, "data/rexen/colour", "blue");
    must(XS_TRANSACTION_END, tx, "F", 0, 0);
    expect_value(0, "data/rexen/colour", "blue");

    /* A commit may lose to another writer: EAGAIN, then all of it again. */
    for (u32 tries = 0; tries < 10; tries++) {
        tx = begin();
        must(XS_WRITE, tx, "data/rexen/colour", "black", 1);
        must(XS_RM, tx, "data/rexen/shape", 0, 0);
        xs_request(XS_TRANSACTION_END, tx, "T", 0, 0, &reply);
        if (!is_error("EAGAIN")) break;
    }
    CHECK(reply.type == XS_TRANSACTION_END);
    expect_value(0, "data/rexen/colour", "black");
    expect_absent(0, "data/rexen/shape");

    /* A write from outside makes ours fail. */
    tx = begin();
    expect_value(tx, "data/rexen/colour", "black");
    must(XS_WRITE, 0, "data/rexen/colour", "grey", 1);
    must(XS_WRITE, tx, "data/rexen/colour", "pink", 1);
    xs_request(XS_TRANSACTION_END, tx, "T", 0, 0, &reply);
    CHECK(is_error("EAGAIN"));
    expect_value(0, "data/rexen/colour", "grey");
    xs_request(XS_READ, 0x7ffffff0, "data/rexen/colour", 0, 0, &reply);
    CHECK(reply.type == XS_ERROR); /* no such transaction */
    print("xs: transactions ok\n");
}

void step_xenstore(void)
{
    if (!xenstore_present()) {
        print("xs: no xenstore here, skipped\n");
        return;
    }
    who_we_are();
    own_keys();
    watches();
    transactions();
    must(XS_RM, 0, "data/rexen", 0, 0);
    expect_absent(0, "data/rexen/colour");
    print("xs: rm ok\n");
}
