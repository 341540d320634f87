/*
 * Runs short pieces of 32-bit user-mode machine code on the processor of this machine and reports
 * what they did: the oracle behind the committed vectors (see ../README.md).
 *
 * The idea: a signal handler is a context switch. Each case ends in a signal (the code pages are
 * filled with INT3, so whatever does not fault runs into one); the handler reads the interrupted
 * context, compares memory with what it was, writes the next case's registers into the signal frame
 * and returns into it. Nothing but the kernel's sigreturn lies between two cases.
 *
 * Usage: run-vectors INPUT OUTPUT. Both are little-endian streams of u32, written and read by
 * ../live.ts:
 *   input:  nDescriptors, { entry, base, limit, flags }...      (struct user_desc of modify_ldt)
 *           nRegions, { addr, bytes, prot, content[bytes] }...  (prot: 1 read, 2 write, 4 exec)
 *           nCases, case...
 *   case:   eax ecx edx ebx esp ebp esi edi eip eflags es cs ss ds fs gs mode nPatches
 *           { addr, nBytes, u8 data[nBytes padded to 4] }...
 *   mode:   0 run to the end; 1 single-step and count the steps
 *   output: per case: signal vector error cr2 steps mxcsr eax..edi eip eflags es..gs nDiffs { addr << 8 | byte as two u32 }...
 *
 * Built with -m64 cases run in 64-bit mode: only those may be asked that mean the same there (groups.ts says which).
 * They know their segments by Linux's 32-bit selectors.
 *
 * Not checked: x87, MMX and SSE state is what a case's own FRSTOR, FNSAVE, FXRSTOR and FXSAVE move.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
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
typedef uint8_t u8;

enum { MAX_REGIONS = 16, MAX_DIFFS = 2048, N_GPR = 8, N_SEG = 6, HANG_TICKS = 3 };

#ifdef __x86_64__
#define REG_EIP REG_RIP
#define CR2(context) (context).gregs[REG_CR2]
static const int GPR[N_GPR] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI};
#else
static const int GPR[N_GPR] = {REG_EAX, REG_ECX, REG_EDX, REG_EBX, REG_ESP, REG_EBP, REG_ESI, REG_EDI};
#define CR2(context) (context).cr2
static const int SEG[N_SEG] = {REG_ES, REG_CS, REG_SS, REG_DS, REG_FS, REG_GS};
#endif

static struct { u32 addr, bytes, prot; const u8 *content; u8 *before; } regions[MAX_REGIONS];
static u32 nRegions;
static const u32 *in, *inEnd;
static u32 nCases, current, steps, stepping;
static int started, ticks;
static u32 *out, outWords, outCapacity;
static gregset_t mainContext;

static void *at(u32 addr) { return (void *)(uintptr_t)addr; }

/* The handler may not touch libc: FS and GS belong to the case. */
static void copy(void *to, const void *from, size_t n) { __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory"); }
static void copy4(void *to, const void *from, size_t n) { n >>= 2; __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory"); }

static long sys(long nr, long a, long b, long c) {
  long r;
#ifdef __x86_64__
  __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#else
  __asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
#endif
  return r;
}

#ifdef __x86_64__
/* Segments mean nothing here. */
static u32 askedSegs[N_SEG];
static void getSegs(const greg_t *g, u32 *segs) { (void)g; for (int i = 0; i < N_SEG; i++) segs[i] = askedSegs[i]; }
static void setSegs(greg_t *g, const u32 *segs) { (void)g; for (int i = 0; i < N_SEG; i++) askedSegs[i] = segs[i]; }
#else
static void getSegs(const greg_t *g, u32 *segs) { for (int i = 0; i < N_SEG; i++) segs[i] = g[SEG[i]] & 0xffff; }
static void setSegs(greg_t *g, const u32 *segs) { for (int i = 0; i < N_SEG; i++) g[SEG[i]] = segs[i]; }
#endif

static void emit(u32 word) {
  if (outWords >= outCapacity) { sys(SYS_write, 2, (long)"output full\n", 12); sys(SYS_exit_group, 3, 0, 0); }
  out[outWords++] = word;
}

static void protect(int open) {
  for (u32 i = 0; i < nRegions; i++)
    if (!(regions[i].prot & 2)) sys(SYS_mprotect, regions[i].addr, regions[i].bytes, open ? PROT_READ | PROT_WRITE : regions[i].prot & 1 ? PROT_READ | (regions[i].prot & 4 ? PROT_EXEC : 0) : PROT_NONE);
}

/* Patches never go to read-only regions, so those need no mprotect per case. */
static void load(greg_t *g) {
  for (u32 i = 0; i < nRegions; i++)
    if (regions[i].prot & 2) { copy4(at(regions[i].addr), regions[i].content, regions[i].bytes); copy4(regions[i].before, regions[i].content, regions[i].bytes); }
  const u32 *p = in;
  for (int i = 0; i < N_GPR; i++) g[GPR[i]] = *p++;
  g[REG_EIP] = *p++;
  g[REG_EFL] = *p++ | 0x200;
  setSegs(g, p);
  p += N_SEG;
  stepping = *p++;
  if (stepping) g[REG_EFL] |= 0x100;
  u32 nPatches = *p++;
  while (nPatches--) {
    u32 addr = *p++, n = *p++;
    copy(at(addr), p, n);
    for (u32 i = 0; i < nRegions; i++)
      if (addr >= regions[i].addr && addr < regions[i].addr + regions[i].bytes) copy(regions[i].before + (addr - regions[i].addr), p, n);
    p += (n + 3) / 4;
  }
  in = p;
  steps = 0;
  ticks = 0;
}

static void collect(int sig, const greg_t *g, u32 cr2, u32 mxcsr) {
  emit(sig); emit(g[REG_TRAPNO]); emit(g[REG_ERR]); emit(cr2); emit(steps); emit(mxcsr);
  for (int i = 0; i < N_GPR; i++) emit(g[GPR[i]]);
  emit(g[REG_EIP]);
  emit(g[REG_EFL]);
  u32 segs[N_SEG];
  getSegs(g, segs);
  for (int i = 0; i < N_SEG; i++) emit(segs[i]);
  u32 countAt = outWords, n = 0;
  emit(0);
  for (u32 r = 0; r < nRegions; r++) {
    if (!(regions[r].prot & 2)) continue;
    const u32 *now = (const u32 *)at(regions[r].addr), *was = (const u32 *)regions[r].before;
    for (u32 i = 0; i < regions[r].bytes / 4; i++) {
      if (now[i] == was[i]) continue;
      for (u32 b = 0; b < 4; b++) {
        u8 x = now[i] >> (8 * b), y = was[i] >> (8 * b);
        if (x != y && n < MAX_DIFFS) { emit(regions[r].addr + 4 * i + b); emit(x); n++; }
      }
    }
  }
  out[countAt] = n;
}

/* In a 32-bit frame the image of FXSAVE lies behind that of FNSAVE. */
static u32 mxcsrOf(const void *fpregs) { return ((const u32 *)fpregs)[(sizeof(long) == 8 ? 24 : 112 + 24) / 4]; }

static void handler(int sig, siginfo_t *info, void *raw) {
  __asm__ volatile("push $0x202; popf" ::: "cc", "memory"); /* NT, ID and AC outlive a signal */
  (void)info;
  ucontext_t *uc = raw;
  greg_t *g = uc->uc_mcontext.gregs;
  if (!started) {
    copy(mainContext, g, sizeof mainContext);
    started = 1;
  } else {
    if (sig == SIGVTALRM && ++ticks < HANG_TICKS) return;
    if (stepping && sig == SIGTRAP && g[REG_TRAPNO] == 1) { steps++; g[REG_EFL] |= 0x100; return; }
    collect(sig, g, CR2(uc->uc_mcontext), mxcsrOf(uc->uc_mcontext.fpregs));
    current++;
  }
  if (current == nCases) { copy(g, mainContext, sizeof mainContext); return; }
  load(g);
}

static u32 word(void) {
  if (in >= inEnd) { fprintf(stderr, "input ends early\n"); exit(2); }
  return *in++;
}

int main(int argc, char **argv) {
  if (argc != 3) { fprintf(stderr, "usage: run-vectors INPUT OUTPUT\n"); return 2; }
  int fd = open(argv[1], O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) { perror(argv[1]); return 2; }
  in = mmap(0, st.st_size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  if (in == MAP_FAILED) { perror("mmap"); return 2; }
  inEnd = in + st.st_size / 4;

  for (u32 n = word(); n > 0; n--) {
    struct user_desc d = {0};
    d.entry_number = word(); d.base_addr = word(); d.limit = word();
    u32 flags = word();
    d.seg_32bit = flags & 1; d.contents = (flags >> 1) & 3; d.read_exec_only = (flags >> 3) & 1;
    d.limit_in_pages = (flags >> 4) & 1; d.seg_not_present = (flags >> 5) & 1; d.useable = (flags >> 6) & 1;
    if (syscall(SYS_modify_ldt, 0x11, &d, sizeof d) != 0) { fprintf(stderr, "modify_ldt refuses entry %u\n", d.entry_number); return 2; }
  }
  nRegions = word();
  if (nRegions > MAX_REGIONS) return 2;
  for (u32 i = 0; i < nRegions; i++) {
    regions[i].addr = word(); regions[i].bytes = word(); regions[i].prot = word();
    regions[i].content = (const u8 *)in;
    in += regions[i].bytes / 4;
    void *p = mmap(at(regions[i].addr), regions[i].bytes, PROT_READ | PROT_WRITE | (regions[i].prot & 4 ? PROT_EXEC : 0), MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p != at(regions[i].addr)) { fprintf(stderr, "cannot map %08x\n", regions[i].addr); return 2; }
    memcpy(p, regions[i].content, regions[i].bytes);
    regions[i].before = malloc(regions[i].bytes);
  }
  mlockall(MCL_CURRENT);
  protect(0);
  nCases = word();
  /* 200 words hold a case that changes 90 bytes; most change fewer. */
  outCapacity = nCases * 200 + 65536;
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
