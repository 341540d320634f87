/*
 * Four compute kernels of fixed work (integer ALU; memory; sort and sieve; calls
 * through a table) with known checksums.  The functions are not to be changed:
 * figures are compared with other emulators that run the same code, compiled with
 * the same flags.  Included by bench.c (Xen PV) and multiboot.c (bare metal).
 *
 * Per pass: K1 e59da1b7, K2 48700000, K3 f954105e, K4 e5937698.
 */
#define NOINLINE __attribute__((noinline, noclone))

/* ---- kernel 1: integer ALU loop (xorshift32 + multiply) ---- */
#ifndef K1_ITERS
#define K1_ITERS 50000000u
#endif
static NOINLINE u32 k_int(u32 n)
{
    u32 x = 2463534242u, s = 0;
    for (u32 i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        s += x * 0x9E3779B1u;
    }
    return s ^ x;
}

/* ---- kernel 2: memory walk: fill, sum and copy over 8 MiB ---- */
#ifndef K2_REPS
#define K2_REPS 25
#endif
#define WORDS (8u * 1024 * 1024 / 4)
/* The two buffers are kept off a power-of-two distance: at 8 MiB apart they share
 * every slot of a direct-mapped software TLB (QEMU's), which costs K2 a factor of
 * several.  -DALIAS=1 puts that worst case back. */
#ifndef ALIAS
#define ALIAS 0
#endif
static struct {
    u32 a[WORDS];
    u32 pad[ALIAS ? 0 : 37 * 1024];
    u32 b[WORDS];
} mem __attribute__((aligned(4096)));
#define bufa mem.a
#define bufb mem.b
static NOINLINE u32 mem_sum(const u32 *p, u32 n)
{
    u32 s = 0;
    for (u32 i = 0; i < n; i++) s += p[i];
    return s;
}
static NOINLINE void mem_copy(u32 *d, const u32 *s, u32 n, u32 k)
{
    for (u32 i = 0; i < n; i++) d[i] = s[i] + k;
}
static NOINLINE u32 k_mem(u32 reps)
{
    u32 s = 0;
    for (u32 i = 0; i < WORDS; i++) bufa[i] = i * 2654435761u;
    for (u32 r = 0; r < reps; r++) {
        mem_copy(bufb, bufa, WORDS, r);
        s = s * 31 + mem_sum(bufb, WORDS);
        mem_copy(bufa, bufb, WORDS, s);
    }
    return s;
}

/* ---- kernel 3: branchy: quicksort + insertion sort of 1M words, then sieve ---- */
#ifndef K3_REPS
#define K3_REPS 3
#endif
#define NSORT (1u << 20)
static NOINLINE void qsort32(u32 *a, int lo, int hi)
{
    while (hi - lo > 12) {
        u32 x = a[lo], y = a[lo + ((hi - lo) >> 1)], z = a[hi], p;
        if (x > y) { u32 t = x; x = y; y = t; }
        p = z < x ? x : (z > y ? y : z);
        int i = lo, j = hi;
        do {
            while (a[i] < p) i++;
            while (a[j] > p) j--;
            if (i <= j) { u32 t = a[i]; a[i] = a[j]; a[j] = t; i++; j--; }
        } while (i <= j);
        if (j - lo < hi - i) { qsort32(a, lo, j); lo = i; }
        else { qsort32(a, i, hi); hi = j; }
    }
    for (int i = lo + 1; i <= hi; i++) {
        u32 v = a[i];
        int j = i - 1;
        while (j >= lo && a[j] > v) { a[j + 1] = a[j]; j--; }
        a[j + 1] = v;
    }
}
static NOINLINE u32 sieve(u8 *f, u32 n)
{
    u32 c = 0;
    for (u32 i = 0; i < n; i++) f[i] = 1;
    for (u32 i = 2; i < n; i++) {
        if (!f[i]) continue;
        c++;
        if (i < 65536) for (u32 j = i * i; j < n; j += i) f[j] = 0;
    }
    return c;
}
static NOINLINE u32 k_branch(u32 reps)
{
    u32 s = 0, x = 88172645u;
    for (u32 r = 0; r < reps; r++) {
        for (u32 i = 0; i < NSORT; i++) { x ^= x << 13; x ^= x >> 17; x ^= x << 5; bufa[i] = x; }
        qsort32(bufa, 0, (int)NSORT - 1);
        for (u32 i = 1; i < NSORT; i++) if (bufa[i - 1] > bufa[i]) return 0xdeadbeefu;
        s = s * 31 + bufa[NSORT / 2];
        s = s * 31 + sieve((u8 *)bufb, 4000000u);
    }
    return s;
}

/* ---- kernel 4 (extra): calls and indirect jumps through a function table ---- */
#ifndef K4_ITERS
#define K4_ITERS 20000000u
#endif
static NOINLINE u32 f0(u32 x) { return x + 0x1234567u; }
static NOINLINE u32 f1(u32 x) { return x ^ (x >> 7); }
static NOINLINE u32 f2(u32 x) { return x * 5u + 1u; }
static NOINLINE u32 f3(u32 x) { return (x << 3) | (x >> 29); }
static u32 (*volatile const ftab[4])(u32) = { f0, f1, f2, f3 };
static NOINLINE u32 k_call(u32 n)
{
    u32 x = 1;
    for (u32 i = 0; i < n; i++) x = ftab[(x >> 4) & 3](x + i);
    return x;
}
