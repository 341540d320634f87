/*
 * Event channels: the upcall scans selector, pending and mask words and calls
 * one handler for each port.
 *
 * Events are off (upcall mask set) unless a step turns them on or blocks.  A
 * clear mask does not deliver what is already pending; any hypercall does, so
 * irq_enable makes one.
 */
#include "kernel.h"

extern void event_entry(void);
extern void failsafe_entry(void);

u32 upcalls;
static event_handler handlers[1024];

static inline u32 exchange(u32 *word, u32 value)
{
    __asm__ volatile("xchgl %0, %1" : "+r"(value), "+m"(*word) : : "memory");
    return value;
}
static inline u32 lowest_bit(u32 word)
{
    __asm__("bsfl %0, %0" : "+r"(word) : : "cc");
    return word;
}
static inline void set_bit(u32 *map, u32 bit) { __asm__ volatile("lock btsl %1, %0" : "+m"(*map) : "r"(bit) : "memory", "cc"); }
static inline void clear_bit(u32 *map, u32 bit) { __asm__ volatile("lock btrl %1, %0" : "+m"(*map) : "r"(bit) : "memory", "cc"); }

/* The older call first, then the newer one for the same address: both must work. */
void events_callbacks(void)
{
    CHECK_RC(hypercall4(HC_set_callbacks, FLAT_RING1_CS, event_entry, FLAT_RING1_CS, failsafe_entry), 0);
    struct callback_register cb = { CALLBACKTYPE_event, 0, FLAT_RING1_CS, (u32)event_entry };
    s32 rc = hypercall2(HC_callback_op, CALLBACKOP_register, &cb);
    if (rc != 0 && rc != -ENOSYS) fail("callback_op register gave %d", rc);
}

void events_init(void)
{
    for (u32 i = 0; i < 32; i++) shared->evtchn_mask[i] = ~0u;
    events_callbacks();
}

void events_dispatch(void)
{
    upcalls++;
    do {
        vcpu()->evtchn_upcall_pending = 0;
        barrier();
        u32 words = exchange(&vcpu()->evtchn_pending_sel, 0);
        while (words) {
            u32 word = lowest_bit(words), bits;
            words &= words - 1;
            while ((bits = *(volatile u32 *)&shared->evtchn_pending[word] & ~shared->evtchn_mask[word])) {
                u32 port = word * 32 + lowest_bit(bits);
                clear_bit(shared->evtchn_pending, port);
                if (!handlers[port]) fail("event on port %u, which has no handler", port);
                handlers[port](port);
            }
        }
    } while (*(volatile u8 *)&vcpu()->evtchn_upcall_pending);
}

void irq_enable(void)
{
    barrier();
    vcpu()->evtchn_upcall_mask = 0;
    barrier();
    if (*(volatile u8 *)&vcpu()->evtchn_upcall_pending) hypercall2(HC_xen_version, XENVER_version, 0);
}

s32 event_op(u32 cmd, void *arg) { return hypercall2(HC_event_channel_op, cmd, arg); }

s32 event_notify(u32 port)
{
    struct evtchn_port op = { port };
    return event_op(EVTCHNOP_send, &op);
}

void close_port(u32 port)
{
    struct evtchn_port op = { port };
    unbind_handler(port);
    CHECK_RC(event_op(EVTCHNOP_close, &op), 0);
}

void clear_pending(u32 port) { clear_bit(shared->evtchn_pending, port); }

void mask_port(u32 port) { set_bit(shared->evtchn_mask, port); }

/* By hypercall: Xen re-raises what became pending while the port was masked. */
void unmask_port(u32 port)
{
    struct evtchn_port op = { port };
    CHECK_RC(event_op(EVTCHNOP_unmask, &op), 0);
}

void bind_handler(u32 port, event_handler handler)
{
    CHECK(port < ARRAY_SIZE(handlers));
    handlers[port] = handler;
    unmask_port(port);
}

void unbind_handler(u32 port)
{
    mask_port(port);
    clear_bit(shared->evtchn_pending, port);
    handlers[port] = 0;
}

/* A channel from this domain to itself: what is sent on *other arrives on the result. */
u32 new_loopback(event_handler handler, u32 *other)
{
    struct evtchn_alloc_unbound unbound = { DOMID_SELF, DOMID_SELF, 0 };
    CHECK_RC(event_op(EVTCHNOP_alloc_unbound, &unbound), 0);
    struct evtchn_bind_interdomain bind = { DOMID_SELF, unbound.port, 0 };
    CHECK_RC(event_op(EVTCHNOP_bind_interdomain, &bind), 0);
    CHECK(bind.local_port != unbound.port);
    bind_handler(unbound.port, handler);
    *other = bind.local_port;
    return unbound.port;
}
