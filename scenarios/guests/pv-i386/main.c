/*
 * Guest of our own: a small Xen PV kernel for i386 that exercises what a PV guest needs from Xen,
 * one step after the other, and says so on the console.  The run ends with
 * GUEST-OK and a power-off, or with GUEST-FAIL: what, and a shutdown as crashed.
 *
 * Command line (words, any order):
 *   only=mm,evt     run only these steps (see the table below for the names)
 *   bench           run the compute kernels; bench=K1,K3 some of them; passes=N
 *   storm=N         an event storm of N rounds
 *   echo            read lines from the console and echo them, until `quit`
 *   wild            hand wild pointers to every hypercall
 *   spin            loop for ever
 *   crash           a fault when there is no trap table
 *   triple          a fault when the stack cannot take the exception frame
 *   panic           shut down as crashed at once
 *   qemu            real Xen under QEMU, which does not check segment limits
 *   qemu64          64-bit Xen under QEMU 7.2, which gives INT n a wrong error code in long mode
 *
 * The image pv-i386-net has two other steps, for worlds with a switch and a second domain:
 *   net             ping=10.77.0.1,10.77.0.102: each of these from ip=10.77.0.101, by the first interface
 *   pair            role=give or role=take, peer=N: a page and an event channel shared with domain N
 *
 * Checked on real Xen as the first domain (there without console ring and xenstore): master with
 * 32-bit PV, and 32-bit Xen 3.2, PAE and non-PAE.
 *
 * Not here: several vCPUs, devices, suspend.
 */
#include "kernel.h"

struct start_info *start_info;
struct shared_info *shared;

/* The shared_info frame is mapped over this page. */
static u8 shared_page[PAGE_SIZE] __attribute__((aligned(4096)));

struct step { const char *name; void (*run)(void); };
static const struct step STEPS[] = {
#ifdef NET
    { "net", step_net }, { "pair", step_pair },
#else
    { "info", step_info },     { "traps", step_traps }, { "seg", step_segments },  { "mm", step_memory },   { "evt", step_events },
    { "timer", step_timer },   { "gnttab", step_grants }, { "xs", step_xenstore }, { "user", step_user },
#endif
};

void shutdown(u32 reason)
{
    struct sched_shutdown arg = { reason };
    console_flush();
    hypercall2(HC_sched_op, SCHEDOP_shutdown, &arg);
    for (;;) hypercall2(HC_sched_op, SCHEDOP_yield, 0);
}

/* The value of `name` or `name=value` on the command line; 0 if the word is not there. */
const char *option(const char *name)
{
    static char value[64];
    u32 n = strlen(name);
    const char *p = start_info->cmd_line, *end = p + sizeof(start_info->cmd_line);
    while (p < end && *p) {
        const char *word = p;
        while (p < end && *p && *p != ' ') p++;
        u32 length = (u32)(p - word);
        if (length >= n && memcmp(word, name, n) == 0 && (length == n || word[n] == '=')) {
            u32 rest = length == n ? 0 : length - n - 1;
            if (rest >= sizeof(value)) rest = sizeof(value) - 1;
            memcpy(value, word + length - rest, rest);
            value[rest] = 0;
            return value;
        }
        while (p < end && *p == ' ') p++;
    }
    return 0;
}

static int listed(const char *list, const char *name)
{
    u32 n = strlen(name);
    while (list && *list) {
        if (memcmp(list, name, n) == 0 && (list[n] == 0 || list[n] == ',')) return 1;
        while (*list && *list++ != ',') { }
    }
    return 0;
}

static void run_steps(const char *only)
{
    static char names[64];
    if (only) memcpy(names, only, strlen(only) + 1);
    for (u32 i = 0; i < ARRAY_SIZE(STEPS); i++)
        if (!only || listed(names, STEPS[i].name)) STEPS[i].run();
}

static void run_mode(void)
{
    const char *value;
    if (option("panic")) {
        print("panic: shutting down as crashed\n");
        shutdown(SHUTDOWN_crash);
    }
    if (option("crash")) mode_crash();
    if (option("triple")) mode_triple();
    if (option("spin")) {
        print("spin: looping for ever\n");
        for (;;) barrier();
    }
    if ((value = option("bench"))) {
        char which[64];
        memcpy(which, value, sizeof(which));
        value = option("passes");
        mode_bench(which, value && *value ? parse_number(value) : 1);
    } else if ((value = option("storm"))) {
        mode_storm(*value ? parse_number(value) : 1000);
    } else if (option("wild")) {
        mode_wild();
    } else if (option("echo")) {
        mode_echo();
    } else {
        run_steps(option("only"));
    }
}

/*
 * 1 the emergency console; 2 shared_info; 3 traps; 4 memory; 5 events and time;
 * 6 the rings; 7 what the command line asks for.
 */
void kernel_main(struct start_info *si) NORETURN;
void kernel_main(struct start_info *si)
{
    start_info = si;
    print("rexen-pv-i386 %s: early console\n", PAE ? "pae" : "nopae");
    shared = (struct shared_info *)shared_page;
    CHECK_RC(set_va(shared_page, ((pte_t)si->shared_info & ~(pte_t)0xfff) | KERNEL_RW), 0);
    traps_init();
    memory_init();
    events_init();
    timer_init();
    console_ring_init();
    xenstore_init();
    print("rexen-pv-i386 %s: %s\n", PAE ? "pae" : "nopae", si->cmd_line[0] ? si->cmd_line : "(no command line)");
    run_mode();
    print("GUEST-OK\n");
    shutdown(SHUTDOWN_poweroff);
}
