/*
 * Hardware breakpoints: DR0 to DR3 armed by DR7, on instructions and on data; DR6; RF in the flags that
 * handlers see and in those that IRET loads (SDM vol. 3, 18.2 and 18.3.1).
 */
#include "runtime.h"

static u8 area[64] __attribute__((aligned(16)));

static void write_dr6(u32 v) { __asm__ volatile("mov %0, %%dr6" : : "r"(v)); }
static u32 read_dr6(void) { u32 v; __asm__ volatile("mov %%dr6, %0" : "=r"(v)); return v; }
static void write_dr7(u32 v) { __asm__ volatile("mov %0, %%dr7" : : "r"(v)); }
static void write_dr(int n, u32 v) {
  if (n == 0) __asm__ volatile("mov %0, %%dr0" : : "r"(v));
  if (n == 1) __asm__ volatile("mov %0, %%dr1" : : "r"(v));
  if (n == 2) __asm__ volatile("mov %0, %%dr2" : : "r"(v));
  if (n == 3) __asm__ volatile("mov %0, %%dr3" : : "r"(v));
}

SNIP(nops, "nop; nop; nop");
SNIP(store8, "movb %al, (%ebx); nop"); SNIP(store16, "movw %ax, (%ebx); nop"); SNIP(store32, "movl %eax, (%ebx); nop");
SNIP(load8, "movb (%ebx), %al; nop"); SNIP(load32, "movl (%ebx), %eax; nop");
SNIP(modify, "incl (%ebx); nop"); SNIP(exchange, "xchg %eax, (%ebx); nop"); SNIP(compare, "cmpl %eax, (%ebx); nop");
SNIP(cx8, "cmpxchg8b (%ebx); nop");
SNIP(push_, "mov %ebx, %esp; push %eax; nop"); SNIP(pop_, "mov %ebx, %esp; pop %eax; nop"); SNIP(call_, "mov %ebx, %esp; call 1f; nop; 1: nop");
SNIP(enter_, "lea 8(%ebx), %esp; enter $16, $0; nop"); SNIP(pusha_, "lea 8(%ebx), %esp; pusha; nop"); SNIP(popa_, "mov %ebx, %esp; popa; nop");
SNIP(movs_, "rep movsb; nop"); SNIP(stos_, "rep stosl; nop"); SNIP(lods_, "lodsl; nop"); SNIP(scas_, "repne scasb; nop");
SNIP(ss_load, "mov (%ebx), %ss; nop; nop");
SNIP(jump, "jmp 1f; nop; 1: nop"); SNIP(self, "dec %ecx; jnz self; nop"); SNIP(ud, "nop; ud2"); SNIP(div0, "xor %ecx, %ecx; div %ecx"); SNIP(int3_, "int3"); SNIP(into_, "mov $0x7f, %al; add $1, %al; into");
SNIP(gp, "mov $0xfff8, %eax; mov %eax, %fs");
SNIP(ss_stop, "mov %eax, %ss; nop; nop");
SNIP(iret_rf, "pushf; orl $0x10000, (%esp); push %cs; push $nops; iret");
SNIP(popf_rf, "pushf; orl $0x10000, (%esp); popf; nop; nop");
SNIP(pushf_rf, "pushf; pop %eax; and $0x10000, %eax");

static u32 rf; /* of the flags that the probe starts with */
static u32 scratch; /* where %esi points; area is at %ebx and %edi */

static void armed(const char *name, int ring, void *code, u32 dr7, const u32 dr[4]) {
  prepare(ring, code);
  in.eax = 0x10; in.ebx = (u32)area + 16; in.edi = (u32)area + 16; in.esi = (u32)&scratch; in.ecx = 4; in.edx = 0;
  if (ring == 3) in.eax = 0x43;
  *(u32 *)(area + 16) = in.eax;
  in.eflags |= rf;
  for (int i = 0; i < 4; i++) write_dr(i, dr[i]);
  write_dr6(0);
  write_dr7(dr7);
  probe_enter();
  u32 dr6 = read_dr6();
  write_dr7(0x400);
  /* Stacks that were moved into the area are told by distance. */
  if (out.esp - (u32)area < sizeof area) { print("esp=area+%x ", out.esp - (u32)area); out.esp = in.esp; out.ss = in.ss ? in.ss : DATA0; }
  if (out.edi != in.edi) { print("edi+%x ", out.edi - in.edi); out.edi = in.edi; }
  if (out.esi != in.esi) { print("esi+%x ", out.esi - in.esi); out.esi = in.esi; }
  if (out.eax == in.esp) out.eax = in.eax;
  print("dr6=%x rf=%d ", dr6 & 0xe00f, out.vector != LEAVE && (out.eflags >> 16 & 1));
  report(name);
}

static void one(const char *name, int ring, void *code, u32 at, u32 fields) {
  const u32 dr[4] = {at, 0, 0, 0};
  print("%x ", fields);
  armed(name, ring, code, 0x401 | fields << 16, dr);
}

static void instructions(void) {
  for (int ring = 0; ring < 4; ring += 3) {
    for (u32 at = 0; at < 4; at++) one("nops", ring, nops, (u32)nops + at, 0);
    rf = 0x10000;
    for (u32 at = 0; at < 3; at++) one("nops, rf", ring, nops, (u32)nops + at, 0);
    one("repeated, rf", ring, movs_, (u32)movs_, 0);
    one("ud, rf", ring, ud, (u32)ud, 0);
    one("pushf, rf", ring, pushf_rf, (u32)pushf_rf, 0);
    one("loop, rf", ring, self, (u32)self, 0);
    rf = 0;
    one("repeated", ring, movs_, (u32)movs_, 0);
    one("after repeated", ring, movs_, (u32)movs_ + 2, 0);
    one("jumped over", ring, jump, (u32)jump + 2, 0);
    one("jumped to", ring, jump, (u32)jump + 3, 0);
    one("middle of an instruction", ring, jump, (u32)jump + 1, 0);
    one("loop", ring, self, (u32)self + 1, 0);
    one("resume", ring, iret_rf, (u32)nops, 0);
    one("resume, next", ring, iret_rf, (u32)nops + 1, 0);
    one("popf", ring, popf_rf, (u32)popf_rf + 9, 0);
    one("ud", ring, ud, (u32)ud + 1, 0);
    one("after mov ss", ring, ss_stop, (u32)ss_stop + 2, 0);
    one("second after mov ss", ring, ss_stop, (u32)ss_stop + 3, 0);
    const u32 both[4] = {(u32)nops + 1, (u32)nops + 1, (u32)nops, (u32)nops + 2};
    armed("two on one", ring, nops, 0x405, both);
    armed("third alone", ring, nops, 0x420, both);
    armed("fourth, global", ring, nops, 0x480, both);
    armed("none", ring, nops, 0x400, both);
    one("faults: #UD", ring, ud, 0, 0); one("#DE", ring, div0, 0, 0); one("#BP", ring, int3_, 0, 0); one("#OF", ring, into_, 0, 0); one("#GP", ring, gp, 0, 0);
  }
}

static void data(void) {
  static const struct { const char *name; void *code; } list[] = {
    {"store8", store8}, {"store16", store16}, {"store32", store32}, {"load8", load8}, {"load32", load32}, {"modify", modify}, {"exchange", exchange}, {"compare", compare}, {"cmpxchg8b", cx8},
    {"rep movsb", movs_}, {"rep stosl", stos_}, {"lodsl", lods_}, {"repne scasb", scas_},
    /* With their stack in the area: not in ring 0, whose handlers would use it too, at which QEMU 7.2 stops. */
    {"push", push_}, {"pop", pop_}, {"call", call_}, {"enter", enter_}, {"pusha", pusha_}, {"popa", popa_},
  };
  static const u32 fields[] = {1, 3, 5, 7, 13, 15};
  for (int ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < sizeof list / sizeof *list - (ring == 0 ? 6 : 0); i++)
      for (u32 f = 0; f < sizeof fields / 4; f++)
        for (u32 at = 8; at < 24; at += f < 2 ? 1 : 4) { print("ring %d at %x ", ring, at); one(list[i].name, ring, list[i].code, (u32)area + at, fields[f]); }
  }
  one("mov ss from there", 0, ss_load, (u32)area + 16, 3);
  const u32 dr[4] = {(u32)area + 16, (u32)area + 18, (u32)area + 17, (u32)store32 + 2};
  armed("store32, three", 0, store32, 0x415 | 0x0131 << 16, dr);
  rf = 0x100;
  armed("store32, single step", 0, store32, 0x401 | 1 << 16, dr);
  armed("nothing, single step", 0, nops, 0x401 | 1 << 16, dr);
  rf = 0;
}

void image_main(void) {
  instructions();
  data();
  finish();
}
