/*
 * The compute kernels on bare metal: a multiboot image for v86 and QEMU, console on
 * COM1, no interrupts, 4 KiB pages mapping the first 64 MiB onto themselves.
 *
 * The multiboot command line may hold passes=N (default 3).  When done it writes
 * to port 0x501, where QEMU can have its isa-debug-exit device.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#include "bench-kernels.c"

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u64 rdtsc(void) { u64 t; __asm__ volatile("rdtsc" : "=A"(t) : : "memory"); return t; }

#define COM1 0x3f8
static void serial_init(void)
{
    static const u8 SETUP[][2] = { { 1, 0x00 }, { 3, 0x80 }, { 0, 0x01 }, { 1, 0x00 }, { 3, 0x03 }, { 2, 0x07 } };
    for (u32 i = 0; i < sizeof(SETUP) / sizeof(SETUP[0]); i++) outb((u16)(COM1 + SETUP[i][0]), SETUP[i][1]);
}
static void put(char c)
{
    while (!(inb(COM1 + 5) & 0x20)) { }
    outb(COM1, (u8)c);
}
static void text(const char *s) { while (*s) put(*s++); }
static void hex(u32 value)
{
    for (int shift = 28; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
}

static u32 directory[1024] __attribute__((aligned(4096)));
static u32 tables[16][1024] __attribute__((aligned(4096)));
static void paging_on(void)
{
    for (u32 i = 0; i < 16; i++) {
        for (u32 j = 0; j < 1024; j++) tables[i][j] = i << 22 | j << 12 | 3;
        directory[i] = (u32)tables[i] | 3;
    }
    __asm__ volatile("movl %0, %%cr3; movl %%cr0, %%eax; orl $0x80010000, %%eax; movl %%eax, %%cr0; jmp 1f; 1:"
                     : : "r"(directory) : "eax", "memory");
}

static volatile u32 count_in = 1;
static void report(const char *name, u32 result, u64 cycles)
{
    text(name);
    text("-END result=0x");
    hex(result);
    text(" tsc=0x");
    hex((u32)(cycles >> 32));
    hex((u32)cycles);
    put('\n');
}
/* Direct calls, with the count and the result out of the optimiser's sight: see bench.c. */
#define RUN(name, kernel, count) do { \
        text(name "-START\n"); \
        count_in = (count); \
        u64 t0 = rdtsc(); \
        u32 result = kernel(count_in); \
        __asm__ volatile("" : "+r"(result) : : "memory"); \
        report(name, result, rdtsc() - t0); } while (0)

/* Multiboot information: bit 2 of the first word says that the fifth points to the command line. */
static u32 passes_wanted(const u32 *info)
{
    const char *line = info[0] & 4 ? (const char *)info[4] : "", *name = "passes=";
    for (; *line; line++) {
        u32 n = 0, passes = 0;
        while (name[n] && line[n] == name[n]) n++;
        if (name[n]) continue;
        for (line += n; *line >= '0' && *line <= '9'; line++) passes = passes * 10 + (u32)(*line - '0');
        return passes;
    }
    return 3;
}

void bench_main(const u32 *info);
void bench_main(const u32 *info)
{
    u32 passes = passes_wanted(info);
    serial_init();
    text("BENCH paging=on\n");
    paging_on();
    for (u32 pass = 0; pass < passes; pass++) {
        RUN("K1", k_int, K1_ITERS);
        RUN("K2", k_mem, K2_REPS);
        RUN("K3", k_branch, K3_REPS);
        RUN("K4", k_call, K4_ITERS);
    }
    text("BENCH-DONE\n");
    outl(0x501, 0x10);
}
