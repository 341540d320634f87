/*
 * run-vectors.c for 64-bit code: no segments, sixteen registers of 64 bits. Words are u32, numbers of 64 bits are
 * two of them, low first. Written and read by ../long/live.ts:
 *   input:  gsBase, nRegions, { addr64, bytes, prot, content[bytes] }..., nCases, case...
 *   case:   16 registers, rip, eflags, mode, nPatches { addr64, nBytes, data padded to 4 }...
 *   output: per case: signal vector error cr2_64 steps, 16 registers, rip, eflags, nDiffs { addr64, byte }...
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint32_t u32;
typedef uint64_t u64;
typedef uint8_t u8;

enum { MAX_REGIONS = 16, MAX_DIFFS = 2048, N_GPR = 16, HANG_TICKS = 3 };
static const int GPR[N_GPR] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static struct { u64 addr; u32 bytes, prot; const u8 *content; u8 *before; } regions[MAX_REGIONS];
static u32 nRegions;
static const u32 *in, *inEnd;
static u32 nCases, current, steps, stepping;
static int started, ticks;
static u32 *out, outWords, outCapacity;
static gregset_t mainContext;

static u64 get64(const u32 **p) { u64 v = (*p)[0] | (u64)(*p)[1] << 32; *p += 2; return v; }
static void emit(u32 word) {
  if (outWords >= outCapacity) { static const char m[] = "output full\n"; if (write(2, m, 12) < 0) _exit(4); _exit(3); }
  out[outWords++] = word;
}
static void emit64(u64 v) { emit((u32)v); emit(v >> 32); }

static void load(greg_t *g) {
  for (u32 i = 0; i < nRegions; i++)
    if (regions[i].prot & 2) { memcpy((void *)regions[i].addr, regions[i].content, regions[i].bytes); memcpy(regions[i].before, regions[i].content, regions[i].bytes); }
  const u32 *p = in;
  for (int i = 0; i < N_GPR; i++) g[GPR[i]] = get64(&p);
  g[REG_RIP] = get64(&p);
  g[REG_EFL] = *p++ | 0x200;
  stepping = *p++;
  if (stepping) g[REG_EFL] |= 0x100;
  u32 nPatches = *p++;
  while (nPatches--) {
    u64 addr = get64(&p);
    u32 n = *p++;
    memcpy((void *)addr, p, n);
    for (u32 i = 0; i < nRegions; i++)
      if (addr >= regions[i].addr && addr < regions[i].addr + regions[i].bytes) memcpy(regions[i].before + (addr - regions[i].addr), p, n);
    p += (n + 3) / 4;
  }
  in = p;
  steps = 0;
  ticks = 0;
}

static void collect(int sig, const greg_t *g) {
  emit(sig); emit(g[REG_TRAPNO]); emit(g[REG_ERR]); emit64(g[REG_CR2]); emit(steps);
  for (int i = 0; i < N_GPR; i++) emit64(g[GPR[i]]);
  emit64(g[REG_RIP]);
  emit(g[REG_EFL]);
  u32 countAt = outWords, n = 0;
  emit(0);
  for (u32 r = 0; r < nRegions; r++) {
    if (!(regions[r].prot & 2)) continue;
    const u8 *now = (const u8 *)regions[r].addr, *was = regions[r].before;
    for (u32 i = 0; i < regions[r].bytes; i++)
      if (now[i] != was[i] && n < MAX_DIFFS) { emit64(regions[r].addr + i); emit(now[i]); n++; }
  }
  out[countAt] = n;
}

static void handler(int sig, siginfo_t *info, void *raw) {
  __asm__ volatile("pushq $0x202; popfq" ::: "cc", "memory"); /* NT, ID and AC outlive a signal */
  (void)info;
  ucontext_t *uc = raw;
  greg_t *g = uc->uc_mcontext.gregs;
  if (!started) {
    memcpy(mainContext, g, sizeof mainContext);
    started = 1;
  } else {
    if (sig == SIGVTALRM && ++ticks < HANG_TICKS) return;
    if (stepping && sig == SIGTRAP && g[REG_TRAPNO] == 1) { steps++; g[REG_EFL] |= 0x100; return; }
    collect(sig, g);
    current++;
  }
  if (current == nCases) { memcpy(g, mainContext, sizeof mainContext); return; }
  load(g);
}

int main(int argc, char **argv) {
  if (argc != 3) { fprintf(stderr, "usage: run-long INPUT OUTPUT\n"); return 2; }
  int fd = open(argv[1], O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) { perror(argv[1]); return 2; }
  in = mmap(0, st.st_size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  if (in == MAP_FAILED) { perror("mmap"); return 2; }
  inEnd = in + st.st_size / 4;
  if (syscall(SYS_arch_prctl, ARCH_SET_GS, get64(&in)) != 0) { perror("arch_prctl"); return 2; }
  nRegions = *in++;
  if (nRegions > MAX_REGIONS) return 2;
  for (u32 i = 0; i < nRegions; i++) {
    regions[i].addr = get64(&in); regions[i].bytes = *in++; regions[i].prot = *in++;
    regions[i].content = (const u8 *)in;
    in += regions[i].bytes / 4;
    void *p = mmap((void *)regions[i].addr, regions[i].bytes, PROT_READ | PROT_WRITE | (regions[i].prot & 4 ? PROT_EXEC : 0), MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p != (void *)regions[i].addr) { fprintf(stderr, "cannot map %lx\n", regions[i].addr); return 2; }
    memcpy(p, regions[i].content, regions[i].bytes);
    if (!(regions[i].prot & 2)) mprotect(p, regions[i].bytes, PROT_READ);
    regions[i].before = malloc(regions[i].bytes);
  }
  nCases = *in++;
  outCapacity = nCases * 120 + 65536;
  out = mmap(0, outCapacity * 4ul, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (out == MAP_FAILED) { perror("mmap output"); return 2; }

  static u8 stack[65536];
  stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alt, 0);
  struct sigaction sa = {0};
  sa.sa_sigaction = handler;
  sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&sa.sa_mask);
  const int signals[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGVTALRM, SIGUSR1};
  for (u32 i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &sa, 0);
  struct itimerval tick = {{0, 50000}, {0, 50000}};
  setitimer(ITIMER_VIRTUAL, &tick, 0);
  syscall(SYS_kill, getpid(), SIGUSR1);
  tick = (struct itimerval){0};
  setitimer(ITIMER_VIRTUAL, &tick, 0);

  int ofd = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const char *bytes = (const char *)out;
  for (size_t left = outWords * 4ul; left > 0;) {
    ssize_t n = write(ofd, bytes, left);
    if (n <= 0) { perror(argv[2]); return 2; }
    bytes += n; left -= n;
  }
  fprintf(stderr, "%u cases\n", current);
  return 0;
}
