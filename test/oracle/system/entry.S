/*
 * Multiboot entry, the 256 interrupt stubs and the door through which probes (pieces of code run in
 * a ring of choice) are entered and left. Whatever interrupts a probe saves the machine's state in
 * `out` and returns from probe_enter: no probe is ever resumed.
 */
        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002, 0, -0x1badb002

        .text
        .globl _start
_start:
        cli
        mov     $stack_top, %esp
        cld
        call    start
1:      cli
        hlt
        jmp     1b

/* void probe_enter(void): loads `in` and irets to it. Returns when the probe was interrupted. */
        .globl probe_enter
probe_enter:
        pushal
        mov     %esp, probe_sp
        mov     $in, %eax
        mov     0(%eax), %gs
        mov     4(%eax), %fs
        mov     8(%eax), %es
        cmpw    $0, 64(%eax)            /* SS given: an outer ring */
        je      2f
        pushl   64(%eax)
        pushl   60(%eax)
        jmp     3f
2:      mov     60(%eax), %esp          /* ring 0: its own stack, so that faults do not meet ours */
3:      pushl   56(%eax)
        pushl   52(%eax)
        pushl   48(%eax)
        mov     16(%eax), %edi
        mov     20(%eax), %esi
        mov     24(%eax), %ebp
        mov     28(%eax), %ebx
        mov     32(%eax), %edx
        mov     36(%eax), %ecx
        pushl   40(%eax)
        mov     12(%eax), %eax
        mov     %eax, %ds
        pop     %eax
        iret

/* The stubs: every vector pushes an error code (a false one where the processor pushes none). */
        .balign 16
        .globl stubs
stubs:
        .set    v, 0
        .rept   256
        .balign 16
        .if     (v == 8) || ((v >= 10) && (v <= 14)) || (v == 17)
        .else
        push    $0
        .endif
        push    $v
        jmp     common
        .set    v, v + 1
        .endr

common:
        push    %eax
        push    %ecx
        push    %edx
        push    %ebx
        push    %ebp
        push    %esi
        push    %edi
        push    %ds
        push    %es
        push    %fs
        push    %gs
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        pushf
        popl    handler_flags
        cld
        mov     %esp, %eax
        mov     %ss, %ecx
        mov     %eax, %edx
        mov     $0x10, %ebx             /* a stack of ours, whatever it was */
        mov     %ebx, %ss
        mov     $trap_stack_top, %esp
        push    %ecx
        push    %edx
        call    trap
        /* Back to whoever entered the probe. */
        .globl resume
resume: push    $2
        popf
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        mov     probe_sp, %esp
        popal
        ret

        .bss
        .balign 16
        .globl probe_sp, handler_flags
probe_sp: .skip 4
handler_flags: .skip 4
        .balign 4096
        .skip   8192
        .globl stack_top
stack_top:
        .skip   4096
        .globl trap_stack_top
trap_stack_top:
        .skip   4096
        .globl entry_stack_top
entry_stack_top:                        /* TSS ESP0: where inner stacks begin */
