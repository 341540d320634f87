/* See runtime.h. Everything is identity-mapped and flat; interrupts stay off. */
#include "runtime.h"

struct state in, out;
u64 gdt[GDT_ENTRIES] __attribute__((aligned(16))), ldt[LDT_ENTRIES] __attribute__((aligned(16))), idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(128)));
u8 user_stack[4][4096] __attribute__((aligned(4096)));
u32 code_base, cr2_mask = ~0u;
extern char stubs[], entry_stack_top[];

void *memcpy(void *to, const void *from, u32 n) { u8 *t = to; const u8 *f = from; while (n--) *t++ = *f++; return to; }
void *memset(void *to, int value, u32 n) { u8 *t = to; while (n--) *t++ = value; return to; }

static void put(char c) { outb(0xe9, c); }

void print(const char *f, ...) {
  __builtin_va_list args;
  __builtin_va_start(args, f);
  for (; *f; f++) {
    if (*f != '%') { put(*f); continue; }
    switch (*++f) {
      case 's': for (const char *s = __builtin_va_arg(args, const char *); *s; s++) put(*s); break;
      case 'c': put(__builtin_va_arg(args, int)); break;
      case 'x': case 'd': {
        u32 v = __builtin_va_arg(args, u32), base = *f == 'x' ? 16 : 10, n = 0;
        char digits[12];
        do { digits[n++] = "0123456789abcdef"[v % base]; v /= base; } while (v);
        while (n) put(digits[--n]);
        break;
      }
    }
  }
  __builtin_va_end(args);
}

u64 descriptor(u32 base, u32 limit, u32 access) {
  u32 low = (limit & 0xffff) | base << 16;
  u32 high = (base >> 16 & 0xff) | (access & 0xf0ff) << 8 | (limit & 0xf0000) | (base & 0xff000000);
  return (u64)high << 32 | low;
}
u64 gate(u32 selector, u32 offset, u32 access, u32 params) {
  return (u64)((offset & 0xffff0000) | (access & 0xff) << 8 | (params & 31)) << 32 | (selector << 16 | (offset & 0xffff));
}
void set_idt(int vector, u32 selector, void *handler, u32 access) { idt[vector] = gate(selector, (u32)handler, access, 0); }
void default_idt(void) {
  for (int v = 0; v < 256; v++) set_idt(v, CODE0, stubs + 16 * v, 0x8e);
  set_idt(LEAVE, CODE0, stubs + 16 * LEAVE, 0xee);
}

/* Called by entry.S with the interrupted state on the stack of the handler. */
struct saved { u32 gs, fs, es, ds, edi, esi, ebp, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss; };
void trap(struct saved *s, u32 handler_ss);
void trap(struct saved *s, u32 handler_ss) {
  u32 base = 0;
  if (handler_ss != DATA0) { /* a handler stack with a base of its own */
    u64 d = (handler_ss & 4 ? ldt : gdt)[handler_ss >> 3 & 31];
    base = (u32)(d >> 16 & 0xffffff) | ((u32)(d >> 32) & 0xff000000);
  }
  s = (struct saved *)((u32)s + base);
  out = (struct state){.gs = s->gs & 0xffff, .fs = s->fs & 0xffff, .es = s->es & 0xffff, .ds = s->ds & 0xffff, .edi = s->edi, .esi = s->esi, .ebp = s->ebp, .ebx = s->ebx, .edx = s->edx, .ecx = s->ecx, .eax = s->eax,
    .eip = s->eip, .cs = s->cs & 0xffff, .eflags = s->eflags, .vector = s->vector, .error = s->error, .cr2 = read_cr2()};
  u32 cpl;
  __asm__("mov %%cs, %0" : "=r"(cpl));
  out.handler_cs = cpl;
  out.handler_ss = handler_ss;
  out.handler_sp = (u32)s - base;
  if ((s->cs & 3) > (cpl & 3)) { out.esp = s->esp; out.ss = s->ss & 0xffff; }
  else { out.esp = (u32)&s->esp - base; out.ss = handler_ss; }
}

void prepare(int ring, void *code) {
  static const u16 cs[4] = {CODE0, CODE1, CODE2, CODE3}, ss[4] = {0, DATA1, DATA2, DATA3};
  in = (struct state){.es = DATA3, .ds = DATA3, .eax = 0xaaaa0001, .ecx = 0xaaaa0002, .edx = 0xaaaa0003, .ebx = 0xaaaa0004, .ebp = 0xaaaa0005, .esi = 0xaaaa0006, .edi = 0xaaaa0007,
    .eip = (u32)code, .cs = cs[ring], .eflags = 2, .esp = (u32)user_stack[ring] + 0xf00, .ss = ss[ring]};
  code_base = (u32)code;
}

static void differs(const char *name, u32 was, u32 is) { if (was != is) print(" %s=%x", name, is); }

void report(const char *name) {
  static const char *const names[] = {"DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "9", "TS", "NP", "SS", "GP", "PF", "15", "MF", "AC"};
  print("%s:", name);
  if (out.vector == LEAVE) print(" ok");
  else if (out.vector > 17) print(" int%x", out.vector);
  else {
    print(" #%s", names[out.vector]);
    if (out.vector == 8 || (out.vector >= 10 && out.vector <= 14) || out.vector == 17) print("(%x)", out.error);
    if (out.vector == 14) print(" cr2=%x", out.cr2 & cr2_mask);
  }
  u32 eip = out.vector == LEAVE ? out.eip - 2 : out.eip;
  if (out.vector != LEAVE || out.cs != in.cs) {
    if (eip - code_base < 0x1000) print(" +%x", eip - code_base);
    else print(" eip=%x", eip);
  }
  differs("cs", in.cs, out.cs);
  differs("eax", in.eax, out.eax); differs("ecx", in.ecx, out.ecx); differs("edx", in.edx, out.edx); differs("ebx", in.ebx, out.ebx);
  differs("ebp", in.ebp, out.ebp); differs("esi", in.esi, out.esi); differs("edi", in.edi, out.edi);
  differs("ds", in.ds, out.ds); differs("es", in.es, out.es); differs("fs", in.fs, out.fs); differs("gs", in.gs, out.gs);
  /* Stacks are reported by distance: their addresses are the linker's business. */
  u32 esp = out.esp;
  if (esp != in.esp) {
    if (esp - in.esp + 0x200 < 0x400) { if (esp < in.esp) print(" esp-%x", in.esp - esp); else print(" esp+%x", esp - in.esp); }
    else if ((u32)entry_stack_top - esp < 0x400) print(" esp0-%x", (u32)entry_stack_top - esp);
    else print(" esp=%x", esp);
  }
  differs("ss", in.ss ? in.ss : DATA0, out.ss);
  differs("eflags", (in.eflags | 2) & ~0x10000, out.eflags & ~0x10000);
  if (out.handler_cs != CODE0) print(" in=%x", out.handler_cs);
  print("\n");
}

void run(const char *name) { probe_enter(); report(name); }
void probe(const char *name, int ring, void *code) { prepare(ring, code); run(name); }

void finish(void) {
  print("end\n");
  outb(0xf4, 0);
  for (;;) __asm__ volatile("cli; hlt");
}

void start(void);
void start(void) {
  outb(0x21, 0xff); /* the interrupt controllers stay silent */
  outb(0xa1, 0xff);
  static const u16 selectors[] = {CODE0, DATA0, CODE1, DATA1, CODE2, DATA2, CODE3, DATA3};
  for (u32 i = 0; i < 8; i++) gdt[selectors[i] >> 3] = descriptor(0, 0xfffff, (i & 1 ? 0xc093 : 0xc09b) | (selectors[i] & 3) << 5);
  gdt[TSS_SEL >> 3] = descriptor((u32)&tss, sizeof tss - 1, 0x89);
  gdt[LDT_SEL >> 3] = descriptor((u32)ldt, sizeof ldt - 1, 0x82);
  tss.esp0 = (u32)entry_stack_top; tss.ss0 = DATA0;
  tss.esp1 = (u32)user_stack[1] + 0x800; tss.ss1 = DATA1;
  tss.esp2 = (u32)user_stack[2] + 0x800; tss.ss2 = DATA2;
  tss.iomap = sizeof tss;
  default_idt();
  struct { u16 limit; u32 base; } __attribute__((packed)) gdtr = {sizeof gdt - 1, (u32)gdt}, idtr = {sizeof idt - 1, (u32)idt};
  __asm__ volatile("lgdt %0; lidt %1; ljmp %2, $1f; 1: mov %3, %%ds; mov %3, %%es; mov %3, %%ss; mov %4, %%fs; mov %4, %%gs; lldt %w5; ltr %w6"
    : : "m"(gdtr), "m"(idtr), "i"(CODE0), "r"(DATA0), "r"(0), "r"(LDT_SEL), "r"(TSS_SEL) : "memory");
  image_main();
  finish();
}
