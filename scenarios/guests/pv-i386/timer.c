/*
 * Time: Xen's time record in vcpu_info (a version counter around a TSC stamp, a
 * base and a scale), the one-shot timer, and the ways of waiting.
 */
#include "kernel.h"

/* A page of its own: the ring-3 program sees it read-only. */
volatile u32 timer_page[PAGE_SIZE / 4] __attribute__((aligned(4096)));

static void on_timer(u32 port)
{
    (void)port;
    timer_events++;
}

/* Xen starts a domain with a periodic 10 ms tick; turn it off, we ask for each timer. */
void timer_init(void)
{
    struct evtchn_bind_virq bind = { VIRQ_TIMER, 0, 0 };
    s32 rc = hypercall3(HC_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    if (rc != 0 && rc != -ENOSYS) fail("stop_periodic_timer gave %d", rc);
    CHECK_RC(event_op(EVTCHNOP_bind_virq, &bind), 0);
    bind_handler(bind.port, on_timer);
}

u64 now_ns(void)
{
    volatile struct vcpu_time_info *t = &vcpu()->time;
    u32 version;
    u64 ns;
    do {
        version = t->version & ~1u; /* odd: Xen is writing */
        barrier();
        u64 delta = rdtsc() - t->tsc_timestamp;
        if (t->tsc_shift >= 0) delta <<= t->tsc_shift;
        else delta >>= -t->tsc_shift;
        ns = t->system_time + ((u64)(u32)delta * t->tsc_to_system_mul >> 32) +
             (u64)(u32)(delta >> 32) * t->tsc_to_system_mul;
        barrier();
    } while (version != t->version);
    return ns;
}

s32 set_timer(u64 when_ns) { return hypercall2(HC_set_timer_op, (u32)when_ns, (u32)(when_ns >> 32)); }

s32 poll_port(u32 port, u64 deadline_ns)
{
    struct sched_poll poll = { &port, 1, deadline_ns };
    return hypercall2(HC_sched_op, SCHEDOP_poll, &poll);
}

int wait_for(volatile u32 *flag, u64 limit_ns)
{
    u64 deadline = now_ns() + limit_ns;
    while (!*flag) {
        if (now_ns() >= deadline) return 0;
        CHECK_RC(set_timer(deadline), 0);
        CHECK_RC(hypercall2(HC_sched_op, SCHEDOP_block, 0), 0); /* clears the upcall mask */
        irq_disable();
    }
    return set_timer(0) == 0;
}

void sleep_until(u64 when_ns)
{
    while (now_ns() < when_ns) {
        CHECK_RC(set_timer(when_ns), 0);
        CHECK_RC(hypercall2(HC_sched_op, SCHEDOP_block, 0), 0);
        irq_disable();
    }
}
