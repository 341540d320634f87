// The page that Xen shares with a domain, and the part of it (or of guest memory) that belongs to one vCPU: layouts for both
// word sizes.
import { layout } from '../base/layout.ts';

const TIME_AT = 32;

export const VCPU_TIME_INFO = layout({
  sizeBytes: 32, source: 'xen/include/public/xen.h struct vcpu_time_info',
  fields: {
    version: { at: 0, type: 'u32' }, tsc_timestamp: { at: 8, type: 'u64' }, system_time: { at: 16, type: 'u64' },
    tsc_to_system_mul: { at: 24, type: 'u32' }, tsc_shift: { at: 28, type: 'u8' }, flags: { at: 29, type: 'u8' },
  },
});

export const VCPU_INFO_32 = layout({
  sizeBytes: 64, source: 'xen/include/public/xen.h struct vcpu_info, arch-x86/xen-x86_32.h struct arch_vcpu_info',
  fields: {
    evtchn_upcall_pending: { at: 0, type: 'u8' }, evtchn_upcall_mask: { at: 1, type: 'u8' },
    evtchn_pending_sel: { at: 4, type: 'u32' }, cr2: { at: 8, type: 'u32' }, time: { at: TIME_AT, type: 'u8', count: 32 },
  },
});
export const VCPU_INFO_64 = layout({
  sizeBytes: 64, source: 'xen/include/public/xen.h struct vcpu_info, arch-x86/xen-x86_64.h struct arch_vcpu_info',
  fields: {
    evtchn_upcall_pending: { at: 0, type: 'u8' }, evtchn_upcall_mask: { at: 1, type: 'u8' },
    evtchn_pending_sel: { at: 8, type: 'u64' }, cr2: { at: 16, type: 'u64' }, time: { at: TIME_AT, type: 'u8', count: 32 },
  },
});

export const SHARED_INFO_32 = layout({
  sizeBytes: 4096, source: 'xen/include/public/xen.h struct shared_info (i386)',
  fields: {
    vcpu_info: { at: 0, type: 'u8', count: 2048 }, evtchn_pending: { at: 2048, type: 'u32', count: 32 }, evtchn_mask: { at: 2176, type: 'u32', count: 32 },
    wc_version: { at: 2304, type: 'u32' }, wc_sec: { at: 2308, type: 'u32' }, wc_nsec: { at: 2312, type: 'u32' },
    max_pfn: { at: 2316, type: 'u32' }, pfn_to_mfn_frame_list_list: { at: 2320, type: 'u32' }, nmi_reason: { at: 2324, type: 'u32' },
    p2m_cr3: { at: 2328, type: 'u32' }, p2m_vaddr: { at: 2332, type: 'u32' }, p2m_generation: { at: 2336, type: 'u32' },
    wc_sec_hi: { at: 2340, type: 'u32' },
  },
});
export const SHARED_INFO_64 = layout({
  sizeBytes: 4096, source: 'xen/include/public/xen.h struct shared_info (x86_64)',
  fields: {
    vcpu_info: { at: 0, type: 'u8', count: 2048 }, evtchn_pending: { at: 2048, type: 'u64', count: 64 }, evtchn_mask: { at: 2560, type: 'u64', count: 64 },
    wc_version: { at: 3072, type: 'u32' }, wc_sec: { at: 3076, type: 'u32' }, wc_nsec: { at: 3080, type: 'u32' }, wc_sec_hi: { at: 3084, type: 'u32' },
    max_pfn: { at: 3088, type: 'u64' }, pfn_to_mfn_frame_list_list: { at: 3096, type: 'u64' }, nmi_reason: { at: 3104, type: 'u64' },
    p2m_cr3: { at: 3112, type: 'u64' }, p2m_vaddr: { at: 3120, type: 'u64' }, p2m_generation: { at: 3128, type: 'u64' },
  },
});
