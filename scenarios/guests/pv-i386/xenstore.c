/*
 * A xenstore client over the shared ring: one request at a time, replies matched
 * by their number, watch events kept aside.
 *
 * Waiting is by events: the store's port wakes us out of SCHEDOP_block.
 */
#include "kernel.h"

static volatile struct xenstore_interface *ring;
static volatile u32 woken;
static u32 port, next_id;
u32 xs_watch_events;
char xs_watch_path[128];

static void on_store(u32 p)
{
    (void)p;
    woken = 1;
}

int xenstore_present(void) { return ring != 0; }

void xenstore_init(void)
{
    if ((start_info->flags & SIF_INITDOMAIN) || !start_info->store_mfn) return;
    ring = mfn_to_virt(start_info->store_mfn);
    port = start_info->store_evtchn;
    bind_handler(port, on_store);
}

static void wait(void)
{
    if (!wait_for(&woken, 5000000000ull)) fail("xenstore has been silent for 5 s");
    woken = 0;
}

static void ring_write(const void *data, u32 n)
{
    const char *from = data;
    while (n) {
        u32 prod = ring->req_prod;
        if (prod - ring->req_cons == sizeof(ring->req)) {
            event_notify(port);
            wait();
            continue;
        }
        ring->req[prod & (sizeof(ring->req) - 1)] = *from++;
        barrier();
        ring->req_prod = prod + 1;
        n--;
    }
}

static void ring_read(void *data, u32 n)
{
    char *to = data;
    while (n) {
        u32 cons = ring->rsp_cons;
        if (cons == ring->rsp_prod) {
            event_notify(port);
            wait();
            continue;
        }
        char c = ring->rsp[cons & (sizeof(ring->rsp) - 1)];
        if (to) *to++ = c;
        barrier();
        ring->rsp_cons = cons + 1;
        n--;
    }
}

static void read_message(struct xsd_sockmsg *head, struct xs_reply *reply)
{
    ring_read(head, sizeof(*head));
    u32 keep = head->len < XS_REPLY_MAX ? head->len : XS_REPLY_MAX;
    ring_read(reply->data, keep);
    ring_read(0, head->len - keep);
    reply->data[keep] = 0;
    reply->type = head->type;
    reply->len = keep;
    event_notify(port); /* there is room again */
}

static void keep_watch_event(const struct xs_reply *event)
{
    xs_watch_events++;
    u32 n = strlen(event->data) + 1;
    memcpy(xs_watch_path, event->data, n < sizeof(xs_watch_path) ? n : sizeof(xs_watch_path) - 1);
}

void xs_request(u32 type, u32 tx, const char *first, const char *second, int raw, struct xs_reply *reply)
{
    u32 n1 = strlen(first) + 1, n2 = second ? strlen(second) + (raw ? 0 : 1) : 0;
    struct xsd_sockmsg head = { type, ++next_id, tx, n1 + n2 };
    ring_write(&head, sizeof(head));
    ring_write(first, n1);
    if (second) ring_write(second, n2);
    event_notify(port);
    for (;;) {
        read_message(&head, reply);
        if (head.type != XS_WATCH_EVENT) break;
        keep_watch_event(reply);
    }
    if (head.req_id != next_id) fail("xenstore answered request %u, not %u", head.req_id, next_id);
    if (head.type != type && head.type != XS_ERROR) fail("xenstore answered type %u to %u", head.type, type);
}

/* Take one watch event off the ring. */
void xs_await_watch(void)
{
    struct xsd_sockmsg head;
    struct xs_reply event;
    u32 before = xs_watch_events;
    while (xs_watch_events == before) {
        read_message(&head, &event);
        CHECK(head.type == XS_WATCH_EVENT);
        keep_watch_event(&event);
    }
}
