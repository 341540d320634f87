/*
 * The few C library words the guest needs; the compiler may also call memcpy,
 * memset and memcmp on its own.  They use string instructions on purpose: REP
 * forms are part of what the guest exercises.
 */
#include "kernel.h"

void *memcpy(void *to, const void *from, u32 n)
{
    void *d = to;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int value, u32 n)
{
    void *d = to;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(value) : "memory");
    return to;
}

void clear_page(void *page)
{
    u32 words = PAGE_SIZE / 4;
    __asm__ volatile("rep stosl" : "+D"(page), "+c"(words) : "a"(0) : "memory");
}

int memcmp(const void *a, const void *b, u32 n)
{
    const u8 *x = a, *y = b;
    for (u32 i = 0; i < n; i++)
        if (x[i] != y[i]) return x[i] - y[i];
    return 0;
}

u32 strlen(const char *s)
{
    u32 n = 0;
    while (s[n]) n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b) a++, b++;
    return (u8)*a - (u8)*b;
}

const char *strstr(const char *text, const char *part)
{
    u32 n = strlen(part);
    for (; *text; text++)
        if (memcmp(text, part, n) == 0) return text;
    return 0;
}

u32 parse_number(const char *s)
{
    u32 base = 10, value = 0;
    if (s[0] == '0' && s[1] == 'x') base = 16, s += 2;
    for (;; s++) {
        u32 digit;
        if (*s >= '0' && *s <= '9') digit = (u32)(*s - '0');
        else if (base == 16 && *s >= 'a' && *s <= 'f') digit = (u32)(*s - 'a') + 10;
        else return value;
        value = value * base + digit;
    }
}

char *format_decimal(char *to, u32 value)
{
    char digits[10];
    u32 n = 0;
    do digits[n++] = (char)('0' + value % 10); while (value /= 10);
    while (n) *to++ = digits[--n];
    *to = 0;
    return to;
}
