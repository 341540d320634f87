/*
 * The console: the first lines go out by the console_io hypercall (Xen's
 * emergency console, which release builds refuse to unprivileged domains: that
 * is tolerated), everything else through the ring shared with dom0.  A domain
 * without a ring (dom0 itself) keeps console_io.
 *
 * A line is put into the ring and then announced once.  When the ring is full we
 * wait by poll on the console's port, so printing works with events masked, in
 * a trap handler too.
 */
#include "kernel.h"

static struct xencons_interface *ring;
static u32 port;
static char line[256];
static u32 line_length;

int console_has_ring(void) { return ring != 0; }

void console_ring_init(void)
{
    if (start_info->flags & SIF_INITDOMAIN) return;
    if (!start_info->console_mfn) return;
    ring = mfn_to_virt(start_info->console_mfn);
    port = start_info->console_evtchn;
    mask_port(port);
}

static void wait_for_console(void)
{
    clear_pending(port);
    if (ring->out_prod - ring->out_cons < sizeof(ring->out)) return;
    poll_port(port, now_ns() + 100000000);
}

static void ring_write(const char *text, u32 n)
{
    volatile struct xencons_interface *r = ring;
    while (n) {
        u32 prod = r->out_prod, room = sizeof(r->out) - (prod - r->out_cons), take = n < room ? n : room;
        for (u32 i = 0; i < take; i++) r->out[(prod + i) & (sizeof(r->out) - 1)] = *text++;
        n -= take;
        barrier(); /* the bytes before the index that publishes them */
        r->out_prod = prod + take;
        event_notify(port);
        if (n) wait_for_console();
    }
}

void console_flush(void)
{
    volatile struct xencons_interface *r = ring;
    if (!r) return;
    for (u32 tries = 0; r->out_cons != r->out_prod && tries < 100; tries++) {
        clear_pending(port);
        if (r->out_cons == r->out_prod) return;
        poll_port(port, now_ns() + 10000000);
    }
}

/* A prompt has no newline: send what there is. */
void console_push(void)
{
    if (!line_length) return;
    if (ring) ring_write(line, line_length);
    else hypercall3(HC_console_io, CONSOLEIO_write, line_length, line);
    line_length = 0;
}

static void put(char c)
{
    if (line_length == sizeof(line)) console_push();
    if (c == '\n') {
        put('\r');
        if (line_length == sizeof(line)) console_push();
    }
    line[line_length++] = c;
    if (c == '\n') console_push();
}

static void put_hex(u32 value, int digits)
{
    for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
}

static void print_list(const char *format, __builtin_va_list args)
{
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        int wide = format[1] == '0' && format[2] == '8';
        format += wide ? 3 : 1;
        char digits[12];
        switch (*format) {
        case 's':
            for (const char *s = __builtin_va_arg(args, const char *); *s; s++) put(*s);
            break;
        case 'c':
            put((char)__builtin_va_arg(args, int));
            break;
        case 'd':
        case 'u': {
            s32 value = __builtin_va_arg(args, s32);
            if (*format == 'd' && value < 0) {
                put('-');
                value = -value;
            }
            format_decimal(digits, (u32)value);
            for (const char *s = digits; *s; s++) put(*s);
            break;
        }
        case 'x': {
            u32 value = __builtin_va_arg(args, u32);
            int n = 8;
            if (!wide) while (n > 1 && !(value >> (n - 1) * 4)) n--;
            put_hex(value, n);
            break;
        }
        default:
            put(*format);
        }
    }
}

void print(const char *format, ...)
{
    __builtin_va_list args;
    __builtin_va_start(args, format);
    print_list(format, args);
    __builtin_va_end(args);
}

/* u64 cannot go through print: gcc's format check and a freestanding %llx are not worth it. */
void print_u64(const char *before, u64 value, const char *after)
{
    print("%s%08x%08x%s", before, (u32)(value >> 32), (u32)value, after);
}

void fail(const char *format, ...)
{
    __builtin_va_list args;
    irq_disable();
    print("\nGUEST-FAIL: ");
    __builtin_va_start(args, format);
    print_list(format, args);
    __builtin_va_end(args);
    print("\n");
    shutdown(SHUTDOWN_crash);
}

/* Poll for input without any time limit: a person may be typing. */
static char read_char(void)
{
    volatile struct xencons_interface *r = ring;
    while (r->in_cons == r->in_prod) {
        clear_pending(port);
        if (r->in_cons != r->in_prod) break;
        poll_port(port, 0);
    }
    barrier(); /* the index before the byte it publishes */
    char c = r->in[r->in_cons & (sizeof(r->in) - 1)];
    barrier();
    r->in_cons++;
    event_notify(port);
    return c;
}

int console_read_line(char *to, u32 size)
{
    u32 n = 0;
    for (;;) {
        char c = read_char();
        if (c == '\r' || c == '\n') break;
        if ((c == 8 || c == 127) && n) n--;
        else if (c >= ' ' && n < size - 1) to[n++] = c;
    }
    to[n] = 0;
    return (int)n;
}
