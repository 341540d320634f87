/*
 * What the domain builder and Xen see of this guest: the ELF notes (or the older
 * __xen_guest section), the entry point, the hypercall page, and the entries for
 * exceptions, system calls and events.
 *
 * Start of day on i386: flat ring-1 segments, paging on, events masked,
 * %esi = start_info, %esp = a small stack behind the initial page tables.
 *
 * Every trap ends in the iret hypercall, never in IRET: the hypercall restores
 * the upcall mask from the saved EFLAGS.IF, pops and re-checks pending events in
 * one step, so there is no window between unmasking and returning.
 * (The native IRET to ring 3 is used once, by enter_user.)
 */
#include "xen.h"

/* ---- notes: name "Xen", type, one value ------------------------------------ */
#define NOTE_ENTRY          1
#define NOTE_HYPERCALL_PAGE 2
#define NOTE_VIRT_BASE      3
#define NOTE_PADDR_OFFSET   4
#define NOTE_XEN_VERSION    5
#define NOTE_GUEST_OS       6
#define NOTE_GUEST_VERSION  7
#define NOTE_LOADER         8
#define NOTE_PAE_MODE       9
#define NOTE_FEATURES       10

        .macro note type, value:vararg
        .pushsection .note.Xen, "a", @note
        .balign 4
        .long 2f - 1f, 4f - 3f, \type
1:      .asciz "Xen"
2:      .balign 4
3:      \value
4:      .balign 4
        .popsection
        .endm

#if LEGACY
/* The form used before ELF notes: one string. HYPERCALL_PAGE is a page number from VIRT_BASE. */
        .section __xen_guest, "a", @progbits
        .ascii "GUEST_OS=rexen-pv-i386,GUEST_VER=1,XEN_VER=xen-3.0,VIRT_BASE=0xc0000000,ELF_PADDR_OFFSET=0x0"
        .ascii ",VIRT_ENTRY=0xc0100000,HYPERCALL_PAGE=0x101,FEATURES=!writable_page_tables|pae_pgdir_above_4gb"
#if PAE
        .ascii ",PAE=yes"
#else
        .ascii ",PAE=no"
#endif
        .asciz ",LOADER=generic"
#else
        note NOTE_GUEST_OS,       .asciz "rexen-pv-i386"
        note NOTE_GUEST_VERSION,  .asciz "1"
        note NOTE_XEN_VERSION,    .asciz "xen-3.0"
        note NOTE_LOADER,         .asciz "generic"
        note NOTE_VIRT_BASE,      .long 0xc0000000
        note NOTE_PADDR_OFFSET,   .long 0
        note NOTE_ENTRY,          .long _start
        note NOTE_HYPERCALL_PAGE, .long hypercall_page
        note NOTE_FEATURES,       .asciz "!writable_page_tables|pae_pgdir_above_4gb"
#if PAE
        note NOTE_PAE_MODE,       .asciz "yes"
#else
        note NOTE_PAE_MODE,       .asciz "no"
#endif
#endif

/* ---- entry -------------------------------------------------------------------- */
        .section .text.head, "ax", @progbits
        .globl _start
        .type _start, @function
_start:
        cld
        mov     %esp, boot_esp          /* the page allocator must step over Xen's stack */
        mov     $stack_top, %esp
        xor     %ebp, %ebp
        push    %esi
        call    kernel_main
1:      ud2
        jmp     1b
        .size _start, . - _start

/* Filled in by Xen with one 32-byte entry for each hypercall. */
        .balign 4096
        .globl hypercall_page
        .type hypercall_page, @function
hypercall_page:
        .skip   4096, 0x90
        .size hypercall_page, 4096

/* ---- traps -------------------------------------------------------------------- */
        .text
        .macro trap vector, has_error
        .globl trap_\vector
        .type trap_\vector, @function
trap_\vector:
        .if \has_error == 0
        pushl   $0
        .endif
        pushl   $\vector
        jmp     trap_common
        .size trap_\vector, . - trap_\vector
        .pushsection .rodata.traps, "a", @progbits
        .long   trap_\vector
        .popsection
        .endm

        .pushsection .rodata.traps, "a", @progbits
        .balign 4
        .globl trap_entries
trap_entries:                           /* one address per exception, vectors 0 to 19 */
        .popsection
        trap 0, 0       /* #DE */
        trap 1, 0       /* #DB */
        trap 2, 0       /* NMI */
        trap 3, 0       /* #BP */
        trap 4, 0       /* #OF */
        trap 5, 0       /* #BR */
        trap 6, 0       /* #UD */
        trap 7, 0       /* #NM */
        trap 8, 1       /* #DF */
        trap 9, 0       /* coprocessor overrun */
        trap 10, 1      /* #TS */
        trap 11, 1      /* #NP */
        trap 12, 1      /* #SS */
        trap 13, 1      /* #GP */
        trap 14, 1      /* #PF */
        trap 15, 0      /* spurious */
        trap 16, 0      /* #MF */
        trap 17, 1      /* #AC */
        trap 18, 0      /* #MC */
        trap 19, 0      /* #XF */

        .macro entry name, vector
        .globl \name
        .type \name, @function
\name:  pushl   $0
        pushl   $\vector
        jmp     trap_common
        .size \name, . - \name
        .endm
        entry syscall_entry, 0x80
        entry event_entry, 0x100

/* Xen calls this when it cannot load a segment for us on the way back: we never expect it. */
        .globl failsafe_entry
        .type failsafe_entry, @function
failsafe_entry:
        call    failsafe_reached
1:      jmp     1b
        .size failsafe_entry, . - failsafe_entry

/* The stack now is struct trap_frame (kernel.h) from its vector field upwards. */
        .type trap_common, @function
trap_common:
        pushl   %es
        pushl   %ds
        pusha
        mov     %ss, %eax
        mov     %eax, %ds
        mov     %eax, %es
        cld
        pushl   %esp
        call    trap_dispatch
        addl    $4, %esp
        .globl trap_return
trap_return:
        popa
        popl    %ds
        popl    %es
        addl    $8, %esp                /* vector and error code */
        jmp     hypercall_page + HC_iret * 32
        .size trap_common, . - trap_common

/* ---- ring 3 ------------------------------------------------------------------- */
/*
 * int enter_user(u32 eip, u32 esp, int native_iret): run ring-3 code until
 * leave_user(value), which returns value from here.
 */
        .globl enter_user
        .type enter_user, @function
enter_user:
        pushl   %ebp
        pushl   %ebx
        pushl   %esi
        pushl   %edi
        mov     %esp, user_return_esp
        mov     20(%esp), %ecx          /* eip */
        mov     24(%esp), %edx          /* esp */
        mov     28(%esp), %esi
        pushl   %ecx
        pushl   %edx
        pushl   %esp                    /* traps from ring 3 may use the stack below this */
        call    set_kernel_stack
        addl    $4, %esp
        popl    %edx
        popl    %ecx
        mov     $FLAT_RING3_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        pushl   %eax                    /* ss */
        pushl   %edx                    /* esp */
        pushl   $0x202                  /* eflags, IF: events on */
        pushl   $FLAT_RING3_CS
        pushl   %ecx
        xor     %eax, %eax
        xor     %ebx, %ebx
        xor     %edx, %edx
        test    %esi, %esi
        jnz     1f
        jmp     hypercall_page + HC_iret * 32
1:      iret
        .size enter_user, . - enter_user

        .globl leave_user
        .type leave_user, @function
leave_user:
        mov     4(%esp), %eax
        mov     user_return_esp, %esp
        popl    %edi
        popl    %esi
        popl    %ebx
        popl    %ebp
        ret
        .size leave_user, . - leave_user

        .section .bss, "aw", @nobits
        .balign 4
        .globl boot_esp
boot_esp:
        .skip   4
user_return_esp:
        .skip   4
        .balign 4096
        .skip   16384
stack_top:
