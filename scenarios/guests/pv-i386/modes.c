/*
 * Runs other than the steps: an event storm to measure with, an echo for a person
 * at the keyboard, wild pointers, and three ways to die.
 */
#include "kernel.h"

static volatile u32 window[PAGE_SIZE / 4] __attribute__((aligned(4096)));
static volatile u32 received;

static void on_storm(u32 port)
{
    (void)port;
    received++;
}

/*
 * Each round: one event sent and taken, and five other hypercalls; every sixteenth
 * round gives up the processor.
 */
void mode_storm(u32 rounds)
{
    u32 other, port = new_loopback(on_storm, &other);
    pte_t *entry = find_l1e(root_table, (u32)window), own = make_pte(mfn_of((const void *)window), KERNEL_RW);
    u32 yields = 0;
    print("storm: %u rounds\n", rounds);
    irq_enable();
    received = 0;
    for (u32 i = 0; i < rounds; i++) {
        CHECK_RC(event_notify(other), 0);
        CHECK(hypercall2(HC_xen_version, XENVER_version, 0) > 0);
        CHECK_RC(set_va(window, own), 0);
        window[i % ARRAY_SIZE(window)] = i;
        CHECK_RC(update_entry(entry, own), 0);
        CHECK_RC(set_timer(now_ns() + 1000000), 0);
        if (i % 16 == 15) {
            hypercall2(HC_sched_op, SCHEDOP_yield, 0);
            yields++;
        }
    }
    irq_disable();
    CHECK(received == rounds);
    CHECK_RC(set_timer(0), 0);
    close_port(other);
    close_port(port);
    print("storm: %u events, %u yields, done\n", received, yields);
}

void mode_echo(void)
{
    static char line[128];
    if (!console_has_ring()) fail("echo needs a console ring");
    print("echo: type lines, `quit` ends\n");
    for (;;) {
        print("> ");
        console_push();
        int n = console_read_line(line, sizeof(line));
        print("%s\n", line);
        if (strcmp(line, "quit") == 0) return;
        print("echo: %u characters: %s\n", (u32)n, line);
    }
}

void mode_crash(void)
{
    print("crash: a fault with no trap table\n");
    console_flush();
    traps_forget();
    *(volatile u32 *)0x1000 = 1;
    fail("the fault was not fatal");
}

void mode_triple(void)
{
    print("triple: a fault with no stack to report it on\n");
    console_flush();
    __asm__ volatile("movl $0x2000, %%esp; ud2" : : : "memory");
    for (;;) { }
}

/* ---- wild pointers ---- */
static u32 wild_calls, refused;

static void wild_call(u32 nr, u32 a, u32 b, u32 c, u32 d, u32 e)
{
    s32 rc = hypercall(nr, a, b, c, d, e);
    wild_calls++;
    if (rc < 0) refused++;
    if (rc < -200) fail("hypercall %u gave %d, which is no errno", nr, rc);
}

/* What a wild call may have changed is put right after each number. */
static void restore(void)
{
    irq_disable();
    traps_init();
    events_callbacks();
    set_kernel_stack((u32)__builtin_frame_address(0));
    hypercall1(HC_fpu_taskswitch, 0);
    hypercall2(HC_set_debugreg, 7, 0);
    set_timer(0);
    make_readonly(root_table); /* a wild update_va_mapping may have unmapped it */
}

void mode_wild(void)
{
    /* Xen's own range, nothing, the last bytes of the address space, misaligned in nothing, read-only for us. */
    const u32 POINTERS[] = { m2p_start + 0x1000, 0x00002000, 0xfffffffc, 0x00003fff, (u32)root_table, 0xdeadbeef };
    for (u32 nr = 0; nr < 64; nr++) {
        if (nr == HC_iret) continue; /* returns to wherever the stack says: not an error code by design */
        for (u32 i = 0; i < ARRAY_SIZE(POINTERS); i++) {
            u32 p = POINTERS[i];
            wild_call(nr, p, p, p, p, p);
            wild_call(nr, p, 1, p, DOMID_SELF, p);
        }
        restore();
        if (nr > 55) CHECK_RC(hypercall0(nr), -ENOSYS);
    }
    print("wild: %u calls, %u refused, still here\n", wild_calls, refused);

    /* Sub-commands with a pointer that is wild. */
    static const struct { u32 nr, first, last; } FAMILIES[] = {
        { HC_memory_op, 0, 27 }, { HC_event_channel_op, 0, 13 }, { HC_xen_version, 1, 12 }, { HC_sched_op, 2, 6 },
        { HC_grant_table_op, 0, 12 }, { HC_callback_op, 0, 2 }, { HC_console_io, 0, 1 },
    };
    wild_calls = refused = 0;
    for (u32 f = 0; f < ARRAY_SIZE(FAMILIES); f++) {
        for (u32 cmd = FAMILIES[f].first; cmd <= FAMILIES[f].last; cmd++) {
            for (u32 i = 0; i < ARRAY_SIZE(POINTERS); i++) {
                u32 p = POINTERS[i];
                /* What can be read, the machine-to-physical table too, would be a reason to shut down, or text. */
                int readable = p == POINTERS[0] || p == (u32)root_table;
                if (readable && (FAMILIES[f].nr == HC_sched_op || FAMILIES[f].nr == HC_console_io)) continue;
                if (FAMILIES[f].nr == HC_console_io) wild_call(HC_console_io, cmd, 64, p, 0, 0);
                else wild_call(FAMILIES[f].nr, cmd, p, 1, 0, 0);
            }
        }
        restore();
    }
    print("wild: %u sub-commands, %u refused, still here\n", wild_calls, refused);
}
