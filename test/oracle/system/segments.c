/*
 * Segment descriptors: every type, present or not, every DPL, loaded into every register from every
 * ring with every RPL; LAR, LSL, VERR, VERW, ARPL over all of them; LLDT, LTR, SLDT, STR
 * (SDM vol. 3 chapter 5, vol. 2 "MOV", "LAR", "LSL", "VERR", "LLDT", "LTR").
 *
 * Results are matrices: a line per (what, ring, DPL, P), a character per (type, RPL):
 *   .  loaded and marked accessed    ,  loaded, accessed bit not set     =  answered ZF = 1 (LAR ...)   -  ZF = 0
 *   G N S T  #GP #NP #SS #TS with the selector as error code    g n s t  with error code 0    !  anything else
 */
#include "runtime.h"
enum { F0 = FREE };

SNIP(load_ds, "mov %eax, %ds");
SNIP(load_es, "mov %eax, %es");
SNIP(load_fs, "mov %eax, %fs");
SNIP(load_gs, "mov %eax, %gs");
SNIP(load_ss, "mov %eax, %ss; mov $0, %ecx");
SNIP(pop_ds, "push %eax; pop %ds");
SNIP(pop_ss, "push %eax; pop %ss; mov $0, %ecx");
SNIP(lds, "push %eax; push $0; lds (%esp), %ecx");
SNIP(lss, "mov %esp, %ecx; push %eax; push %ecx; lss (%esp), %esp; mov $0, %ecx");
SNIP(jmp_far, "push %eax; push %ebx; ljmp *(%esp)");
SNIP(call_far, "push %eax; push %ebx; lcall *(%esp)");
SNIP(far_target, "");
SNIP(do_lar, "lar %eax, %ecx; setz %dl");
SNIP(do_larw, "lar %ax, %cx; setz %dl");
SNIP(do_lsl, "lsl %eax, %ecx; setz %dl");
SNIP(do_lslw, "lsl %ax, %cx; setz %dl");
SNIP(do_verr, "verr %ax; setz %dl");
SNIP(do_verw, "verw %ax; setz %dl");
SNIP(do_arpl, "arpl %cx, %ax; setz %dl");
SNIP(do_lldt, "lldt %ax");
SNIP(do_ltr, "ltr %ax");
SNIP(do_sldt, "sldt %eax; str %ecx");
SNIP(do_sldtm, "sldt (%ebx); str 4(%ebx)");

static char verdict(u32 selector) {
  char big, small;
  switch (out.vector) {
    case 10: big = 'T'; small = 't'; break;
    case 11: big = 'N'; small = 'n'; break;
    case 12: big = 'S'; small = 's'; break;
    case 13: big = 'G'; small = 'g'; break;
    default: return '!';
  }
  if (out.error == (selector & 0xfffc) && out.eip - code_base < 0x20) return big;
  return out.error == 0 ? small : '!';
}

static void loads(const char *name, void *code, const int *rings, int n_rings) {
  for (int r = 0; r < n_rings; r++) {
    for (u32 p = 0; p < 2; p++) {
      for (u32 dpl = 0; dpl < 4; dpl++) {
        print("%s ring %d %s dpl %d ", name, rings[r], p ? "present" : "absent", dpl);
        for (u32 type = 0; type < 32; type++) {
          if ((code == jmp_far || code == call_far) && (type == 1 || type == 3 || type == 4 || type == 5 || type == 9 || type == 11 || type == 12)) continue; /* tasks and gates */
          for (u32 rpl = 0; rpl < 4; rpl++) {
            if (type < 16 && rpl > 0) continue;
            /* An expand-down segment is open above its limit. */
            gdt[F0 >> 3] = descriptor(0, (type & 0x1c) == 0x14 ? 0 : 0xfffff, 0xc000 | p << 7 | dpl << 5 | type);
            prepare(rings[r], code);
            in.eax = F0 | rpl;
            in.ebx = (u32)far_target;
            probe_enter();
            char c = out.vector == LEAVE ? (gdt[F0 >> 3] >> 40 & 1 ? '.' : ',') : verdict(F0 | rpl);
            if (type >= 16 && out.vector != LEAVE && (gdt[F0 >> 3] >> 40 & 1) != (type & 1)) c = '!'; /* refused, yet marked */
            print("%c", c);
          }
          if (type == 15) print(" ");
        }
        print("\n");
      }
    }
  }
}

static void answers(const char *name, void *code, u32 size) {
  static const int rings[] = {0, 1, 3};
  for (u32 r = 0; r < 3; r++) {
    for (u32 p = 0; p < 2; p++) {
      for (u32 dpl = 0; dpl < 4; dpl++) {
        print("%s ring %d %s dpl %d ", name, rings[r], p ? "present" : "absent", dpl);
        for (u32 type = 0; type < 32; type++) {
          for (u32 rpl = 0; rpl < 4; rpl++) {
            u64 d = descriptor(0x12345678, 0x81234, 0xd000 | p << 7 | dpl << 5 | type);
            gdt[F0 >> 3] = d;
            prepare(rings[r], code);
            in.eax = F0 | rpl;
            u32 want = in.ecx;
            probe_enter();
            char c = out.vector != LEAVE ? verdict(F0 | rpl) : (out.edx & 0xff) ? '=' : '-';
            if (c == '=') {
              if (code == do_lar) want = (u32)(d >> 32) & 0x00ffff00;
              if (code == do_larw) want = (in.ecx & 0xffff0000) | ((u32)(d >> 32) & 0xff00);
              if (code == do_lsl) want = 0x81234fff;
              if (code == do_lslw) want = (in.ecx & 0xffff0000) | 0x4fff;
            }
            /* LAR leaves bits 16 to 19 of its result undefined (SDM vol. 2, LAR). */
            if (code == do_lar) { want &= ~0xf0000; out.ecx &= ~0xf0000; }
            if (size && c != '!' && out.ecx != want) c = '?';
            if (gdt[F0 >> 3] != d) c = '*';
            print("%c", c);
          }
          if (type == 15) print(" ");
        }
        print("\n");
      }
    }
  }
}

static const u16 odd_selectors[] = {0, 1, 2, 3, 4, 7, FREE + 8, 0xf8, 0xfb, 0x100, 0x103, 0xfffb, 0x3c, 0x3f, 0x44};

static void odd(const char *name, void *code) {
  for (int ring = 0; ring < 4; ring += 3) {
    print("%s ring %d odd selectors ", name, ring);
    for (u32 i = 0; i < sizeof odd_selectors / sizeof *odd_selectors; i++) {
      prepare(ring, code);
      in.eax = odd_selectors[i];
      in.ebx = (u32)far_target;
      probe_enter();
      print("%c", out.vector == LEAVE ? (code == do_lar || code == do_lsl || code == do_verr || code == do_verw ? ((out.edx & 0xff) ? '=' : '-') : '.') : verdict(odd_selectors[i]));
    }
    print("\n");
  }
}

void image_main(void) {
  static const int all[] = {0, 1, 2, 3}, some[] = {0, 3}, mid[] = {1};
  gdt[FREE / 8 + 1] = 0;
  gdt[31] = descriptor(0, 0xfffff, 0xc0f3);
  loads("mov ds", load_ds, all, 4);
  loads("mov es", load_es, some, 2);
  loads("mov fs", load_fs, some, 1);
  loads("mov gs", load_gs, mid, 1);
  loads("pop ds", pop_ds, some, 2);
  loads("lds", lds, some, 2);
  loads("mov ss", load_ss, all, 4);
  loads("pop ss", pop_ss, some, 2);
  loads("lss", lss, some, 2);
  loads("jmp far", jmp_far, all, 4);
  loads("call far", call_far, some, 2);
  answers("lar", do_lar, 1);
  answers("larw", do_larw, 1);
  answers("lsl", do_lsl, 1);
  answers("lslw", do_lslw, 1);
  answers("verr", do_verr, 0);
  answers("verw", do_verw, 0);
  static const struct { const char *name; void *code; } each[] = {{"mov ds", load_ds}, {"mov fs", load_fs}, {"mov ss", load_ss}, {"lss", lss}, {"jmp", jmp_far}, {"call", call_far}, {"lar", do_lar}, {"lsl", do_lsl}, {"verr", do_verr}, {"verw", do_verw}};
  for (u32 i = 0; i < sizeof each / sizeof *each; i++) odd(each[i].name, each[i].code);

  for (u32 a = 0; a < 4; a++) {
    for (u32 b = 0; b < 4; b++) {
      prepare(3, do_arpl);
      in.eax = 0x1230 | a; in.ecx = 0x4560 | b; in.edx = 0;
      run("arpl");
    }
  }
  /* LLDT and LTR: by type, at ring 0; #GP at ring 3. */
  for (u32 p = 0; p < 2; p++) {
    for (int which = 0; which < 2; which++) {
      print("%s %s ", which ? "ltr" : "lldt", p ? "present" : "absent");
      for (u32 type = 0; type < 32; type++) {
        gdt[F0 >> 3] = descriptor((u32)(which ? (void *)&tss : (void *)ldt), which ? sizeof tss - 1 : 0x3f, p << 7 | type);
        prepare(0, which ? do_ltr : do_lldt);
        in.eax = F0 | (type & 3);
        probe_enter();
        char c = out.vector == LEAVE ? '.' : verdict(F0);
        if (c == '.' && which && (gdt[F0 >> 3] >> 40 & 15) != (type | 2)) c = '?'; /* not marked busy */
        print("%c", c);
      }
      print("\n");
      gdt[TSS_SEL >> 3] &= ~(2ull << 40);
      __asm__ volatile("lldt %w0; ltr %w1" : : "r"(LDT_SEL), "r"(TSS_SEL));
    }
  }
  static const u16 system[] = {0, 3, 4, 0x54, 0x100, 0xfff8};
  for (u32 i = 0; i < 6; i++) {
    prepare(0, do_lldt); in.eax = system[i]; print("%x ", system[i]); run("lldt");
    prepare(0, do_ltr); in.eax = system[i]; print("%x ", system[i]); run("ltr");
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("lldt %w0; ltr %w1" : : "r"(LDT_SEL), "r"(TSS_SEL));
  }
  probe("lldt", 3, do_lldt);
  probe("ltr", 3, do_ltr);
  for (int ring = 0; ring < 4; ring++) probe("sldt str", ring, do_sldt);
  static u32 words[2];
  words[0] = words[1] = 0xffffffff;
  prepare(3, do_sldtm); in.ebx = (u32)words; probe_enter();
  print("sldt, str to memory %x %x\n", words[0], words[1]);

  /* From the LDT, and with LDTR null. */
  ldt[1] = descriptor(0, 0xfffff, 0xc0f2);
  ldt[7] = descriptor(0, 0xfffff, 0xc0f3);
  prepare(3, load_ds); in.eax = 0x0f; run("ds from the ldt");
  prepare(3, load_ds); in.eax = 0x3f; run("ds from its last entry");
  prepare(3, load_ds); in.eax = 0x47; run("ds beyond the ldt");
  gdt[F0 >> 3] = descriptor((u32)ldt, 0x3e, 0x82); /* the limit cuts the last entry */
  __asm__ volatile("lldt %w0" : : "r"(F0));
  prepare(3, load_ds); in.eax = 0x3f; run("ds from an entry cut by the limit");
  __asm__ volatile("lldt %w0" : : "r"(0));
  prepare(3, load_ds); in.eax = 0x0f; run("ds, ldtr null");
  prepare(3, do_verr); in.eax = 0x0f; in.edx = 0; run("verr, ldtr null");
  __asm__ volatile("lldt %w0" : : "r"(LDT_SEL));
  /* A GDT that ends in the middle of an entry. */
  struct { u16 limit; u32 base; } __attribute__((packed)) gdtr = {FREE + 6, (u32)gdt};
  gdt[F0 >> 3] = descriptor(0, 0xfffff, 0xc0f3);
  __asm__ volatile("lgdt %0" : : "m"(gdtr));
  prepare(3, load_ds); in.eax = F0; run("ds from an entry cut by the GDT's limit");
  gdtr.limit = FREE + 7;
  __asm__ volatile("lgdt %0" : : "m"(gdtr));
  prepare(3, load_ds); in.eax = F0; run("ds from the last entry of the GDT");
  gdtr.limit = sizeof gdt - 1;
  __asm__ volatile("lgdt %0" : : "m"(gdtr));
}
