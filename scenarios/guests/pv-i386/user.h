/* The ring-3 program's world: addresses shared by user.S and step-user.c. */
#define USER_BASE 0x08048000
#define USER_HEAP 0x09000000 /* four pages, mapped when touched */
#define USER_HEAP_END 0x09004000
#define USER_COW 0x0a000000 /* one page, shared until written */
#define USER_COW_VALUE 0x00c0ffee
#define USER_TICKS 0x0a001000 /* the kernel's timer page, read-only */
#define USER_STACK_TOP 0x0c000000
#define USER_STACK_LOW 0x0bff0000
#define USER_KERNEL_VA 0xc0100000
#define USER_RESULT 255 /* every part of the program worked */
