/*
 * Paging: every combination of present, writable and user bits at both levels against every kind of
 * access, accessed and dirty bits, large pages, WP, invalidation, page faults that the processor's own
 * table accesses cause; under PAE also NX, reserved bits and page-directory pointers
 * (SDM vol. 3 chapter 4). Built twice, with and without -DPAE.
 */
#include "runtime.h"

#ifdef PAE
typedef u64 pte_t;
enum { ENTRIES = 512, LARGE_SHIFT = 21 };
#else
typedef u32 pte_t;
enum { ENTRIES = 1024, LARGE_SHIFT = 22 };
#endif
enum { P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100, WINDOW = 0x1000000 };
#define NX (1ull << 63)

extern char stubs[];
static pte_t directory[ENTRIES] __attribute__((aligned(4096))), table[ENTRIES] __attribute__((aligned(4096)));
static pte_t low[(16 << 20 >> LARGE_SHIFT)][ENTRIES] __attribute__((aligned(4096)));
static u8 page[4][4096] __attribute__((aligned(4096)));
#ifdef PAE
static u64 pointers[4] __attribute__((aligned(32)));
#endif
static pte_t *const pde = &directory[WINDOW >> LARGE_SHIFT];

SNIP(read_, "mov (%ebx), %ecx");
SNIP(write_, "mov %eax, (%ebx)");
SNIP(fetch_, "jmp *%ebx");
SNIP(rmw, "addl $0, (%ebx)");
SNIP(xchg_, "xchg %eax, (%ebx)");
SNIP(cmpxchg_fails, "mov $1, %eax; lock cmpxchg %ecx, (%ebx)");
SNIP(bt_, "btl $0, (%ebx)");
SNIP(push_, "push (%ebx)");
SNIP(push_there, "mov %esp, %ecx; mov %ebx, %esp; push %eax; mov %ecx, %esp");
SNIP(movs_, "mov %ebx, %esi; mov %ebx, %edi; movsl");
SNIP(lea_, "lea (%ebx), %ecx");
SNIP(load_ds, "mov %eax, %ds");
SNIP(ud2, "ud2");
SNIP(int40, "int $0x40");
SNIP(call_gate, "lcall $0x5b, $0");
SNIP(read16, "movw (%ebx), %cx");
SNIP(enter_, "mov %esp, %ecx; mov %ebx, %esp; enter $0x20, $0");
TARGET(gate_target);

static void flush(void) { write_cr3(read_cr3()); }

static void access(const char *name, int ring, void *code, u32 at) {
  prepare(ring, code);
  in.ebx = at;
  in.eax = 0x90907ecd; /* what is there already: int 0x7e */
  code_base = code == fetch_ ? at : (u32)code;
  probe_enter();
  if (out.vector == LEAVE) print(" %s=.", name);
  else if (out.vector == 14) { print(" %s=%x", name, out.error); if (out.cr2 != at) print("@%x", out.cr2); if (out.eip != (code == fetch_ ? at : (u32)code)) print("(eip %x)", out.eip - code_base); }
  else { print(" "); report(name); }
}

static void bits(pte_t e) { print("%s%s", e & A ? "a" : "", e & D ? "d" : ""); }

static void permissions(void) {
  for (u32 wp = 0; wp < 2; wp++) {
    write_cr0((read_cr0() & ~0x10000) | wp << 16);
    for (u32 d = 0; d < 8; d++) {
      for (u32 t = 0; t < 8; t++) {
        if (!(d & P) && t != 7) continue;
        for (int ring = 0; ring < 4; ring++) {
          if ((ring == 1 || ring == 2) && (d != 7 || t < 4)) continue;
          print("wp %d pde %x pte %x ring %d:", wp, d, t, ring);
          static const struct { const char *name; void *code; } ways[] = {{"r", read_}, {"w", write_}, {"x", fetch_}};
          for (u32 w = 0; w < 3; w++) {
            *pde = (u32)table | d;
            table[0] = (u32)page[0] | t;
            flush();
            access(ways[w].name, ring, ways[w].code, WINDOW);
            print(" "); bits(*pde); print("/"); bits(table[0]);
          }
          print("\n");
        }
      }
    }
  }
  write_cr0(read_cr0() | 0x10000);
}

static void accessed_dirty(void) {
  static const struct { const char *name; void *code; } ways[] = {{"read", read_}, {"write", write_}, {"rmw", rmw}, {"xchg", xchg_}, {"cmpxchg that fails", cmpxchg_fails}, {"bt", bt_}, {"push from", push_}, {"push to", push_there}, {"movs", movs_}, {"lea", lea_}, {"fetch", fetch_}};
  *pde = (u32)table | 7;
  for (u32 w = 0; w < sizeof ways / sizeof *ways; w++) {
    table[0] = (u32)page[0] | 7;
    flush();
    print("%s:", ways[w].name);
    access("", 3, ways[w].code, ways[w].code == (void *)push_there ? WINDOW + 4 : WINDOW);
    print(" "); bits(table[0]); print("\n");
    *(u32 *)page[0] = 0x90907ecd;
  }
  /* A dirty bit that is cleared comes back only after an invalidation or a walk: here with one. */
  table[0] = (u32)page[0] | 7; flush();
  access("w", 3, write_, WINDOW);
  table[0] &= ~D; invlpg(WINDOW);
  access("w", 3, write_, WINDOW); print(" "); bits(table[0]); print("\n");
  /* First read, then write: the walk for the write sets D. */
  table[0] = (u32)page[0] | 7; flush();
  access("r", 3, read_, WINDOW); print(" "); bits(table[0]);
  access("w", 3, write_, WINDOW); print(" "); bits(table[0]); print("\n");
  /* Not present is never cached. */
  table[0] = 0; flush();
  access("r", 3, read_, WINDOW);
  table[0] = (u32)page[0] | 7;
  access("r", 3, read_, WINDOW); print("\n");
  /* INVLPG and CR3 take effect; so does a change of the directory. */
  *(u32 *)page[1] = 0x11111111;
  access("r", 3, read_, WINDOW); print(" %x", out.ecx);
  table[0] = (u32)page[1] | 7; invlpg(WINDOW + 0x123);
  access("r", 3, read_, WINDOW); print(" %x", out.ecx);
  table[0] = (u32)page[0] | 7; flush();
  access("r", 3, read_, WINDOW); print(" %x", out.ecx);
  *pde = 0; invlpg(WINDOW);
  access("r", 3, read_, WINDOW);
  *pde = (u32)table | 7;
  /* Global pages go when PGE is switched. */
  write_cr4(read_cr4() | 0x80);
  table[0] = (u32)page[0] | 7 | G; flush();
  access("r", 3, read_, WINDOW); print(" %x", out.ecx);
  table[0] = (u32)page[1] | 7 | G;
  write_cr4(read_cr4() & ~0x80); write_cr4(read_cr4() | 0x80);
  access("r", 3, read_, WINDOW); print(" %x", out.ecx);
  table[0] = (u32)page[0] | 7 | G; invlpg(WINDOW);
  access("r", 3, read_, WINDOW); print(" %x\n", out.ecx);
  write_cr4(read_cr4() & ~0x80);
  flush();
}

static void crossing(void) {
  *pde = (u32)table | 7;
  for (u32 second = 0; second < 8; second++) {
    table[0] = (u32)page[0] | 7;
    table[1] = (u32)page[1] | second;
    *(u32 *)(page[0] + 0xffc) = 0x33333333;
    *(u32 *)page[1] = 0x44444444;
    flush();
    print("second page %x:", second);
    access("r", 3, read_, WINDOW + 0xffe);
    access("w", 3, write_, WINDOW + 0xffe);
    print(" [%x %x]", *(u32 *)(page[0] + 0xffc), *(u32 *)page[1]);
    access("rmw", 3, rmw, WINDOW + 0xffd);
    *(u16 *)(page[0] + 0xffe) = 0x05c7; /* mov $..., mem runs into the second page */
    access("x", 3, fetch_, WINDOW + 0xffe);
    print("\n");
  }
  table[0] = 0; table[1] = (u32)page[1] | 7; flush();
  access("first absent r", 3, read_, WINDOW + 0xffe);
  access("w", 3, write_, WINDOW + 0xffe);
  access("byte before the end", 3, read16, WINDOW + 0xfff);
  print("\n");
  table[0] = (u32)page[0] | 7; *(u32 *)page[0] = 0x90907ecd; flush();
}

static void large(void) {
  static pte_t save[1];
  save[0] = *pde;
  u32 frame = (u32)page[0] >> LARGE_SHIFT << LARGE_SHIFT, at = WINDOW + ((u32)page[0] & ((1 << LARGE_SHIFT) - 1));
  write_cr4(read_cr4() | 0x10);
  for (u32 d = 0; d < 8; d++) {
    for (int ring = 0; ring < 4; ring += 3) {
      print("large %x ring %d:", d, ring);
      static const struct { const char *name; void *code; } ways[] = {{"r", read_}, {"w", write_}, {"x", fetch_}};
      for (u32 w = 0; w < 3; w++) {
        *pde = frame | d | PS; flush();
        access(ways[w].name, ring, ways[w].code, at);
        print(" "); bits(*pde);
      }
      print("\n");
    }
  }
#ifdef PAE
  for (u32 bit = 12; bit < 21; bit++) {
    *pde = frame | 7 | PS | 1 << bit; flush();
    print("large, bit %d:", bit);
    access("r", 3, read_, at); access("w", 0, write_, at);
    print("\n");
  }
#else
  write_cr4(read_cr4() & ~0x10); /* without PSE the bit is ignored */
  *pde = (u32)table | 7 | PS; flush();
  access("ps without pse r", 3, read_, WINDOW); print("\n");
#endif
  *pde = save[0];
  flush();
}

/* Faults of the processor's own accesses: always supervisor ones. */
static void table_faults(void) {
  *pde = (u32)table | 7;
  struct { u16 limit; u32 base; } __attribute__((packed)) far_idt = {0x7ff, WINDOW + 0x1000 - 64}, near_idt = {0x7ff, (u32)idt};
  /* The IDT lies so that vectors 0 to 7 are on one page and the others on the next. */
  for (u32 v = 0; v < 256; v++) *(u64 *)(v < 8 ? page[2] + 0x1000 - 64 + 8 * v : page[3] + 8 * (v - 8)) = idt[v];
  table[1] = (u32)page[3] | 3;
  for (int ring = 0; ring < 4; ring += 3) {
    table[0] = (u32)page[2] | 3; flush();
    __asm__ volatile("lidt %0" : : "m"(far_idt));
    print("ring %d ", ring);
    probe("ud2, idt mapped", ring, ud2);
    table[0] = 0; flush();
    print("ring %d ", ring);
    probe("ud2, its gate not mapped", ring, ud2);
    __asm__ volatile("lidt %0" : : "m"(near_idt));
  }
  /* Descriptor tables. */
  for (u32 i = 0; i < LDT_ENTRIES; i++) ((u64 *)page[2])[i] = descriptor(0, 0xfffff, 0xc0f2);
  gdt[LDT_SEL >> 3] = descriptor(WINDOW, 0x3f, 0x82);
  __asm__ volatile("lldt %w0" : : "r"(LDT_SEL));
  cr2_mask = ~7u;
  static const u8 entries[] = {0, 1, 3, 5, 7};
  for (u32 wp = 0; wp < 2; wp++) {
    write_cr0((read_cr0() & ~0x10000) | wp << 16);
    for (int ring = 0; ring < 4; ring += 3) {
      for (u32 i = 0; i < 5; i++) {
        ((u64 *)page[2])[1] = descriptor(0, 0xfffff, 0xc0f2);
        table[0] = (u32)page[2] | entries[i]; flush();
        print("wp %d ldt page %x ring %d ", wp, entries[i], ring);
        prepare(ring, load_ds); in.eax = 0x0f;
        probe_enter();
        print("%s ", ((u64 *)page[2])[1] >> 40 & 1 ? "accessed" : "untouched");
        report("ds");
        ((u64 *)page[2])[1] |= 1ull << 40; flush();
        prepare(ring, load_ds); in.eax = 0x0f;
        print("  already accessed ");
        run("ds");
      }
    }
  }
  table[0] = (u32)page[2] | 7; flush();
  gdt[LDT_SEL >> 3] = descriptor((u32)ldt, sizeof ldt - 1, 0x82);
  __asm__ volatile("lldt %w0" : : "r"(LDT_SEL));
  /* The ring 1 stack in the TSS lies on the next page. */
  for (u32 i = 0; i < 12; i++) page[2][0x1000 - 12 + i] = ((u8 *)&tss)[i];
  for (u32 i = 12; i < 104; i++) page[3][i - 12] = ((u8 *)&tss)[i];
  gdt[TSS_SEL >> 3] = descriptor(WINDOW + 0x1000 - 12, 103, 0x89);
  __asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
  gdt[FREE >> 3] = gate(CODE1 & ~3, (u32)gate_target, 0xec, 0);
  set_idt(0x40, CODE1, stubs + 16 * 0x40, 0xee);
  table[0] = (u32)page[2] | 3; table[1] = 0; flush();
  probe("int to ring 1, tss page absent", 3, int40);
  probe("call to ring 1, tss page absent", 3, call_gate);
  table[1] = (u32)page[3] | 3; flush();
  prepare(3, call_gate); probe_enter(); code_base = (u32)gate_target; report("call to ring 1, tss page there");
  gdt[TSS_SEL >> 3] = descriptor((u32)&tss, sizeof tss - 1, 0x89);
  __asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
  /* The inner stack itself, of ring 1: pushes are supervisor writes. */
  static const u8 stacks[] = {0, 1, 3, 5, 7};
  u32 good = tss.esp1;
  cr2_mask = ~0xfffu;
  for (u32 i = 0; i < 5; i++) {
    table[0] = (u32)page[2] | stacks[i]; flush();
    tss.esp1 = WINDOW + 0x800;
    print("stack page %x ", stacks[i]);
    prepare(3, call_gate); probe_enter();
    code_base = out.vector == LEAVE ? (u32)gate_target : (u32)call_gate;
    report("call to ring 1");
    if (!(stacks[i] & RW)) { print("stack page %x ", stacks[i]); probe("int to ring 1", 3, int40); }
  }
  cr2_mask = ~0u;
  tss.esp1 = good;
  default_idt();
  /* ENTER touches the new top of the stack. */
  table[0] = (u32)page[0] | 7; table[1] = 0; flush();
  access("enter", 3, enter_, WINDOW + 0x800); print("\n");
}

#ifdef PAE
SNIP(set_cr3, "mov %eax, %cr3");
static void pae(void) {
  *pde = (u32)table | 7;
  for (u32 nxe = 0; nxe < 2; nxe++) {
    __asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(nxe << 11), "d"(0));
    static const struct { const char *name; u64 d, t; } rows[] = {
      {"none", 7, 7}, {"nx in pte", 7, 7 | NX}, {"nx in pde", 7 | NX, 7}, {"nx in both", 7 | NX, 7 | NX}, {"nx, supervisor", 7, 3 | NX}, {"nx, read-only", 7, 5 | NX}, {"nx, absent", 7, 6 | NX},
      {"pte bit 52", 7, 7 | 1ull << 52}, {"pte bit 62", 7, 7 | 1ull << 62}, {"pde bit 52", 7 | 1ull << 52, 7}, {"pde bit 62", 7 | 1ull << 62, 7}, {"pte bit 52, supervisor", 7, 3 | 1ull << 52}, {"pte bit 52, absent", 7, 6 | 1ull << 52},
    };
    for (u32 i = 0; i < sizeof rows / sizeof *rows; i++) {
      for (int ring = 0; ring < 4; ring += 3) {
        *pde = (u32)table | rows[i].d; table[0] = (u32)page[0] | rows[i].t; flush();
        print("nxe %d %s ring %d:", nxe, rows[i].name, ring);
        access("r", ring, read_, WINDOW); access("w", ring, write_, WINDOW); access("x", ring, fetch_, WINDOW);
        print("\n");
      }
    }
  }
  *pde = (u32)table | 7; table[0] = (u32)page[0] | 7; flush();
  /* Pointers to directories: reserved bits refuse the load of CR3; absent ones fault on use. */
  static const u64 refused[] = {1 | RW, 1 | US, 1 | A, 1 | D, 1 | 0x80, 1 | 0x100, 1 | 1ull << 52, 1 | 1ull << 62, 1 | NX};
  for (u32 i = 0; i < sizeof refused / sizeof *refused; i++) {
    pointers[3] = (u32)directory | refused[i];
    print("pointer bits %x%x ", (u32)(refused[i] >> 32), (u32)refused[i]);
    prepare(0, set_cr3); in.eax = read_cr3(); probe_enter(); in.eax = 0; out.eax = 0; report("mov cr3");
  }
  static const u64 fine[] = {1, 1 | 8, 1 | 0x10, 1 | 0xe00, 0, 0xfffffffe};
  for (u32 i = 0; i < sizeof fine / sizeof *fine; i++) {
    pointers[3] = fine[i] & 1 ? (u32)directory | fine[i] : fine[i];
    print("pointer bits %x ", (u32)fine[i]);
    prepare(0, set_cr3); in.eax = read_cr3(); probe_enter(); in.eax = 0; out.eax = 0; report("mov cr3");
  }
  pointers[3] = 0; flush();
  access("through an absent pointer", 3, read_, 0xc0000000 + WINDOW); print("\n");
  pointers[3] = (u32)directory | 1; flush();
  access("through a present one", 3, read_, 0xc0000000 + WINDOW); print("\n");
  pointers[3] = 0; /* held in the processor since CR3 was loaded */
  invlpg(0xc0000000 + WINDOW);
  access("absent in memory, held", 3, read_, 0xc0000000 + WINDOW); print("\n");
}
#endif

void image_main(void) {
  for (u32 i = 0; i < (16 << 20 >> LARGE_SHIFT); i++) {
    for (u32 j = 0; j < ENTRIES; j++) low[i][j] = ((i << LARGE_SHIFT) + (j << 12)) | 7;
    directory[i] = (u32)low[i] | 7;
  }
  *(u32 *)page[0] = 0x90907ecd;
#ifdef PAE
  pointers[0] = (u32)directory | 1;
  write_cr4(0x20);
  write_cr3((u32)pointers);
#else
  write_cr3((u32)directory);
#endif
  write_cr0(read_cr0() | 0x80000000);
  permissions();
  accessed_dirty();
  crossing();
  large();
  table_faults();
#ifdef PAE
  pae();
#endif
}
