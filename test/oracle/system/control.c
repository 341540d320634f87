/*
 * Control and debug registers, MSRs, IOPL and the I/O bitmap, single steps and breakpoints, flags
 * that only some rings may change, #NM, the instructions only ring 0 may use (SDM vol. 3 chapters 2,
 * 17, 19; vol. 2 of each instruction).
 */
#include "runtime.h"

extern char stubs[];

SNIP(get_cr0, "mov %cr0, %eax"); SNIP(get_cr2, "mov %cr2, %eax"); SNIP(get_cr3, "mov %cr3, %eax"); SNIP(get_cr4, "mov %cr4, %eax");
SNIP(set_cr0, "mov %eax, %cr0"); SNIP(set_cr2, "mov %eax, %cr2"); SNIP(set_cr3, "mov %eax, %cr3"); SNIP(set_cr4, "mov %eax, %cr4");
SNIP(cr0_back, "mov %cr0, %edx; mov %eax, %cr0; mov %cr0, %ecx; mov %edx, %cr0; xor %edx, %edx");
SNIP(cr4_back, "mov %cr4, %edx; mov %eax, %cr4; mov %cr4, %ecx; mov %edx, %cr4; xor %edx, %edx");
SNIP(get_cr1, ".byte 0x0f, 0x20, 0xc8"); SNIP(set_cr5, ".byte 0x0f, 0x22, 0xe8");
SNIP(cr0_mod, ".byte 0x0f, 0x20, 0x03"); /* mod is ignored: still a register */
SNIP(lmsw0, "lmsw %ax; smsw %ecx; mov $0, %eax; lmsw %ax; smsw %edx");
SNIP(smsw, "smsw %eax");
SNIP(smsww, "smsww %ax");
SNIP(smswm, "smsw (%ebx)");
SNIP(clts, "mov %cr0, %ecx; or $8, %ecx; mov %ecx, %cr0; clts; mov %cr0, %eax; xor %ecx, %ecx");
SNIP(clts_only, "clts"); SNIP(lmsw_only, "lmsw %ax");
SNIP(lgdt, "lgdt (%ebx)"); SNIP(lidt, "lidt (%ebx)"); SNIP(sgdt, "sgdt (%ebx)"); SNIP(sidt, "sidt (%ebx)");
SNIP(lgdtw, "lgdtw (%ebx)"); SNIP(sgdtw, "sgdtw (%ebx)");
SNIP(invlpg_, "invlpg (%ebx)"); SNIP(invlpg_reg, ".byte 0x0f, 0x01, 0xfb"); SNIP(wbinvd_, "wbinvd"); SNIP(invd_, "invd");
SNIP(hlt_, "hlt"); SNIP(cli_, "cli"); SNIP(sti_, "sti; nop");
SNIP(pushf_, "pushf; pop %eax"); SNIP(popf_, "push %eax; popf"); SNIP(popfw_, "pushw %ax; popfw");
SNIP(in8, "in $0x80, %al"); SNIP(out8, "out %al, $0x80"); SNIP(in16, "in $0x80, %ax"); SNIP(in32, "in $0x80, %eax"); SNIP(out32dx, "out %eax, %dx"); SNIP(out8dx, "out %al, %dx"); SNIP(out16dx, "out %ax, %dx");
SNIP(insb_, "insb"); SNIP(outsb_, "outsb"); SNIP(rep_outsb, "rep outsb");
SNIP(rdmsr_, "rdmsr"); SNIP(wrmsr_, "wrmsr"); SNIP(rdtsc_, "rdtsc; xor %eax, %eax; xor %edx, %edx"); SNIP(rdpmc_, "rdpmc");
SNIP(cpuid_, "xor %eax, %eax; cpuid; xor %eax, %eax; xor %ebx, %ebx; xor %ecx, %ecx; xor %edx, %edx");
SNIP(get_dr, "mov %dr0, %eax; mov %dr3, %ecx"); SNIP(get_dr7, "mov %dr7, %eax"); SNIP(get_dr6, "mov %dr6, %eax"); SNIP(get_dr4, ".byte 0x0f, 0x21, 0xe0"); SNIP(get_dr5, ".byte 0x0f, 0x21, 0xe8");
SNIP(dr_back, "mov %eax, %dr0; mov %dr0, %ecx; not %ecx; mov %ecx, %dr3; mov %dr3, %edx; xor %ebx, %ebx; mov %ebx, %dr0; mov %ebx, %dr3");
SNIP(dr6_back, "mov %eax, %dr6; mov %dr6, %ecx; xor %edx, %edx; mov %edx, %dr6; mov %dr6, %edx");
SNIP(dr7_back, "mov %eax, %dr7; mov %dr7, %ecx; mov $0x400, %edx; mov %edx, %dr7; xor %edx, %edx");
SNIP(fninit_, ".byte 0xdb, 0xe3"); SNIP(wait_, "fwait");
SNIP(ud0, ".byte 0x0f, 0xff, 0xc0"); SNIP(syscall_, ".byte 0x0f, 0x05"); SNIP(sysenter_, "sysenter"); SNIP(sysexit_, "sysexit"); SNIP(rsm_, "rsm");
SNIP(tf_nop, "nop; nop"); SNIP(tf_movss, "mov %eax, %ss; nop; nop"); SNIP(tf_popss, "push %eax; pop %ss; nop; nop"); SNIP(tf_int, "int $0x7e"); SNIP(tf_pushf, "pushf; pop %eax"); SNIP(tf_int3, "int3"); SNIP(tf_iret, "pushf; push %cs; push $tf_nop; iret"); SNIP(tf_cli, "cli; nop"); SNIP(tf_sti, "sti; nop; nop"); SNIP(tf_popf, "pushl $0x102; popf; nop; nop"); SNIP(tf_rep, "rep movsb"); SNIP(tf_ud, "ud2"); SNIP(icebp, ".byte 0xf1");
SNIP(movss_ud, "mov %eax, %ss; ud2"); SNIP(movss_int, "mov %eax, %ss; int $0x7e"); SNIP(tf_jmp, "jmp 1f; nop; 1: nop"); SNIP(tf_lds, "push %eax; push $0; lds (%esp), %ecx; nop");

static u8 area[64] __attribute__((aligned(16)));

static void with(const char *name, int ring, void *code, u32 eax) { prepare(ring, code); in.eax = eax; in.ebx = (u32)area; in.edx = 0x80; in.ecx = 2; in.esi = (u32)area; in.edi = (u32)area + 32; print("ring %d %x ", ring, eax); run(name); }

static void control_registers(void) {
  for (int ring = 0; ring < 4; ring++) {
    if (ring == 0) { probe("cr0", ring, get_cr0); probe("cr4", ring, get_cr4); probe("cr3", ring, get_cr3); }
    else { with("cr0", ring, get_cr0, 0); with("cr2", ring, get_cr2, 0); with("cr3", ring, get_cr3, 0); with("cr4", ring, get_cr4, 0); with("cr0", ring, set_cr0, 0x11); with("cr2", ring, set_cr2, 1); with("cr3", ring, set_cr3, 1); with("cr4", ring, set_cr4, 1); with("clts", ring, clts_only, 1); with("lmsw", ring, lmsw_only, 1); }
    with("cr1", ring, get_cr1, 0);
    with("cr5", ring, set_cr5, 0);
    with("smsw", ring, smsw, 0xffffffff);
    with("smsww", ring, smsww, 0xffffffff);
    area[0] = area[1] = area[2] = area[3] = 0xff;
    with("smsw memory", ring, smswm, 0);
    print("%x\n", *(u32 *)area);
  }
  with("cr0 mod 0", 0, cr0_mod, 0);
  /* CR0: what may be set, what is refused. PG without PE, NW without CD. ET stays 1. */
  static const u32 cr0s[] = {0x11, 0x1, 0x13, 0x15, 0x19, 0x31, 0x10011, 0x40011, 0x40000011, 0x60000011, 0x20000011, 0x5003f};
  for (u32 i = 0; i < sizeof cr0s / 4; i++) with("cr0 back", 0, cr0_back, cr0s[i]);
  static const u32 cr4s[] = {0, 4, 8, 0x10, 0x20, 0x80, 0x90, 0x30, 0x200, 0x600};
  for (u32 i = 0; i < sizeof cr4s / 4; i++) with("cr4 back", 0, cr4_back, cr4s[i]);
  with("cr2", 0, set_cr2, 0x12345678);
  probe("cr2 back", 0, get_cr2);
  with("cr3", 0, set_cr3, 0x00345018);
  probe("cr3 back", 0, get_cr3);
  write_cr3(0);
  with("clts", 0, clts, 0);
  for (u32 v = 0; v < 16; v++) { if (v == 0) continue; with("lmsw", 0, lmsw0, v); }
  write_cr0(0x11);
  /* #NM: TS or EM with x87, WAIT only with MP and TS. */
  static const u32 nm[] = {0x11, 0x13, 0x19, 0x1b, 0x15, 0x17, 0x1f};
  for (u32 i = 0; i < sizeof nm / 4; i++) {
    write_cr0(nm[i]);
    with("fninit", 3, fninit_, nm[i]);
    with("wait", 3, wait_, nm[i]);
  }
  write_cr0(0x11);
}

static void tables(void) {
  for (int ring = 0; ring < 4; ring += 3) {
    for (int i = 0; i < 16; i++) area[i] = 0xff;
    with("sgdt", ring, sgdt, 0);
    print("%x %d\n", *(u16 *)area, *(u32 *)(area + 2) == (u32)gdt);
    with("sidt", ring, sidt, 0);
    print("%x %d\n", *(u16 *)area, *(u32 *)(area + 2) == (u32)idt);
    with("sgdtw", ring, sgdtw, 0);
    print("%x %d\n", *(u16 *)area, *(u32 *)(area + 2) == (u32)gdt);
  }
  struct { u16 limit; u32 base; } __attribute__((packed)) *p = (void *)area;
  p->limit = sizeof gdt - 1; p->base = (u32)gdt;
  with("lgdt", 0, lgdt, 0);
  p->base |= 0x55000000; /* a 16-bit operand loads 24 bits of base */
  with("lgdtw", 0, lgdtw, 0);
  with("sgdt", 0, sgdt, 0);
  print("%x %d\n", p->limit, p->base == (u32)gdt);
  p->limit = 0x7ff; p->base = (u32)idt;
  with("lidt", 0, lidt, 0);
  for (int ring = 1; ring < 4; ring++) { with("lgdt", ring, lgdt, 0); with("lidt", ring, lidt, 0); }
  with("invlpg", 0, invlpg_, 0); with("invlpg register", 0, invlpg_reg, 0); with("wbinvd", 0, wbinvd_, 0);
  for (int ring = 1; ring < 4; ring += 2) { with("invlpg", ring, invlpg_, 0); with("invlpg register", ring, invlpg_reg, 0); with("wbinvd", ring, wbinvd_, 0); with("invd", ring, invd_, 0); with("hlt", ring, hlt_, 0); with("rsm", ring, rsm_, 0); with("sysexit", ring, sysexit_, 0); }
  with("sysenter, cs 0", 3, sysenter_, 0);
  with("ud0", 0, ud0, 0);
}

static void io_and_flags(void) {
  for (u32 iopl = 0; iopl < 4; iopl++) {
    for (int ring = 0; ring < 4; ring++) {
      static const struct { const char *name; void *code; u32 eax; } list[] = {
        {"cli", cli_, 0}, {"sti", sti_, 0}, {"in al", in8, 0}, {"pushf", pushf_, 0}, {"popf", popf_, 0x3ed7}, {"popf", popf_, 0x240202}, {"popfw", popfw_, 0x3ed7}, {"popfw", popfw_, 0},
      };
      for (u32 i = 0; i < sizeof list / sizeof *list; i++) {
        if (i == 2 && ring <= (int)iopl) continue; /* what a port answers is the machine's business */
        prepare(ring, list[i].code);
        in.eax = list[i].eax;
        in.eflags |= iopl << 12;
        print("iopl %d ring %d ", iopl, ring);
        run(list[i].name);
        prepare(ring, list[i].code);
        in.eax = list[i].eax;
        in.eflags |= iopl << 12 | 0x4200 * (list[i].code != (void *)sti_);
        print("iopl %d ring %d nt if ", iopl, ring);
        run(list[i].name);
      }
    }
  }
  /* The bitmap: a zero bit per byte of the port, all of them; it ends with the TSS. Port 0x80 swallows writes. */
  tss.iomap = (u32)tss.bitmap - (u32)&tss;
  static const struct { u8 index, bits; } maps[] = {{16, 0x00}, {16, 0x01}, {16, 0x02}, {16, 0x08}, {16, 0x10}, {16, 0xff}};
  for (u32 i = 0; i < sizeof maps / sizeof *maps; i++) {
    for (u32 b = 0; b < sizeof tss.bitmap; b++) tss.bitmap[b] = 0xff;
    tss.bitmap[maps[i].index] = maps[i].bits;
    static const u16 ports[] = {0x80, 0x81, 0x84, 0x87, 0x88};
    for (u32 q = 0; q < 5; q++) {
      void *const codes[] = {out8dx, out16dx, out32dx};
      for (u32 w = 0; w < 3; w++) {
        u32 port = ports[q];
        if (port == 0x88 && w > 0 && i != 5) continue;
        prepare(3, codes[w]);
        in.edx = port;
        print("map %x port %x size %d ", maps[i].bits, port, 1 << w);
        run("out");
      }
    }
  }
  tss.bitmap[16] = 0;
  prepare(3, rep_outsb); in.edx = 0x80; in.ecx = 3; in.esi = (u32)area; run("rep outsb");
  prepare(3, rep_outsb); in.edx = 0x90; in.ecx = 3; in.esi = (u32)area; run("rep outsb refused");
  prepare(3, insb_); in.edx = 0x90; in.edi = (u32)area; run("insb refused");
  prepare(3, outsb_); in.edx = 0x80; in.esi = (u32)area; run("outsb");
  tss.iomap = sizeof tss - 1; /* the byte after it is beyond the limit */
  prepare(3, out8dx); in.edx = 0; run("out, bitmap of one byte");
  tss.iomap = sizeof tss;
  prepare(3, out8dx); in.edx = 0x80; run("out, no bitmap");
  prepare(1, out8dx); in.edx = 0x80; in.eflags |= 0x1000; run("out, iopl 1 ring 1");
}

static void debug(void) {
  static const struct { const char *name; void *code; } list[] = {
    {"nop", tf_nop}, {"mov ss", tf_movss}, {"pop ss", tf_popss}, {"int", tf_int}, {"pushf", tf_pushf}, {"int3", tf_int3}, {"iret", tf_iret}, {"cli", tf_cli}, {"sti", tf_sti}, {"rep movsb", tf_rep}, {"ud2", tf_ud}, {"jmp", tf_jmp}, {"hlt", hlt_}, {"lds", tf_lds},
  };
  for (int ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < sizeof list / sizeof *list; i++) {
      if (ring == 0 && list[i].code == hlt_) continue;
      if (list[i].code == tf_sti) continue; /* whether STI holds a trap back differs between processors */
      prepare(ring, list[i].code);
      in.eflags |= 0x100;
      in.eax = ring ? DATA3 : DATA0;
      in.ecx = 3; in.esi = (u32)area; in.edi = (u32)area + 16;
      u32 zero = 0, dr6;
      __asm__ volatile("mov %0, %%dr6" : : "r"(zero));
      probe_enter();
      __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
      print("ring %d dr6 %x handler %x ", ring, dr6, handler_flags & 0x100);
      report(list[i].name);
    }
    with("popf", ring, tf_popf, 0);
    with("mov ss; ud2", ring, movss_ud, ring ? DATA3 : DATA0);
    with("mov ss; int", ring, movss_int, ring ? DATA3 : DATA0);
    with("icebp", ring, icebp, 0);
  }
  with("dr", 0, dr_back, 0x12345678);
  static const u32 dr6s[] = {0, 0xf, 0xffffffff, 0xe00f}, dr7s[] = {0, 0x400, 0xffff03ff & ~0x2000, 0xd500};
  for (u32 i = 0; i < 4; i++) with("dr6", 0, dr6_back, dr6s[i]);
  for (u32 i = 0; i < 4; i++) { if (dr7s[i] & 0xff) continue; with("dr7", 0, dr7_back, dr7s[i]); }
  with("dr4", 0, get_dr4, 0); with("dr5", 0, get_dr5, 0);
  write_cr4(8);
  with("dr4, de", 0, get_dr4, 0); with("dr5, de", 0, get_dr5, 0);
  write_cr4(0);
  for (int ring = 1; ring < 4; ring += 2) { with("dr", ring, get_dr, 0); with("dr7", ring, get_dr7, 0); with("dr6", ring, get_dr6, 0); }
}

static void msrs(void) {
  for (int ring = 1; ring < 4; ring += 2) {
    prepare(ring, rdmsr_); in.ecx = 0xc0000080; print("ring %d ", ring); run("rdmsr");
    prepare(ring, wrmsr_); in.ecx = 0xc0000080; print("ring %d ", ring); run("wrmsr");
    prepare(ring, rdpmc_); in.ecx = 0; print("ring %d ", ring); run("rdpmc");
  }
  for (int ring = 0; ring < 4; ring += 3) { probe("rdtsc", ring, rdtsc_); probe("cpuid", ring, cpuid_); }
  write_cr4(4); /* TSD */
  for (int ring = 0; ring < 4; ring++) probe("rdtsc, tsd", ring, rdtsc_);
  write_cr4(0);
  prepare(0, wrmsr_); in.ecx = 0x174; in.eax = 0x1234; in.edx = 0; run("wrmsr sysenter_cs");
  prepare(0, rdmsr_); in.ecx = 0x174; run("rdmsr sysenter_cs");
  prepare(0, wrmsr_); in.ecx = 0x175; in.eax = 0x12345678; in.edx = 0; run("wrmsr sysenter_esp");
  prepare(0, rdmsr_); in.ecx = 0x175; run("rdmsr sysenter_esp");
  prepare(0, wrmsr_); in.ecx = 0x174; in.eax = 0; in.edx = 0; run("wrmsr sysenter_cs");
}

void image_main(void) {
  control_registers();
  tables();
  io_and_flags();
  debug();
  msrs();
}
