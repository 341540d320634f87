/*
 * The compute kernels behind the PV entry: the same code and the same output lines
 * as in multiboot.c, so that one program reads both.
 *
 * The kernels' 16 MiB of data are this object's .bss, which the linker script
 * places where nothing is mapped; pages go in under it here, and only here, so
 * that the image stays quick to load for everything else.
 */
#include "kernel.h"
#include "bench-kernels.c"

static volatile u32 count_in = 1; /* not in .bss */

static void report(const char *name, u32 result, u32 wanted, u64 cycles)
{
    print("%s-END result=0x%08x", name, result);
    print_u64(" tsc=0x", cycles, "\n");
    if (result != wanted) fail("%s gave %08x, not %08x", name, result, wanted);
}

/*
 * Direct calls, as in multiboot.c: through a pointer the compiler would have to give
 * the kernels another calling convention, and their code would no longer be the same.
 * The count goes through a volatile and the result through an asm, so that a (pure)
 * kernel stays inside the timed interval.
 */
#define RUN(name, kernel, count, wanted) do { \
        if (*which && !strstr(which, name)) break; \
        print(name "-START\n"); \
        count_in = (count); \
        u64 t0 = rdtsc(); \
        u32 result = kernel(count_in); \
        __asm__ volatile("" : "+r"(result) : : "memory"); \
        report(name, result, wanted, rdtsc() - t0); } while (0)

void mode_bench(const char *which, u32 passes)
{
    map_range((u32)&mem, (sizeof(mem) + PAGE_SIZE - 1) / PAGE_SIZE);
    print("BENCH passes=%u paging=on\n", passes);
    for (u32 pass = 0; pass < passes; pass++) {
        RUN("K1", k_int, K1_ITERS, 0xe59da1b7);
        RUN("K2", k_mem, K2_REPS, 0x48700000);
        RUN("K3", k_branch, K3_REPS, 0xf954105e);
        RUN("K4", k_call, K4_ITERS, 0xe5937698);
    }
    print("BENCH-DONE\n");
}
