/*
 * Xen's interface, as much of it as this guest uses: 32-bit x86 numbers and
 * layouts, named as Xen names them.
 *
 * Source of every number: xen/include/public/ (xen.h, arch-x86/xen.h,
 * arch-x86/xen-x86_32.h, event_channel.h, sched.h, memory.h, grant_table.h,
 * vcpu.h, version.h, callback.h, io/console.h, io/xs_wire.h, elfnote.h).
 *
 * On i386 a 64-bit field is aligned to 4 bytes, so no structure here needs
 * packing.  Sizes that matter are asserted at the end.
 */
#ifndef XEN_H
#define XEN_H

/* Hypercall numbers; entry n of the hypercall page is at n * 32. */
#define HC_set_trap_table        0
#define HC_mmu_update            1
#define HC_set_gdt               2
#define HC_stack_switch          3
#define HC_set_callbacks         4
#define HC_fpu_taskswitch        5
#define HC_sched_op_compat       6
#define HC_set_debugreg          8
#define HC_get_debugreg          9
#define HC_update_descriptor     10
#define HC_memory_op             12
#define HC_multicall             13
#define HC_update_va_mapping     14
#define HC_set_timer_op          15
#define HC_xen_version           17
#define HC_console_io            18
#define HC_grant_table_op        20
#define HC_vm_assist             21
#define HC_iret                  23
#define HC_vcpu_op               24
#define HC_mmuext_op             26
#define HC_sched_op              29
#define HC_callback_op           30
#define HC_event_channel_op      32

/* Flat segments that Xen provides to a 32-bit guest in its part of the GDT. */
#define FLAT_RING1_CS 0xe019
#define FLAT_RING1_DS 0xe021
#define FLAT_RING3_CS 0xe02b
#define FLAT_RING3_DS 0xe033

#ifndef __ASSEMBLER__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;

#define DOMID_SELF 0x7ff0u

/* Errno values, as Xen returns them (negated). */
enum { EPERM = 1, ENOENT = 2, EFAULT = 14, EBUSY = 16, EEXIST = 17, EINVAL = 22, ENOSYS = 38, ETIME = 62 };

struct trap_info { u8 vector, flags; u16 cs; u32 address; };
#define TI_EVENTS_OFF 4 /* flags: low two bits are the DPL, this one masks upcalls on entry */

struct vcpu_time_info {
    u32 version, pad0;
    u64 tsc_timestamp, system_time;
    u32 tsc_to_system_mul;
    s8 tsc_shift;
    u8 flags, pad1[2];
};
struct vcpu_info {
    u8 evtchn_upcall_pending, evtchn_upcall_mask;
    u32 evtchn_pending_sel;
    u32 cr2, arch_pad[5];
    struct vcpu_time_info time;
};
struct shared_info {
    struct vcpu_info vcpu_info[32];
    u32 evtchn_pending[32], evtchn_mask[32];
    u32 wc_version, wc_sec, wc_nsec;
    u32 arch[8];
};

struct start_info {
    char magic[32];
    u32 nr_pages, shared_info, flags;
    u32 store_mfn, store_evtchn, console_mfn, console_evtchn;
    u32 pt_base, nr_pt_frames, mfn_list, mod_start, mod_len;
    char cmd_line[1024];
    u32 first_p2m_pfn, nr_p2m_frames;
};
#define SIF_INITDOMAIN 2

/* Memory management. */
struct mmu_update { u64 ptr, val; };
enum { MMU_NORMAL_PT_UPDATE = 0, MMU_MACHPHYS_UPDATE = 1, MMU_PT_UPDATE_PRESERVE_AD = 2 };
struct mmuext_op { u32 cmd, arg1, arg2; };
enum {
    MMUEXT_PIN_L1_TABLE = 0, MMUEXT_PIN_L2_TABLE = 1, MMUEXT_PIN_L3_TABLE = 2, MMUEXT_UNPIN_TABLE = 4,
    MMUEXT_NEW_BASEPTR = 5, MMUEXT_TLB_FLUSH_LOCAL = 6, MMUEXT_INVLPG_LOCAL = 7, MMUEXT_SET_LDT = 13,
};
enum { UVMF_NONE = 0, UVMF_TLB_FLUSH = 1, UVMF_INVLPG = 2 };
enum { VMASST_CMD_enable = 0, VMASST_CMD_disable = 1, VMASST_TYPE_writable_pagetables = 2 };

enum {
    XENMEM_increase_reservation = 0, XENMEM_decrease_reservation = 1, XENMEM_maximum_ram_page = 2,
    XENMEM_current_reservation = 3, XENMEM_maximum_reservation = 4, XENMEM_populate_physmap = 6,
    XENMEM_memory_map = 9, XENMEM_machphys_mapping = 12,
};
struct memory_reservation { u32 *extent_start; u32 nr_extents, extent_order, mem_flags; u16 domid; };
struct machphys_mapping { u32 v_start, v_end, max_mfn; };
/* Where the machine-to-physical table is when Xen does not say. */
#define MACH2PHYS_VIRT_START_PAE 0xf5800000u
#define MACH2PHYS_VIRT_START_NONPAE 0xfc000000u

struct multicall_entry { u32 op; s32 result; u32 args[6]; };

/* Event channels. */
enum {
    EVTCHNOP_bind_interdomain = 0, EVTCHNOP_bind_virq = 1, EVTCHNOP_bind_pirq = 2, EVTCHNOP_close = 3,
    EVTCHNOP_send = 4, EVTCHNOP_status = 5, EVTCHNOP_alloc_unbound = 6, EVTCHNOP_bind_ipi = 7,
    EVTCHNOP_bind_vcpu = 8, EVTCHNOP_unmask = 9,
};
enum { VIRQ_TIMER = 0, VIRQ_DEBUG = 1 };
struct evtchn_alloc_unbound { u16 dom, remote_dom; u32 port; };
struct evtchn_bind_interdomain { u16 remote_dom; u32 remote_port, local_port; };
struct evtchn_bind_virq { u32 virq, vcpu, port; };
struct evtchn_bind_ipi { u32 vcpu, port; };
struct evtchn_port { u32 port; }; /* close, send and unmask */
struct evtchn_status {
    u16 dom;
    u32 port;
    u32 status, vcpu;
    union {
        struct { u16 dom; } unbound;
        struct { u16 dom; u32 port; } interdomain;
        u32 pirq, virq;
    } u;
};
enum {
    EVTCHNSTAT_closed = 0, EVTCHNSTAT_unbound = 1, EVTCHNSTAT_interdomain = 2, EVTCHNSTAT_pirq = 3,
    EVTCHNSTAT_virq = 4, EVTCHNSTAT_ipi = 5,
};

/* Scheduling, time, virtual processors. */
enum { SCHEDOP_yield = 0, SCHEDOP_block = 1, SCHEDOP_shutdown = 2, SCHEDOP_poll = 3 };
enum { SHUTDOWN_poweroff = 0, SHUTDOWN_reboot = 1, SHUTDOWN_suspend = 2, SHUTDOWN_crash = 3 };
struct sched_shutdown { u32 reason; };
struct sched_poll { u32 *ports; u32 nr_ports; u64 timeout; };

enum {
    VCPUOP_is_up = 3, VCPUOP_get_runstate_info = 4, VCPUOP_register_runstate_memory_area = 5,
    VCPUOP_set_periodic_timer = 6, VCPUOP_stop_periodic_timer = 7, VCPUOP_set_singleshot_timer = 8,
    VCPUOP_stop_singleshot_timer = 9, VCPUOP_register_vcpu_info = 10,
};
enum { RUNSTATE_running = 0, RUNSTATE_runnable = 1, RUNSTATE_blocked = 2, RUNSTATE_offline = 3 };
struct vcpu_runstate_info { u32 state; u64 state_entry_time, time[4]; };
struct vcpu_set_singleshot_timer { u64 timeout_abs_ns; u32 flags; };
#define VCPU_SSHOTTMR_future 1 /* refuse a time that has passed */

enum { CALLBACKOP_register = 0 };
enum { CALLBACKTYPE_event = 0, CALLBACKTYPE_failsafe = 1 };
struct callback_register { u16 type, flags; u32 cs, eip; };

enum { XENVER_version = 0, XENVER_extraversion = 1, XENVER_get_features = 6, XENVER_pagesize = 7 };
struct xen_feature_info { u32 submap_idx, submap; };

enum { CONSOLEIO_write = 0, CONSOLEIO_read = 1 };

/* Grant tables, version 1. */
struct grant_entry { u16 flags, domid; u32 frame; };
enum { GTF_permit_access = 1, GTF_readonly = 4, GTF_reading = 8, GTF_writing = 16 };
enum {
    GNTTABOP_map_grant_ref = 0, GNTTABOP_unmap_grant_ref = 1, GNTTABOP_setup_table = 2,
    GNTTABOP_copy = 5, GNTTABOP_query_size = 6,
};
enum { GNTMAP_host_map = 2 };
struct gnttab_setup_table { u16 dom; u32 nr_frames; s16 status; u32 *frame_list; };
struct gnttab_query_size { u16 dom; u32 nr_frames, max_nr_frames; s16 status; };
struct gnttab_map { u64 host_addr; u32 flags, ref; u16 dom; s16 status; u32 handle; u64 dev_bus_addr; };
struct gnttab_unmap { u64 host_addr, dev_bus_addr; u32 handle; s16 status; };

/* The console ring and the xenstore ring, one page each. */
struct xencons_interface { char in[1024], out[2048]; u32 in_cons, in_prod, out_cons, out_prod; };
struct xenstore_interface { char req[1024], rsp[1024]; u32 req_cons, req_prod, rsp_cons, rsp_prod; };
struct xsd_sockmsg { u32 type, req_id, tx_id, len; };
enum {
    XS_DIRECTORY = 1, XS_READ = 2, XS_GET_PERMS = 3, XS_WATCH = 4, XS_UNWATCH = 5, XS_TRANSACTION_START = 6,
    XS_TRANSACTION_END = 7, XS_GET_DOMAIN_PATH = 10, XS_WRITE = 11, XS_MKDIR = 12, XS_RM = 13, XS_SET_PERMS = 14,
    XS_WATCH_EVENT = 15, XS_ERROR = 16,
};

/* Device rings (io/ring.h), the network device's (io/netif.h), the states of a device (io/xenbus.h). */
struct netif_tx_request { u32 gref; u16 offset, flags, id, size; };
struct netif_tx_response { u16 id; s16 status; };
struct netif_rx_request { u16 id, pad; u32 gref; };
struct netif_rx_response { u16 id, offset, flags; s16 status; };
struct sring { u32 req_prod, req_event, rsp_prod, rsp_event, pad[12]; };
enum { NETTXF_csum_blank = 1, NETTXF_data_validated = 2, NETTXF_more_data = 4 };
enum { NETRXF_more_data = 4, NETRXF_extra_info = 8 };
enum { XenbusStateInitWait = 2, XenbusStateConnected = 4, XenbusStateClosing = 5, XenbusStateClosed = 6 };

#define LAYOUT(cond) _Static_assert(cond, #cond)
LAYOUT(sizeof(struct vcpu_info) == 64);
LAYOUT(__builtin_offsetof(struct shared_info, evtchn_pending) == 0x800);
LAYOUT(__builtin_offsetof(struct shared_info, wc_version) == 0x900);
LAYOUT(__builtin_offsetof(struct start_info, cmd_line) == 80);
LAYOUT(__builtin_offsetof(struct start_info, first_p2m_pfn) == 1104);
LAYOUT(sizeof(struct mmuext_op) == 12);
LAYOUT(sizeof(struct memory_reservation) == 20);
LAYOUT(sizeof(struct multicall_entry) == 32);
LAYOUT(sizeof(struct evtchn_status) == 24);
LAYOUT(sizeof(struct vcpu_runstate_info) == 44);
LAYOUT(sizeof(struct sched_poll) == 16);
LAYOUT(sizeof(struct gnttab_setup_table) == 16);
LAYOUT(sizeof(struct gnttab_map) == 32);
LAYOUT(sizeof(struct gnttab_unmap) == 24);
LAYOUT(sizeof(struct netif_tx_request) == 12);
LAYOUT(sizeof(struct netif_rx_request) == 8 && sizeof(struct netif_rx_response) == 8);
LAYOUT(sizeof(struct sring) == 64);
LAYOUT(__builtin_offsetof(struct xencons_interface, in_cons) == 3072);

#endif /* __ASSEMBLER__ */
#endif
