/*
 * Time and scheduling: the clock goes forward, timers fire neither early nor
 * never, blocking and polling end when they should, and the run state adds up.
 */
#include "kernel.h"

#define MS 1000000ull
static struct vcpu_runstate_info area;

static void clock(void)
{
    u64 last = now_ns();
    for (u32 i = 0; i < 100; i++) {
        u64 now = now_ns();
        CHECK(now >= last);
        last = now;
    }
    CHECK(vcpu()->time.version % 2 == 0 && vcpu()->time.tsc_to_system_mul != 0);
    CHECK(shared->wc_version % 2 == 0);
}

static void one_shot(void)
{
    u32 before = timer_events;
    u64 start = now_ns();
    sleep_until(start + 1 * MS);
    CHECK(timer_events > before);
    CHECK(now_ns() >= start + 1 * MS);
    print("timer: set_timer_op and block ok\n");

    /* A timer in the past fires at once. */
    before = timer_events;
    CHECK_RC(set_timer(1), 0);
    irq_enable();
    for (u32 i = 0; i < 1000 && timer_events == before; i++) hypercall2(HC_sched_op, SCHEDOP_yield, 0);
    irq_disable();
    CHECK(timer_events > before);
    CHECK_RC(set_timer(0), 0);
}

static void vcpu_timers(void)
{
    /* Periodic ticks come to a running processor only: Xen stops that timer when it takes it off. */
    u64 start = now_ns(), period = 1 * MS;
    u32 before = timer_events;
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_set_periodic_timer, 0, &period), 0);
    irq_enable();
    while (timer_events - before < 2 && now_ns() < start + 1000 * MS) barrier();
    irq_disable();
    CHECK(timer_events - before >= 2 && now_ns() - start >= period);
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0), 0);
    print("timer: periodic ticks ok\n");

    struct vcpu_set_singleshot_timer shot = { now_ns() + 1 * MS, VCPU_SSHOTTMR_future };
    before = timer_events;
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_set_singleshot_timer, 0, &shot), 0);
    while (timer_events == before) {
        CHECK_RC(hypercall2(HC_sched_op, SCHEDOP_block, 0), 0);
        irq_disable();
    }
    CHECK(now_ns() >= shot.timeout_abs_ns);
    s32 rc = hypercall3(HC_vcpu_op, VCPUOP_set_singleshot_timer, 0, &shot); /* past by now */
    if (rc != 0 && rc != -ETIME) fail("a single shot in the past gave %d", rc); /* newer Xen ignores the flag */
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_stop_singleshot_timer, 0, 0), 0);
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_is_up, 0, 0), 1);
    CHECK(hypercall3(HC_vcpu_op, VCPUOP_is_up, 77, 0) < 0);
    print("timer: single shot ok\n");
}

static void on_nothing(u32 port) { (void)port; }

static void polling(void)
{
    u32 other, port = new_loopback(on_nothing, &other);
    irq_enable(); /* take what is pending: polling is about this port alone */
    irq_disable();
    mask_port(port);
    u64 start = now_ns();
    CHECK_RC(poll_port(port, start + 1 * MS), 0); /* runs into its timeout */
    CHECK(now_ns() >= start + 1 * MS);
    CHECK_RC(event_notify(other), 0);
    start = now_ns();
    CHECK_RC(poll_port(port, start + 1000 * MS), 0); /* pending already */
    CHECK(now_ns() < start + 1000 * MS);
    close_port(other);
    close_port(port);
    CHECK_RC(hypercall2(HC_sched_op, SCHEDOP_yield, 0), 0);
    CHECK_RC(hypercall2(HC_sched_op, 99, 0), -ENOSYS);
    CHECK_RC(hypercall2(HC_sched_op_compat, 0, 0), 0); /* the older call's yield */
    print("timer: poll and yield ok\n");
}

static void run_state(void)
{
    struct vcpu_runstate_info now, *where = &area;
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_register_runstate_memory_area, 0, &where), 0);
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_get_runstate_info, 0, &now), 0);
    CHECK(now.state == RUNSTATE_running && area.state == RUNSTATE_running);
    u64 blocked = now.time[RUNSTATE_blocked];
    sleep_until(now_ns() + 1 * MS);
    CHECK_RC(hypercall3(HC_vcpu_op, VCPUOP_get_runstate_info, 0, &now), 0);
    CHECK(now.time[RUNSTATE_blocked] > blocked);
    CHECK(((volatile struct vcpu_runstate_info *)&area)->time[RUNSTATE_blocked] > blocked);
    where = 0;
    hypercall3(HC_vcpu_op, VCPUOP_register_runstate_memory_area, 0, &where);
    print("timer: run state ok\n");
}

void step_timer(void)
{
    clock();
    one_shot();
    vcpu_timers();
    polling();
    run_state();
}
