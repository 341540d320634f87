/*
 * Event channels of this domain to itself: every binding, sending, masking and
 * closing, and what an upcall finds.
 */
#include "kernel.h"

static volatile u32 hits, hit_port;

static void on_hit(u32 port)
{
    hits++;
    hit_port = port;
}

static struct evtchn_status status_of(u32 port)
{
    struct evtchn_status st;
    memset(&st, 0, sizeof(st));
    st.dom = DOMID_SELF;
    st.port = port;
    CHECK_RC(event_op(EVTCHNOP_status, &st), 0);
    return st;
}

static void loopback(void)
{
    u32 other, port = new_loopback(on_hit, &other);
    /* Binding marks the binder's port pending (masked here); take anything off ours before counting. */
    irq_enable();
    irq_disable();
    hits = 0;
    CHECK(status_of(port).status == EVTCHNSTAT_interdomain);
    CHECK(status_of(port).u.interdomain.port == other);
    CHECK(status_of(other).u.interdomain.port == port);

    /* Events off: sent, pending, not delivered; twice is still once. */
    CHECK_RC(event_notify(other), 0);
    CHECK_RC(event_notify(other), 0);
    CHECK(hits == 0 && port_pending(port) && vcpu()->evtchn_upcall_pending);
    irq_enable();
    CHECK(hits == 1 && hit_port == port && !port_pending(port));
    CHECK(vcpu()->evtchn_upcall_mask == 0);
    /* Events on: delivered on the way out of the hypercall. */
    CHECK_RC(event_notify(other), 0);
    CHECK(hits == 2);
    /* Masked: pending but not delivered; unmasking by hypercall delivers. */
    mask_port(port);
    CHECK_RC(event_notify(other), 0);
    CHECK(hits == 2 && port_pending(port));
    unmask_port(port);
    CHECK(hits == 3 && !port_pending(port));
    irq_disable();

    close_port(other);
    CHECK(status_of(port).status == EVTCHNSTAT_unbound);
    CHECK(status_of(other).status == EVTCHNSTAT_closed);
    CHECK_RC(event_notify(other), -EINVAL);
    close_port(port);
    print("evt: loopback, mask, status, close ok\n");
}

static void bindings(void)
{
    struct evtchn_bind_virq virq = { VIRQ_DEBUG, 0, 0 };
    CHECK_RC(event_op(EVTCHNOP_bind_virq, &virq), 0);
    CHECK(status_of(virq.port).status == EVTCHNSTAT_virq && status_of(virq.port).u.virq == VIRQ_DEBUG);
    struct evtchn_bind_virq again = { VIRQ_DEBUG, 0, 0 };
    CHECK_RC(event_op(EVTCHNOP_bind_virq, &again), -EEXIST);
    struct evtchn_bind_virq bad = { 99, 0, 0 };
    CHECK_RC(event_op(EVTCHNOP_bind_virq, &bad), -EINVAL);
    close_port(virq.port);

    struct evtchn_bind_ipi ipi = { 0, 0 };
    CHECK_RC(event_op(EVTCHNOP_bind_ipi, &ipi), 0);
    bind_handler(ipi.port, on_hit);
    hits = 0;
    irq_enable();
    CHECK_RC(event_notify(ipi.port), 0);
    CHECK(hits == 1 && hit_port == ipi.port);
    irq_disable();
    CHECK(status_of(ipi.port).status == EVTCHNSTAT_ipi);
    close_port(ipi.port);

    struct evtchn_alloc_unbound unbound = { DOMID_SELF, 0, 0 };
    CHECK_RC(event_op(EVTCHNOP_alloc_unbound, &unbound), 0);
    CHECK(status_of(unbound.port).status == EVTCHNSTAT_unbound);
    close_port(unbound.port);
    struct evtchn_port nothing = { 900 };
    CHECK_RC(event_op(EVTCHNOP_close, &nothing), -EINVAL);
    CHECK_RC(event_op(99, &nothing), -ENOSYS);
    CHECK_RC(event_op(EVTCHNOP_close, (void *)0x1000), -EFAULT);
    print("evt: virq, ipi, unbound ok\n");
}

/* An upcall that arrives while a port is handled runs once more round the scan. */
static u32 chain_other;
static s32 chain_left;
static void on_chain(u32 port)
{
    on_hit(port);
    if (chain_left-- > 0) event_notify(chain_other);
}

static void chained(void)
{
    u32 port = new_loopback(on_chain, &chain_other);
    hits = 0;
    chain_left = 4;
    irq_enable();
    event_notify(chain_other);
    irq_disable();
    CHECK(hits >= 5 && !port_pending(port));
    close_port(chain_other);
    close_port(port);
    print("evt: chained upcalls ok\n");
}

void step_events(void)
{
    loopback();
    bindings();
    chained();
}
