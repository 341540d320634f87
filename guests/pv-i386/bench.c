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

struct kernel { const char *name; u32 (*run)(u32 count); u32 count, checksum; };
static const struct kernel KERNELS[] = {
    { "K1", k_int, K1_ITERS, 0xe59da1b7 },
    { "K2", k_mem, K2_REPS, 0x48700000 },
    { "K3", k_branch, K3_REPS, 0xf954105e },
    { "K4", k_call, K4_ITERS, 0xe5937698 },
};

static void run(const struct kernel *k)
{
    print("%s-START\n", k->name);
    count_in = k->count;
    u64 t0 = rdtsc();
    u32 result = k->run(count_in);
    __asm__ volatile("" : "+r"(result) : : "memory");
    u64 t1 = rdtsc();
    print("%s-END result=0x%08x", k->name, result);
    print_u64(" tsc=0x", t1 - t0, "\n");
    if (result != k->checksum) fail("%s gave %08x, not %08x", k->name, result, k->checksum);
}

void mode_bench(const char *which, u32 passes)
{
    map_range((u32)&mem, (sizeof(mem) + PAGE_SIZE - 1) / PAGE_SIZE);
    print("BENCH passes=%u paging=on\n", passes);
    for (u32 pass = 0; pass < passes; pass++)
        for (u32 i = 0; i < ARRAY_SIZE(KERNELS); i++)
            if (!*which || strstr(which, KERNELS[i].name)) run(&KERNELS[i]);
    print("BENCH-DONE\n");
}
