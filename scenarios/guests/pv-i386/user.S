/*
 * The ring-3 program: position-dependent code that the kernel copies to
 * USER_BASE.  System calls by int 0x80: %eax = 1 exit(%ebx), 4 write(%ecx, %edx),
 * 27 alarm (a timer in 0.1 ms).
 *
 * It checks what it can see of its own world and exits with a number that is
 * right only if every part was (step-user.c knows it).
 */
#include "user.h"
#define AT(label) (USER_BASE + (label) - user_program)

        .section .rodata.user, "a", @progbits
        .balign 16
        .globl user_program, user_program_end
user_program:
        xor     %edi, %edi              /* the result, one bit per part */

        mov     $4, %eax                /* 1: a system call with a pointer */
        mov     $AT(hello), %ecx
        mov     $(hello_end - hello), %edx
        int     $0x80
        cmp     $(hello_end - hello), %eax
        jne     1f
        or      $1, %edi
1:
        mov     %cs, %eax               /* 2: really ring 3 */
        and     $3, %eax
        cmp     $3, %eax
        jne     1f
        or      $2, %edi
1:
        mov     $3, %ecx                /* 4: a stack that grows by faults */
        mov     %esp, %ebx
2:      push    %ecx
        sub     $4092, %esp
        loop    2b
        mov     %ebx, %esp
        mov     -4(%esp), %eax
        add     -4100(%esp), %eax
        add     -8196(%esp), %eax
        cmp     $6, %eax
        jne     1f
        or      $4, %edi
1:
        mov     $USER_HEAP, %ebx        /* 8: fresh pages are zero, and keep what is written */
        mov     $4, %ecx
        xor     %edx, %edx
2:      or      (%ebx), %edx
        mov     %ebx, (%ebx)
        cmp     %ebx, (%ebx)
        jne     1f
        add     $4096, %ebx
        loop    2b
        test    %edx, %edx
        jnz     1f
        or      $8, %edi
1:
        cmpl    $USER_COW_VALUE, USER_COW  /* 16: copy on write */
        jne     1f
        addl    $1, USER_COW
        cmpl    $USER_COW_VALUE + 1, USER_COW
        jne     1f
        or      $16, %edi
1:
        mov     $32, %esi               /* 32: faults that the kernel skips */
        hlt
        ud2
        int3
        mov     $1, %eax
        xor     %edx, %edx
        xor     %ebx, %ebx
        divl    %ebx
        or      %esi, %edi

        mov     USER_TICKS, %esi        /* 64: an alarm interrupts a loop */
        mov     $27, %eax
        int     $0x80
        mov     $5000000, %ecx
2:      cmp     %esi, USER_TICKS
        jne     3f
        dec     %ecx
        jnz     2b
        jmp     1f
3:      or      $64, %edi
1:
        mov     $USER_KERNEL_VA, %ebx   /* 128: the kernel's pages are out of reach; the fault skips two bytes */
        xor     %eax, %eax
        mov     (%ebx), %eax
        test    %eax, %eax
        jnz     1f
        or      $128, %edi
1:
        mov     $1, %eax
        mov     %edi, %ebx
        int     $0x80
hello:  .ascii  "user: hello from ring 3\n"
hello_end:
user_program_end:
