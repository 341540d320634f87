/*
 * Hardware tasks: JMP, CALL, INT, exceptions and IRET through task-state segments and task gates, what
 * is saved and loaded, and every refusal (SDM vol. 3 chapter 7). And SYSENTER, SYSEXIT (vol. 2).
 *
 * After each line of a probe a second one tells of the tasks: TR, whether the two descriptors are busy,
 * the new task's link, what the old task's segment has saved, CR0.TS.
 */
#include "runtime.h"

enum { NEW = FREE, GATE = FREE + 8, BAD = FREE + 16, FAULTS = FREE + 24, TS = 8 };
static struct tss other;
static u8 task_stack[1024] __attribute__((aligned(16)));
extern char stubs[], entry_stack_top[];
#define STUB(v) (stubs + 16 * (v))

SNIP(jmp_task, "ljmp $0x58, $0x1111");
SNIP(call_task, "lcall $0x58, $0x1111; inc %ebp");
SNIP(jmp_gate, "ljmp $0x60, $0x1111");
SNIP(call_gate, "lcall $0x60, $0x1111; inc %ebp");
SNIP(call_gate3, "lcall $0x63, $0x1111; inc %ebp");
SNIP(call_ldt, "lcall $0x0c, $0x1111");
SNIP(jmp_self, "ljmp $0x48, $0");
SNIP(int40, "int $0x40; inc %ebp");
SNIP(ud2, "ud2");
SNIP(badload, "mov $0xfff8, %eax; mov %eax, %ds");
SNIP(do_iret, "iret; inc %esi");
SNIP(sysenter_, "sysenter"); SNIP(sysexit_, "sysexit");
SNIP(target, "");

static void reset(void) {
  write_cr0(read_cr0() & ~TS);
  gdt[TSS_SEL >> 3] = descriptor((u32)&tss, sizeof tss - 1, 0x89);
  gdt[NEW >> 3] = descriptor((u32)&other, 103, 0x89);
  gdt[GATE >> 3] = gate(NEW, 0, 0x85, 0);
  __asm__ volatile("ltr %w0; lldt %w1" : : "r"(TSS_SEL), "r"(LDT_SEL));
  tss.link = 0;
  other = (struct tss){.eip = (u32)target, .cs = CODE0, .ss = DATA0, .ds = DATA0, .es = DATA0, .fs = DATA3, .gs = 0, .eflags = 0xcd7, .esp = (u32)task_stack + 512,
    .eax = 0xbbbb0001, .ecx = 0xbbbb0002, .edx = 0xbbbb0003, .ebx = 0xbbbb0004, .ebp = 0xbbbb0005, .esi = 0xbbbb0006, .edi = 0xbbbb0007,
    .esp0 = (u32)entry_stack_top, .ss0 = DATA0, .ldt = LDT_SEL, .iomap = 104};
}

static void tell(const char *name) {
  u16 tr;
  __asm__ volatile("str %0" : "=r"(tr));
  if (out.eip - (u32)target < 16) code_base = (u32)target;
  if (out.esp - (u32)task_stack < sizeof task_stack) { print("[task stack %x] ", out.esp - (u32)task_stack); out.esp = in.esp; }
  report(name);
  print("  tr=%x busy %d %d link=%x saved cs=%x +%x eflags=%x ts %d\n", tr, (u32)(gdt[TSS_SEL >> 3] >> 41) & 1, (u32)(gdt[NEW >> 3] >> 41) & 1, other.link, tss.cs & 0xffff, tss.eip - (in.eip), tss.eflags & ~0x10000, read_cr0() >> 3 & 1);
  reset();
}
static void task(const char *name, int ring, void *code) {
  prepare(ring, code);
  tss.eip = in.eip; tss.cs = 0; tss.eflags = 0;
  probe_enter();
  tell(name);
}

static void switches(void) {
  for (int ring = 0; ring < 4; ring += 3) {
    for (u32 dpl = 0; dpl < 4; dpl += 3) {
      print("ring %d dpl %d ", ring, dpl);
      gdt[NEW >> 3] |= (u64)dpl << 45;
      task("jmp", ring, jmp_task);
      gdt[NEW >> 3] |= (u64)dpl << 45;
      print("ring %d dpl %d ", ring, dpl);
      task("call", ring, call_task);
      gdt[GATE >> 3] |= (u64)dpl << 45;
      print("ring %d dpl %d ", ring, dpl);
      task("jmp gate", ring, jmp_gate);
      gdt[GATE >> 3] |= (u64)dpl << 45;
      print("ring %d dpl %d ", ring, dpl);
      task("call gate", ring, call_gate);
      gdt[GATE >> 3] |= (u64)dpl << 45;
      print("ring %d dpl %d ", ring, dpl);
      task("call gate rpl 3", ring, call_gate3);
      print("ring %d dpl %d ", ring, dpl);
      idt[0x40] = gate(NEW, 0, 0x85 | dpl << 5, 0);
      task("int", ring, int40);
      default_idt();
    }
    /* There and back. */
    gdt[NEW >> 3] |= 3ull << 45;
    other.eip = (u32)do_iret;
    print("ring %d ", ring);
    task("call and iret", ring, call_task);
    idt[0x40] = gate(NEW, 0, 0xe5, 0);
    other.eip = (u32)do_iret;
    print("ring %d ", ring);
    task("int and iret", ring, int40);
    default_idt();
    /* Exceptions through task gates: no error code, and one. */
    idt[6] = gate(NEW, 0, 0x85, 0);
    print("ring %d ", ring);
    task("ud2", ring, ud2);
    idt[13] = gate(NEW, 0, 0x85, 0);
    print("ring %d ", ring);
    task("bad load", ring, badload);
    print("error code %x\n", *(u32 *)(task_stack + 508));
    idt[13] = gate(NEW, 0, 0x85, 0);
    other.cs = CODE3; other.ss = DATA3; other.ds = other.es = DATA3;
    print("ring %d ", ring);
    task("bad load, to ring 3", ring, badload);
    default_idt();
  }
  static const u16 cs[] = {CODE1, CODE2, CODE3}, ss[] = {DATA1, DATA2, DATA3};
  for (u32 i = 0; i < 3; i++) {
    other.cs = cs[i]; other.ss = ss[i]; other.ds = other.es = DATA3;
    print("to ring %d ", i + 1);
    task("jmp", 0, jmp_task);
  }
  other.trap = 1;
  task("jmp, debug trap", 0, jmp_task);
  u32 dr6, zero = 0;
  __asm__ volatile("mov %%dr6, %0; mov %1, %%dr6" : "=r"(dr6) : "r"(zero));
  print("dr6 %x\n", dr6);
  other.eflags = 0x102;
  task("jmp, single step", 0, jmp_task);
  task("jmp to itself", 0, jmp_self);
  gdt[GATE >> 3] = gate(TSS_SEL, 0, 0x85, 0);
  task("gate to itself", 0, jmp_gate);
  ldt[1] = gate(NEW, 0, 0x85, 0);
  task("gate in the ldt", 0, call_ldt);
  ldt[1] = descriptor((u32)&other, 103, 0x89);
  task("tss in the ldt", 0, call_ldt);
  gdt[NEW >> 3] &= ~(1ull << 47);
  task("tss absent", 0, jmp_task);
  gdt[GATE >> 3] &= ~(1ull << 47);
  task("gate absent", 0, jmp_gate);
  gdt[NEW >> 3] = descriptor((u32)&other, 102, 0x89);
  task("tss too short", 0, jmp_task);
  gdt[NEW >> 3] |= 2ull << 40;
  task("tss busy", 0, jmp_task);
  static const u16 odd[] = {0, 0x100, 0x0c, DATA0, LDT_SEL, GATE};
  for (u32 i = 0; i < sizeof odd / 2; i++) {
    gdt[GATE >> 3] = gate(odd[i], 0, 0x85, 0);
    print("gate to %x ", odd[i]);
    task("jmp", 0, jmp_gate);
  }
  /* IRET with NT, by hand. */
  gdt[NEW >> 3] |= 2ull << 40;
  tss.link = NEW;
  prepare(0, do_iret); in.eflags |= 0x4000;
  tss.eip = in.eip;
  probe_enter(); tell("iret to a busy task");
  tss.link = 0x100;
  prepare(0, do_iret); in.eflags |= 0x4000;
  tss.eip = in.eip;
  probe_enter(); tell("iret, link beyond the gdt");
}

/* Tasks that take faults, so that a broken stack does not matter: by vector, each with its stack. */
static const u8 vectors[] = {8, 10, 11, 12, 13};
static struct tss takers[5];
static u8 taker_stacks[5][256] __attribute__((aligned(16)));
static void take_faults(void) {
  for (u32 i = 0; i < 5; i++) {
    takers[i] = (struct tss){.eip = (u32)target, .cs = CODE0, .ss = DATA0, .ds = DATA0, .es = DATA0, .eflags = 2, .esp = (u32)taker_stacks[i] + 200, .esp0 = (u32)entry_stack_top, .ss0 = DATA0, .iomap = 104};
    *(u32 *)(taker_stacks[i] + 196) = 0x55555555;
    gdt[(FAULTS >> 3) + i] = descriptor((u32)&takers[i], 103, 0x89);
    idt[vectors[i]] = gate(FAULTS + 8 * i, 0, 0x85, 0);
  }
}
static void taken(void) {
  u16 tr;
  __asm__ volatile("str %0" : "=r"(tr));
  if (tr == NEW) { print("ok\n"); return; }
  if (tr == TSS_SEL) { print("in the old task: "); report(""); return; }
  u32 i = (tr - FAULTS) >> 3;
  print("#%d(%x) link %x", vectors[i], *(u32 *)(taker_stacks[i] + 196), takers[i].link & 0xffff);
}

/* Faults of what the new task's segment holds are faults of the new task. */
static void bad_states(void) {
  static const struct { const char *name; u32 access; } kinds[] = {{"absent data", 0xc012}, {"absent code", 0xc01a}, {"absent stack dpl3", 0xc072}, {"read-only", 0xc090}, {"code", 0xc09a}, {"execute-only", 0xc098}, {"conforming", 0xc09e}, {"data", 0xc092}, {"data dpl3", 0xc0f2}, {"ldt", 0x82}, {"absent ldt", 2}, {"empty", 0}};
  static const char *const fields[] = {"cs", "ss", "ds", "es", "fs", "gs", "ldt"};
  for (u32 f = 0; f < 7; f++) {
    for (u32 k = 0; k < sizeof kinds / sizeof *kinds + 3; k++) {
      u32 *const slots[] = {&other.cs, &other.ss, &other.ds, &other.es, &other.fs, &other.gs, &other.ldt};
      static const u16 odd[] = {0, 0x100, 0x54};
      u32 n = sizeof kinds / sizeof *kinds;
      if (k < n) gdt[BAD >> 3] = descriptor((u32)ldt * (kinds[k].access < 0x100), kinds[k].access < 0x100 ? 0x3f : 0xfffff, kinds[k].access);
      *slots[f] = k < n ? BAD : odd[k - n];
      if (k < n) print("%s %s ", fields[f], kinds[k].name);
      else print("%s selector %x ", fields[f], odd[k - n]);
      take_faults();
      prepare(0, jmp_task);
      probe_enter();
      u16 tr;
      __asm__ volatile("str %0" : "=r"(tr));
      taken();
      if (tr != NEW && tr != TSS_SEL) print(" at +%x cs=%x old task at +%x\n", other.eip - (u32)target, other.cs & 0xffff, tss.eip - in.eip);
      default_idt();
      reset();
    }
  }
}

/* A double fault has a task of its own when the stack is gone. */
static void double_fault(void) {
  static const u16 stacks[] = {0, DATA3, CODE0, 0xfff8};
  for (u32 i = 0; i < 4; i++) {
    take_faults();
    for (u32 v = 1; v < 5; v++) set_idt(vectors[v], CODE0, STUB(vectors[v]), 0x8e);
    tss.ss0 = stacks[i];
    prepare(3, ud2);
    tss.eip = in.eip; tss.cs = 0;
    probe_enter();
    tss.ss0 = DATA0;
    print("ring 0 stack %x: ", stacks[i]);
    taken();
    print(" saved +%x cs=%x\n", tss.eip - in.eip, tss.cs & 0xffff);
    default_idt();
    reset();
  }
}

static void wrmsr(u32 msr, u32 value) { __asm__ volatile("wrmsr" : : "c"(msr), "a"(value), "d"(0)); }
static void fast_calls(void) {
  wrmsr(0x174, CODE0); wrmsr(0x175, (u32)task_stack + 512); wrmsr(0x176, (u32)target);
  for (int ring = 0; ring < 4; ring += 3) {
    prepare(ring, sysenter_);
    in.eflags = 0xed7;
    probe_enter();
    code_base = (u32)target;
    if (out.esp - (u32)task_stack < sizeof task_stack) { print("[task stack %x] ", out.esp - (u32)task_stack); out.esp = in.esp; }
    report("sysenter");
  }
  for (int ring = 0; ring < 4; ring++) {
    prepare(ring, sysexit_);
    in.ecx = (u32)user_stack[3] + 0xf00; in.edx = (u32)target;
    probe_enter();
    if (out.eip - (u32)target < 16) code_base = (u32)target;
    if (ring == 0 && out.esp == in.ecx) out.esp = in.esp;
    /* CS and SS are the ones after the MSR's: 18 and 20, with RPL 3. */
    print("ring %d ", ring);
    report("sysexit");
  }
  wrmsr(0x174, 0);
  probe("sysenter, msr 0", 3, sysenter_);
  probe("sysexit, msr 0", 0, sysexit_);
  wrmsr(0x174, 3);
  probe("sysenter, msr 3", 3, sysenter_);
  wrmsr(0x174, 0);
}

void image_main(void) {
  reset();
  switches();
  bad_states();
  double_fault();
  fast_calls();
}
