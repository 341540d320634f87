/*
 * What the parts of this guest know of each other, in the order in which a
 * reader meets them: hypercalls, console, traps, memory, events, time, xenstore,
 * steps.
 *
 * The guest is one vCPU and has no locks: what an upcall may touch is either a
 * single word or used with events masked.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "xen.h"

#define NORETURN __attribute__((noreturn))
#define PAGE_SIZE 4096u
#define VIRT_BASE 0xc0000000u
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline void barrier(void) { __asm__ volatile("" : : : "memory"); }
static inline u64 rdtsc(void) { u64 t; __asm__ volatile("rdtsc" : "=A"(t) : : "memory"); return t; }

/* ---- words (words.c) ---- */
void *memcpy(void *to, const void *from, u32 n);
void *memset(void *to, int value, u32 n);
int memcmp(const void *a, const void *b, u32 n);
u32 strlen(const char *s);
int strcmp(const char *a, const char *b);
const char *strstr(const char *text, const char *part);
u32 parse_number(const char *s);             /* decimal, or hexadecimal after 0x */
char *format_decimal(char *to, u32 value);   /* returns the end */
void clear_page(void *page);

/* ---- hypercalls ---- */
extern u8 hypercall_page[];

/* Xen's debug builds overwrite the argument registers, so all of them are outputs. */
static inline s32 hypercall(u32 number, u32 a, u32 b, u32 c, u32 d, u32 e)
{
    u32 entry = (u32)hypercall_page + number * 32, result;
    __asm__ volatile("call *%%eax"
                     : "=a"(result), "+b"(a), "+c"(b), "+d"(c), "+S"(d), "+D"(e)
                     : "0"(entry)
                     : "memory", "cc");
    return (s32)result;
}
#define hypercall0(nr) hypercall(nr, 0, 0, 0, 0, 0)
#define hypercall1(nr, a) hypercall(nr, (u32)(a), 0, 0, 0, 0)
#define hypercall2(nr, a, b) hypercall(nr, (u32)(a), (u32)(b), 0, 0, 0)
#define hypercall3(nr, a, b, c) hypercall(nr, (u32)(a), (u32)(b), (u32)(c), 0, 0)
#define hypercall4(nr, a, b, c, d) hypercall(nr, (u32)(a), (u32)(b), (u32)(c), (u32)(d), 0)

/* ---- start of day (main.c) ---- */
extern struct start_info *start_info;
extern struct shared_info *shared;           /* our vcpu_info stays in the shared page */
static inline struct vcpu_info *vcpu(void) { return &shared->vcpu_info[0]; }
const char *option(const char *name);        /* the value of a command-line word, 0 if absent */
void shutdown(u32 reason) NORETURN;

/* ---- console (console.c) ---- */
void console_ring_init(void);
int console_has_ring(void);
void console_push(void);                     /* send an unfinished line */
void console_flush(void);                    /* wait until the other side has read everything */
int console_read_line(char *line, u32 size); /* blocks; returns the length */
/* %s %c %d %u %x (8 digits: %08x), %q (a u64 in hexadecimal, 16 digits). */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_u64(const char *before, u64 value, const char *after);
void fail(const char *format, ...) NORETURN __attribute__((format(printf, 1, 2)));

/* Every claim of a step is one of these two; a false one ends the run. */
#define CHECK(cond) do { if (!(cond)) fail("%s (%s)", #cond, __func__); } while (0)
#define CHECK_RC(call, want) do { \
        s32 rc_ = (call), want_ = (want); \
        if (rc_ != want_) fail("%s gave %d, not %d (%s)", #call, rc_, want_, __func__); } while (0)

/* ---- traps (traps.c) ---- */
struct trap_frame {
    u32 edi, esi, ebp, esp_unused, ebx, edx, ecx, eax;
    u32 ds, es;
    u32 vector, error;
    u32 eip;
    u32 cs; /* low half; the high half is the saved upcall mask */
    u32 eflags;
    u32 esp, ss; /* only from ring 3 */
};
enum { VEC_DE = 0, VEC_DB, VEC_NMI, VEC_BP, VEC_OF, VEC_BR, VEC_UD, VEC_NM, VEC_NP = 11, VEC_SS, VEC_GP, VEC_PF };
enum { VEC_SYSCALL = 0x80, VEC_EVENT = 0x100 };
#define NO_VECTOR 0xffffffffu

/* The last exception taken by the kernel itself. */
struct fault_record { u32 vector, error, eip, cr2; };
extern struct fault_record last_fault;
extern u32 debug_traps, breakpoint_traps;
void traps_init(void);
void traps_forget(void); /* take the whole trap table away: the next fault is fatal */
static inline int user_frame(const struct trap_frame *f) { return (f->cs & 3) == 3; }

/*
 * An instruction that may fault: on a fault execution goes on behind it, and
 * last_fault tells.  `insn` uses the operands given after it.
 */
#define TRY(insn, ...) do { \
        last_fault.vector = NO_VECTOR; \
        __asm__ volatile("1: " insn "\n2:\n" \
                         ".pushsection .ex_table, \"a\"\n\t.balign 4\n\t.long 1b, 2b\n\t.popsection" \
                         __VA_ARGS__); } while (0)
u32 try_read(const volatile void *address, u32 *value);  /* returns the vector or NO_VECTOR */
u32 try_write(volatile void *address, u32 value);

/* Ring 3 (head.S, step-user.c). */
int enter_user(u32 eip, u32 esp, int native_iret);
void leave_user(u32 value) NORETURN;
void set_kernel_stack(u32 esp);
int user_trap(struct trap_frame *frame);     /* true if it was handled */

/* ---- memory (memory.c, tables.c) ---- */
#if PAE
typedef u64 pte_t;
#define PTES 512u
#define L2_SHIFT 21
#define ROOT_LEVEL 3
#define PIN_ROOT MMUEXT_PIN_L3_TABLE
#else
typedef u32 pte_t;
#define PTES 1024u
#define L2_SHIFT 22
#define ROOT_LEVEL 2
#define PIN_ROOT MMUEXT_PIN_L2_TABLE
#endif
#define L2_INDEX(va) (((u32)(va) >> L2_SHIFT) & (PTES - 1))
#define L1_INDEX(va) (((u32)(va) >> 12) & (PTES - 1))
enum { PTE_PRESENT = 1, PTE_RW = 2, PTE_USER = 4, PTE_ACCESSED = 0x20, PTE_DIRTY = 0x40 };
#define KERNEL_RW (PTE_PRESENT | PTE_RW | PTE_ACCESSED | PTE_DIRTY)
#define KERNEL_RO (PTE_PRESENT | PTE_ACCESSED | PTE_DIRTY)
#define USER_RW (KERNEL_RW | PTE_USER)
#define USER_RO (KERNEL_RO | PTE_USER)
#define TABLE_FLAGS (PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY)
#define L3_FLAGS PTE_PRESENT /* a PAE L3 entry has no other permission bits */

extern u32 *p2m;              /* pfn to mfn, as the domain builder left it */
extern const u32 *m2p;        /* mfn to pfn, Xen's */
extern u32 m2p_start, m2p_end;
extern pte_t *root_table;     /* the live root, mapped read-only */

void memory_init(void);
void *alloc_page(void);       /* a zeroed page, mapped writable in the direct map */
void free_page(void *page);
u32 pages_free(void);
static inline u32 pfn_of(const volatile void *va) { return ((u32)va - VIRT_BASE) >> 12; }
static inline void *pfn_to_virt(u32 pfn) { return (void *)(VIRT_BASE + (pfn << 12)); }
static inline u32 mfn_of(const volatile void *va) { return p2m[pfn_of(va)]; }
static inline void *mfn_to_virt(u32 mfn) { return pfn_to_virt(m2p[mfn]); }
static inline pte_t make_pte(u32 mfn, u32 flags) { return ((pte_t)mfn << 12) | flags; }
static inline u32 pte_mfn(pte_t pte) { return (u32)(pte >> 12) & 0xffffffu; }
static inline u64 maddr_of(const volatile void *va) { return ((u64)mfn_of(va) << 12) | ((u32)va & 4095); }

pte_t *find_l2e(pte_t *root, u32 va);        /* 0 if there is no L2 table */
pte_t *find_l1e(pte_t *root, u32 va);        /* 0 if there is no L1 table */
s32 set_va(volatile void *va, pte_t pte);    /* update_va_mapping with INVLPG */
s32 update_entry(pte_t *entry, pte_t value); /* mmu_update of one entry */
s32 mmuext(u32 cmd, u32 arg1, u32 arg2);
void make_readonly(void *page);
void make_writable(void *page);
pte_t *new_root(void);                       /* a fresh tree that shares the kernel's L1 tables, not yet pinned */
pte_t *add_l1(pte_t *root, u32 va);          /* an L1 table for va in an unpinned tree */
void pin_root(pte_t *root);
void switch_root(pte_t *root);
void drop_root(pte_t *root);                 /* unpin a tree and free its own tables */
void map_range(u32 va, u32 pages);           /* fresh pages under kernel addresses, in the live tree */

/* ---- events (events.c) ---- */
typedef void (*event_handler)(u32 port);
void events_init(void);
void events_callbacks(void);                 /* tell Xen where upcalls go */
void events_dispatch(void);
extern u32 upcalls;
static inline void irq_disable(void) { vcpu()->evtchn_upcall_mask = 1; barrier(); }
void irq_enable(void);
void bind_handler(u32 port, event_handler handler); /* and unmask */
void unbind_handler(u32 port);                      /* and mask */
s32 event_op(u32 cmd, void *arg);
s32 event_notify(u32 port);
u32 new_loopback(event_handler handler, u32 *other);
void close_port(u32 port);
void mask_port(u32 port);
void unmask_port(u32 port);
void clear_pending(u32 port);
static inline int port_pending(u32 port) { return shared->evtchn_pending[port / 32] >> (port % 32) & 1; }

/* ---- time (timer.c) ---- */
extern volatile u32 timer_page[PAGE_SIZE / 4];
#define timer_events timer_page[0] /* timer interrupts so far */
void timer_init(void);
u64 now_ns(void);                            /* Xen's system time */
s32 set_timer(u64 when_ns);                  /* 0 stops it */
s32 poll_port(u32 port, u64 deadline_ns);    /* 0 = no deadline */
void sleep_until(u64 when_ns);
/* Block with events on until *flag is not zero; false when it took longer. */
int wait_for(volatile u32 *flag, u64 limit_ns);

/* ---- xenstore (xenstore.c) ---- */
void xenstore_init(void);
int xenstore_present(void);
#define XS_REPLY_MAX 512
struct xs_reply { u32 type, len; char data[XS_REPLY_MAX + 1]; };
/* One request of up to two parts, each sent with its final NUL unless `raw`. */
void xs_request(u32 type, u32 tx, const char *first, const char *second, int raw, struct xs_reply *reply);
void xs_await_watch(void); /* take one watch event off the ring */
extern u32 xs_watch_events;
extern char xs_watch_path[128];

/* ---- grants (grants.c, in the image pv-i386-net) ---- */
void grants_init(void);
u32 grant_page(void *page, u32 dom, int readonly); /* returns the reference */
int grant_in_use(u32 ref);
void grant_end(u32 ref);
void xs_must(u32 type, const char *first, const char *second, struct xs_reply *reply); /* the value goes without its NUL */
u32 xs_own_domid(void);
char *append(char *to, const char *text); /* returns the new end */

/* ---- steps and modes ---- */
void step_info(void);
void step_traps(void);
void step_segments(void);
void step_memory(void);
void step_events(void);
void step_timer(void);
void step_grants(void);
void step_xenstore(void);
void step_user(void);
void step_net(void);
void step_pair(void);
void mode_storm(u32 rounds);
void mode_echo(void);
void mode_wild(void);
void mode_crash(void) NORETURN;
void mode_triple(void) NORETURN;
void mode_bench(const char *which, u32 passes);

#endif
