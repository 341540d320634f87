/*
 * Interrupt, trap and call gates, IRET and RETF: every way between rings, and every way it is refused
 * (SDM vol. 3 chapters 5 and 6, vol. 2 "INT n", "IRET", "CALL", "RET").
 */
#include "runtime.h"

extern char stubs[], entry_stack_top[];
#define STUB(v) (stubs + 16 * (v))
enum { F0 = FREE, F1 = FREE + 8, F2 = FREE + 16 };

SNIP(int40, "int $0x40");
SNIP(int3, "int3");
SNIP(int03, ".byte 0xcd, 3");
SNIP(into, "into");
SNIP(int13, "int $13");
SNIP(int8, "int $8");
SNIP(ud2, "ud2");
SNIP(div0, "xor %ecx, %ecx; div %ecx");
SNIP(badload, "mov $0xfff8, %eax; mov %eax, %ds");
SNIP(do_iret, "iret");
SNIP(do_iretw, "iretw");
SNIP(do_lret, "lret");
SNIP(do_lret8, "lret $8");
SNIP(do_lretw, "lretw");
SNIP(call_f0, "lcall $0x5b, $0x1234");
SNIP(call_f0_rpl0, "lcall $0x58, $0x1234");
SNIP(jmp_f0, "ljmp $0x5b, $0x1234");
SNIP(jmp_f0_rpl0, "ljmp $0x58, $0x1234");
SNIP(call_and_back, "push $0x51; push $0x52; lcall $0x5b, $0; mov %esp, %eax; sub %ebp, %eax");
SNIP(indirect_call, "lcall *far_pointer");
TARGET(target);
SNIP(gate_returns, "lret $8");
u32 far_pointer[2] = {0x1234, 0x5b};

struct variant { const char *name; u32 access; u8 absent_selector; };

/* Descriptors that a gate or a far pointer may name: access bytes, flat, 32 bits. */
static const struct variant targets[] = {
  {"code dpl0", 0xc09a, 0}, {"code dpl1", 0xc0ba, 0}, {"code dpl3", 0xc0fa, 0}, {"conforming dpl0", 0xc09e, 0}, {"conforming dpl1", 0xc0be, 0}, {"conforming dpl3", 0xc0fe, 0},
  {"code absent", 0xc01a, 0}, {"conforming absent", 0xc01e, 0}, {"data", 0xc092, 0}, {"data dpl3", 0xc0f2, 0}, {"ldt", 0x82, 0}, {"empty", 0, 0}, {"execute-only", 0xc098, 0}, {"code16 dpl0", 0x809a, 0},
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static void line(const char *a, const char *b, int ring) { print("%s / %s / ring %d ", a, b, ring); }

static void interrupt_gates(void) {
  static const int rings[] = {0, 1, 3};
  for (u32 r = 0; r < COUNT(rings); r++) {
    int ring = rings[r];
    /* By type and DPL of the gate. */
    for (u32 access = 0; access < 0x100; access++) {
      u32 dpl = access >> 5 & 3, type = access & 0x1f;
      if ((dpl == 1 || dpl == 2) && type != 0xe) continue;
      if (!(access & 0x80) && type != 0xe && type != 0xf) continue;
      if (type == 5 || type == 6 || type == 7) continue; /* task and 16-bit gates: elsewhere */
      set_idt(0x40, CODE0, STUB(0x40), access);
      print("gate %x ring %d ", access, ring);
      probe("int40", ring, int40);
    }
    /* By target. */
    for (u32 i = 0; i < COUNT(targets); i++) {
      if (targets[i].access == 0x809a) continue;
      gdt[F0 >> 3] = descriptor(0, 0xfffff, targets[i].access);
      for (u32 rpl = 0; rpl < 4; rpl += 3) {
        set_idt(0x40, F0 | rpl, STUB(0x40), 0xee);
        line("target", targets[i].name, ring);
        probe(rpl ? "int40 rpl3" : "int40", ring, int40);
      }
    }
    static const u16 odd[] = {0, 3, 0xfff8, 0x100, LDT_SEL | 4, 7};
    for (u32 i = 0; i < COUNT(odd); i++) {
      set_idt(0x40, odd[i], STUB(0x40), 0xee);
      print("gate to %x ring %d ", odd[i], ring);
      probe("int40", ring, int40);
    }
    /* What the handler finds of IF, TF, NT, IOPL. */
    for (u32 access = 0xee; access <= 0xef; access++) {
      set_idt(0x40, CODE0, STUB(0x40), access);
      prepare(ring, int40);
      in.eflags = 0x3ed7;
      probe_enter();
      print("%s gate: handler sees %x, saved %x ", access & 1 ? "trap" : "interrupt", handler_flags & ~0x10000, out.eflags);
      report("flags");
    }
  }
  /* Software interrupts to exception vectors: the gate's DPL counts, no error code is pushed. */
  for (int ring = 0; ring < 4; ring += 3) {
    probe("int3", ring, int3);
    probe("cd03", ring, int03);
    prepare(ring, into); in.eflags |= 0x800; run("into taken");
    probe("into not taken", ring, into);
    if (ring != 0) { /* in ring 0 they would arrive, without the error code that our stubs pop */
      probe("int13 dpl0", ring, int13);
      probe("int8 dpl0", ring, int8);
    }
    set_idt(3, CODE0, STUB(3), 0xee);
    probe("int3 dpl3", ring, int3);
    probe("cd03 dpl3", ring, int03);
    set_idt(4, CODE0, STUB(4), 0xee);
    prepare(ring, into); in.eflags |= 0x800; run("into dpl3");
    probe("ud2", ring, ud2);
    probe("div", ring, div0);
    probe("bad load", ring, badload);
    default_idt();
  }
  /* Beyond the limit of the IDT. */
  struct { u16 limit; u32 base; } __attribute__((packed)) shorter = {0x40 * 8 + 6, (u32)idt};
  __asm__ volatile("lidt %0" : : "m"(shorter));
  probe("idt ends within the gate", 3, int40);
  shorter.limit = 0x7ff;
  __asm__ volatile("lidt %0" : : "m"(shorter));
  default_idt();
}

/* An exception whose gate is broken: the second one carries EXT, two contributory ones make a double fault. */
static void nested(void) {
  for (int ring = 0; ring < 4; ring += 3) {
    idt[6] &= ~(1ull << 47);
    probe("ud2 through an absent gate", ring, ud2);
    default_idt();
    idt[13] &= ~(1ull << 47);
    probe("#GP through an absent gate", ring, badload);
    default_idt();
    idt[0] = gate(0x28 + 0, 0, 0x0e, 0);
    probe("#DE through an absent gate", ring, div0);
    default_idt();
    idt[3] = gate(CODE0, (u32)STUB(3), 0x6e, 0);
    probe("int3 through an absent gate", ring, int3);
    default_idt();
    set_idt(6, DATA0, STUB(6), 0x8e);
    probe("ud2 to a data segment", ring, ud2);
    default_idt();
    set_idt(0, 0, STUB(6), 0x8e);
    probe("#DE to a null selector", ring, div0);
    default_idt();
    set_idt(6, 0xfff8, STUB(6), 0x8e);
    probe("ud2 beyond the GDT", ring, ud2);
    default_idt();
  }
}

/* The inner stack that the TSS names, broken in every way. Ring 1 is the inner ring, ring 0 handles the fault. */
static void inner_stacks(void) {
  static const struct variant stacks[] = {
    {"dpl0 rpl1", 0xc092, 0}, {"dpl1", 0xc0b2, 0}, {"dpl2", 0xc0d2, 0}, {"dpl3", 0xc0f2, 0}, {"read-only", 0xc0b0, 0}, {"code", 0xc0ba, 0}, {"expand-down", 0xc0b6, 0}, {"absent", 0xc032, 0}, {"system", 0xa2, 0}, {"empty", 0, 0},
  };
  static const struct { const char *name; u16 selector; } selectors[] = {{"null", 0}, {"null rpl1", 1}, {"rpl0", F1}, {"rpl3", F1 | 3}, {"beyond", 0xfff9}, {"absent ldt", 0x3d}};
  u32 good = tss.ss1;
  for (int soft = 1; soft >= 0; soft--) {
    int vector = soft ? 0x40 : 6;
    void *code = soft ? int40 : ud2;
    set_idt(vector, CODE1, STUB(vector), 0xee);
    for (u32 i = 0; i < COUNT(stacks); i++) {
      if (stacks[i].access == 0xc0b2 || stacks[i].access == 0xc0b6) continue; /* usable: ring 1 cannot leave through our stubs */
      gdt[F1 >> 3] = descriptor(0, 0xfffff, stacks[i].access);
      tss.ss1 = F1 | 1;
      line(soft ? "soft" : "fault", stacks[i].name, 3);
      probe("ss1", 3, code);
    }
    gdt[F1 >> 3] = descriptor(0, 0xfffff, 0xc0b2);
    for (u32 i = 0; i < COUNT(selectors); i++) {
      tss.ss1 = selectors[i].selector;
      line(soft ? "soft" : "fault", selectors[i].name, 3);
      probe("ss1", 3, code);
    }
    tss.ss1 = good;
    /* A TSS that ends before SS1. */
    static const u8 limits[] = {0xb, 0xf, 0x10};
    for (u32 i = 0; i < COUNT(limits); i++) {
      gdt[TSS_SEL >> 3] = descriptor((u32)&tss, limits[i], 0x89);
      __asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
      print("tss limit %x ", limits[i]);
      probe(soft ? "int40" : "ud2", 3, code);
    }
    gdt[TSS_SEL >> 3] = descriptor((u32)&tss, sizeof tss - 1, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
    default_idt();
  }
}

static u32 frame_stack[512] __attribute__((aligned(16)));
#define frame (frame_stack + 256) /* faults in ring 0 push below */
static void set_frame(u32 a, u32 b, u32 c, u32 d, u32 e) { frame[0] = a; frame[1] = b; frame[2] = c; frame[3] = d; frame[4] = e; frame[5] = 0x51515151; frame[6] = 0x52525252; }

static void with_frame(const char *name, int ring, void *code) {
  prepare(ring, code);
  in.esp = (u32)frame;
  in.fs = DATA0 | 0; in.gs = ring == 0 ? DATA1 : 0; /* DPL 0 and 1: must not survive a return to ring 3 */
  if (ring != 0) in.fs = 0;
  code_base = (u32)target;
  probe_enter();
  if (out.eip - (u32)code < 0x20 && out.cs == in.cs) code_base = (u32)code;
  report(name);
}

static void returns(void) {
  static const struct { const char *name; void *code; int far; } ways[] = {{"iret", do_iret, 0}, {"lret", do_lret, 1}, {"lret 8", do_lret8, 2}};
  for (u32 w = 0; w < COUNT(ways); w++) {
    static const u16 cs[] = {CODE0, CODE1, CODE2, CODE3, CODE0 | 3, CODE3 & ~3, CODE1 & ~1, 0, 3, 0xfff8, 0xfffb, DATA0, DATA3, LDT_SEL, 0x5c};
    u32 ss[] = {DATA3, DATA2, DATA1, DATA0, 0, 3, CODE3, 0xfffb, F1 | 3, F2 | 3};
    gdt[F1 >> 3] = descriptor(0, 0xfffff, 0xc0f0); /* read-only */
    gdt[F2 >> 3] = descriptor(0, 0xfffff, 0xc072); /* absent */
    for (int ring = 0; ring < 4; ring += 3) {
      for (u32 i = 0; i < COUNT(cs); i++) {
        u32 stack = (u32)user_stack[3] + 0xf00;
        for (u32 s = 0; s < COUNT(ss); s++) {
          if ((cs[i] & 3) <= ring && s > 0) break; /* only an outer return pops SS */
          if (cs[i] != CODE3 && cs[i] != CODE1 && cs[i] != CODE2 && s > 1) break;
          if (ways[w].far == 0) set_frame((u32)target, cs[i], 0x2, stack, ss[s]);
          else if (ways[w].far == 1) set_frame((u32)target, cs[i], stack, ss[s], 0);
          else { set_frame((u32)target, cs[i], 0, 0, stack); frame[5] = ss[s]; }
          print("ring %d cs %x ss %x ", ring, cs[i], ss[s]);
          with_frame(ways[w].name, ring, ways[w].code);
        }
      }
      /* Every kind of code segment, at every RPL. */
      for (u32 i = 0; i < COUNT(targets); i++) {
        for (u32 rpl = 0; rpl < 4; rpl++) {
          if (targets[i].access == 0x809a) continue;
          gdt[F0 >> 3] = descriptor(0, 0xfffff, targets[i].access);
          u32 stack = (u32)user_stack[rpl] + 0xf00, outer = rpl == 3 ? DATA3 : rpl == 2 ? DATA2 : rpl == 1 ? DATA1 : DATA0;
          if (ways[w].far == 0) set_frame((u32)target, F0 | rpl, 0x2, stack, outer);
          else if (ways[w].far == 1) set_frame((u32)target, F0 | rpl, stack, outer, 0);
          else continue;
          print("%s rpl %d ring %d ", targets[i].name, rpl, ring);
          with_frame(ways[w].name, ring, ways[w].code);
        }
      }
    }
  }
  /* What IRET may change in EFLAGS, by ring and IOPL. */
  for (u32 iopl = 0; iopl < 4; iopl++) {
    for (int ring = 0; ring < 4; ring++) {
      static const u16 cs[] = {CODE0, CODE1, CODE2, CODE3};
      prepare(ring, do_iret);
      in.esp = (u32)frame;
      in.eflags = 2 | iopl << 12;
      set_frame((u32)target, cs[ring], 0x243fd7 & ~0x100, 0, 0);
      code_base = (u32)target;
      print("iopl %d ring %d ", iopl, ring);
      run("iret flags");
      in.eflags = (0x243ed7 & ~(3 << 12)) | iopl << 12;
      set_frame((u32)target, cs[ring], (3 - iopl) << 12 | 2, 0, 0);
      print("iopl %d ring %d ", iopl, ring);
      run("iret flags back");
      prepare(ring, do_iretw);
      in.esp = (u32)frame;
      in.eflags = 2 | iopl << 12;
      frame[0] = 0x5678 | cs[ring] << 16; frame[1] = 0x3ed7; /* 16-bit frame: EIP 0x5678 */
      u32 low = *(u32 *)0x5678;
      *(u16 *)0x5678 = 0x7ecd; /* int 0x7e */
      code_base = 0x5678;
      print("iopl %d ring %d ", iopl, ring);
      run("iretw");
      *(u32 *)0x5678 = low;
    }
  }
  /* A target outside of the segment. */
  gdt[F0 >> 3] = descriptor(0, 0xfff, 0x40fa);
  set_frame(0x1000, F0 | 3, 2, 0x8000, DATA3);
  with_frame("iret beyond the limit", 0, do_iret);
  set_frame(0x1000, F0 | 3, 0x8000, DATA3, 0);
  with_frame("lret beyond the limit", 0, do_lret);
  gdt[F0 >> 3] = descriptor(0, 0xfff, 0x409a);
  set_frame(0x1000, F0, 2, 0, 0);
  with_frame("iret beyond the limit, same ring", 0, do_iret);
  /* With NT set IRET asks the task link, which here names no TSS. */
  prepare(0, do_iret);
  in.eflags |= 0x4000;
  tss.link = 0;
  run("iret nt, null link");
  tss.link = DATA0;
  run("iret nt, link to data");
  tss.link = TSS_SEL;
  gdt[TSS_SEL >> 3] &= ~(2ull << 40);
  run("iret nt, link not busy");
  gdt[TSS_SEL >> 3] |= 2ull << 40;
}

static void call_gates(void) {
  static const struct { const char *name; void *code; } ways[] = {{"call", call_f0}, {"call rpl0", call_f0_rpl0}, {"jmp", jmp_f0}, {"jmp rpl0", jmp_f0_rpl0}};
  for (u32 w = 0; w < COUNT(ways); w++) {
    for (int ring = 0; ring < 4; ring++) {
      for (u32 dpl = 0; dpl < 4; dpl++) {
        for (u32 i = 0; i < COUNT(targets); i++) {
          if (targets[i].access == 0x809a) continue;
          if (i > 3 && dpl != 3) continue;
          gdt[F1 >> 3] = descriptor(0, 0xfffff, targets[i].access);
          gdt[F0 >> 3] = gate(F1, (u32)target, 0x8c | dpl << 5, 0);
          print("ring %d gate dpl %d to %s ", ring, dpl, targets[i].name);
          code_base = (u32)ways[w].code;
          prepare(ring, ways[w].code);
          probe_enter();
          if (out.eip - (u32)target < 8) code_base = (u32)target;
          report(ways[w].name);
        }
      }
    }
  }
  gdt[F1 >> 3] = descriptor(0, 0xfffff, 0xc09a);
  static const u16 odd[] = {0, 3, 0xfff8, F1 | 3};
  for (u32 i = 0; i < COUNT(odd); i++) {
    gdt[F0 >> 3] = gate(odd[i], (u32)target, 0xec, 0);
    print("gate to %x ", odd[i]);
    prepare(3, call_f0); probe_enter();
    if (out.eip - (u32)target < 8) code_base = (u32)target;
    report("call");
  }
  gdt[F0 >> 3] = gate(F1, (u32)target, 0x6c, 0);
  probe("call gate absent", 3, call_f0);
  /* Every other system type: not callable. TSS types switch tasks and are not tried. */
  for (u32 type = 0; type < 16; type++) {
    if (type == 1 || type == 4 || type == 5 || type == 9 || type == 12) continue;
    gdt[F0 >> 3] = gate(F1, (u32)target, 0xe0 | type, 0);
    print("type %x ", type);
    probe("call", 3, call_f0);
    probe("jmp", 3, jmp_f0);
  }
  /* Parameters are copied, outer stack pointer pushed; the return releases both stacks. */
  static const u8 counts[] = {0, 1, 2, 3, 5, 31};
  for (u32 i = 0; i < COUNT(counts); i++) {
    for (int ring = 0; ring < 4; ring += 3) {
      gdt[F0 >> 3] = gate(F1, (u32)target, 0xec, counts[i]);
      prepare(ring, call_f0);
      for (int p = 0; p < 31; p++) ((u32 *)in.esp)[p] = 0x100 + p;
      code_base = (u32)target;
      probe_enter();
      print("params %d ring %d ", counts[i], ring);
      u32 *sp = (u32 *)out.esp;
      u32 words = ring ? counts[i] + 4 : 2;
      for (u32 n = 0; n < words; n++) {
        u32 v = sp[n];
        if (v - (u32)call_f0 < 16) print(" call+%x", v - (u32)call_f0);
        else if (v - (u32)user_stack[3] < 0x1000) print(" stack+%x", v - (u32)user_stack[3]);
        else print(" %x", v);
      }
      print(" ");
      report("call");
    }
  }
  gdt[F0 >> 3] = gate(F1, (u32)gate_returns, 0xec, 2);
  prepare(3, call_and_back);
  in.ebp = in.esp;
  run("call and lret 8");
  prepare(0, call_and_back);
  in.ebp = in.esp;
  run("call and lret 8, same ring");
  gdt[F0 >> 3] = gate(F1, (u32)target, 0xec, 0);
  prepare(3, indirect_call); probe_enter(); code_base = (u32)target; report("indirect call through a gate");
  /* Broken inner stacks, now with CALL. */
  gdt[F0 >> 3] = gate(CODE1 & ~3, (u32)target, 0xec, 0);
  static const u16 bad[] = {0, DATA0, DATA2, DATA3, CODE1, 0xfff9, F2 | 1};
  gdt[F2 >> 3] = descriptor(0, 0xfffff, 0xc032);
  u32 good = tss.ss1;
  for (u32 i = 0; i < COUNT(bad); i++) {
    tss.ss1 = bad[i];
    print("ss1 %x ", bad[i]);
    probe("call", 3, call_f0);
  }
  tss.ss1 = good;
}

/* Far jumps and calls straight to code segments. */
SNIP(jmp_far, ".byte 0x2e; ljmp *(%ebx)");
SNIP(call_far, ".byte 0x2e; lcall *(%ebx)");
static u32 pointer[2];
static void direct(void) {
  for (int ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < COUNT(targets); i++) {
      if (targets[i].access == 0x809a) continue;
      gdt[F0 >> 3] = descriptor(0, 0xfffff, targets[i].access);
      for (u32 rpl = 0; rpl < 4; rpl++) {
        pointer[0] = (u32)target; pointer[1] = F0 | rpl;
        for (int call = 0; call < 2; call++) {
          prepare(ring, call ? call_far : jmp_far);
          in.ebx = (u32)pointer;
          probe_enter();
          if (out.eip - (u32)target < 8) code_base = (u32)target;
          print("ring %d %s rpl %d ", ring, targets[i].name, rpl);
          report(call ? "call" : "jmp");
        }
      }
    }
  }
}

void image_main(void) {
  interrupt_gates();
  nested();
  inner_stacks();
  returns();
  call_gates();
  direct();
}
