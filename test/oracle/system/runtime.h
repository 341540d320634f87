/* What the bare-metal images share: descriptors, probes and printing. See ../README.md. */
#ifndef RUNTIME_H
#define RUNTIME_H
#include <stdint.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* The state a probe starts in and the state in which it was interrupted; entry.S knows the offsets. */
struct state {
  u32 gs, fs, es, ds, edi, esi, ebp, ebx, edx, ecx, eax, reserved, eip, cs, eflags, esp, ss;
  u32 vector, error, cr2;
  u32 handler_cs, handler_ss, handler_sp;
};
extern struct state in, out;

/* Flat segments of each ring, then room for descriptors under test. */
enum { CODE0 = 0x08, DATA0 = 0x10, CODE1 = 0x19, DATA1 = 0x21, CODE2 = 0x2a, DATA2 = 0x32, CODE3 = 0x3b, DATA3 = 0x43, TSS_SEL = 0x48, LDT_SEL = 0x50, FREE = 0x58 };
enum { GDT_ENTRIES = 32, LDT_ENTRIES = 8, LEAVE = 0x7e };
extern u64 gdt[GDT_ENTRIES], ldt[LDT_ENTRIES], idt[256];
struct tss { u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt; u16 trap, iomap; u8 bitmap[8 + 32]; };
extern struct tss tss;

u64 descriptor(u32 base, u32 limit, u32 access); /* access: bits 40..47 and 52..55 of the descriptor as 0xF0FF */
u64 gate(u32 selector, u32 offset, u32 access, u32 params);
void set_idt(int vector, u32 selector, void *handler, u32 access);
void default_idt(void);

void print(const char *format, ...); /* %s %x %d %c */

/* Code to be run as a probe; it ends by itself or in the INT that leaves. */
#define SNIP(name, code) __asm__(".text\n.globl " #name "\n" #name ":\n" code "\n\tint $0x7e\n"); extern char name[]
/* A piece of code that is a target. */
#define TARGET(name) SNIP(name, "")

void prepare(int ring, void *code); /* fills `in` with the ring's defaults */
void probe_enter(void);
void probe(const char *name, int ring, void *code); /* prepare, enter, report */
void run(const char *name);                         /* enter with `in` as it is, report */
void report(const char *name);
extern u32 handler_flags; /* eflags on entry to the handler */
extern u32 cr2_mask;      /* faults of the processor's own accesses: which byte of an entry or a frame is named differs between processors */
extern u32 code_base;   /* eip is reported relative to it */
extern u8 user_stack[4][4096];

void image_main(void);
void finish(void) __attribute__((noreturn));

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline u32 read_cr0(void) { u32 v; __asm__ volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline void write_cr0(u32 v) { __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
static inline u32 read_cr2(void) { u32 v; __asm__ volatile("mov %%cr2, %0" : "=r"(v)); return v; }
static inline u32 read_cr3(void) { u32 v; __asm__ volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline void write_cr3(u32 v) { __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline u32 read_cr4(void) { u32 v; __asm__ volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void write_cr4(u32 v) { __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static inline void invlpg(u32 at) { __asm__ volatile("invlpg (%0)" : : "r"(at) : "memory"); }
#endif
