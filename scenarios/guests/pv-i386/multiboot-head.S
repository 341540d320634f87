/* Multiboot (version 1) entry of the bare-metal bench: 32-bit, paging off, %ebx = information. */
        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002
        .long   3                       /* page-align modules, memory information */
        .long   -(0x1badb002 + 3)

        .text
        .globl _start
        .type _start, @function
_start:
        cli
        mov     $stack_top, %esp
        xor     %ebp, %ebp
        cld
        push    %ebx
        call    bench_main
1:      hlt
        jmp     1b
        .size _start, . - _start

        .section .bss, "aw", @nobits
        .balign 16
        .skip   16384
stack_top:
