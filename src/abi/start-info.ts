// The page that a PV kernel finds in ESI/RSI when it starts: where everything else is.
// Source: xen/include/public/xen.h, struct start_info, with i386 and x86_64 sizes of long.
import { layout } from '../base/layout.ts';

export const MAX_GUEST_CMDLINE = 1024;
/** SIF_*: flags of start_info. */
export const SIF = { privileged: 1, initdomain: 2, multiboot_mod: 4, mod_start_pfn: 8, virt_p2m_4tools: 16 } as const;

export const START_INFO_32 = layout({
  sizeBytes: 1112, source: 'xen/include/public/xen.h struct start_info (i386)',
  fields: {
    magic: { at: 0, type: 'u8', count: 32 }, nr_pages: { at: 32, type: 'u32' }, shared_info: { at: 36, type: 'u32' }, flags: { at: 40, type: 'u32' },
    store_mfn: { at: 44, type: 'u32' }, store_evtchn: { at: 48, type: 'u32' }, console_mfn: { at: 52, type: 'u32' }, console_evtchn: { at: 56, type: 'u32' },
    pt_base: { at: 60, type: 'u32' }, nr_pt_frames: { at: 64, type: 'u32' }, mfn_list: { at: 68, type: 'u32' }, mod_start: { at: 72, type: 'u32' },
    mod_len: { at: 76, type: 'u32' }, cmd_line: { at: 80, type: 'u8', count: MAX_GUEST_CMDLINE }, first_p2m_pfn: { at: 1104, type: 'u32' },
    nr_p2m_frames: { at: 1108, type: 'u32' },
  },
});
export const START_INFO_64 = layout({
  sizeBytes: 1168, source: 'xen/include/public/xen.h struct start_info (x86_64)',
  fields: {
    magic: { at: 0, type: 'u8', count: 32 }, nr_pages: { at: 32, type: 'u64' }, shared_info: { at: 40, type: 'u64' }, flags: { at: 48, type: 'u32' },
    store_mfn: { at: 56, type: 'u64' }, store_evtchn: { at: 64, type: 'u32' }, console_mfn: { at: 72, type: 'u64' }, console_evtchn: { at: 80, type: 'u32' },
    pt_base: { at: 88, type: 'u64' }, nr_pt_frames: { at: 96, type: 'u64' }, mfn_list: { at: 104, type: 'u64' }, mod_start: { at: 112, type: 'u64' },
    mod_len: { at: 120, type: 'u64' }, cmd_line: { at: 128, type: 'u8', count: MAX_GUEST_CMDLINE }, first_p2m_pfn: { at: 1152, type: 'u64' },
    nr_p2m_frames: { at: 1160, type: 'u64' },
  },
});
export type StartInfoValues = { readonly [K in Exclude<keyof (typeof START_INFO_64)['fields'], 'magic' | 'cmd_line'>]: number } & {
  readonly magic: string;
  readonly cmd_line: string;
};

/** The structure's bytes. Addresses are u32, or signed canonical numbers; texts are cut to fit with their NUL. */
export function startInfoBytes(wordBits: 32 | 64, values: StartInfoValues): Uint8Array {
  const table = wordBits === 64 ? START_INFO_64 : START_INFO_32;
  const bytes = new Uint8Array(table.sizeBytes);
  const view = new DataView(bytes.buffer);
  for (const [name, field] of Object.entries(table.fields)) {
    const value = values[name as keyof StartInfoValues];
    if (typeof value === 'string') bytes.set(textBytes(value).subarray(0, ('count' in field ? field.count : 1) - 1), field.at);
    else if (field.type === 'u64') view.setBigInt64(field.at, BigInt(value), true);
    else view.setUint32(field.at, value, true);
  }
  return bytes;
}

/** One byte a character: command lines are ASCII; what is not comes out as '?'. */
function textBytes(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => (char.charCodeAt(0) > 0xff ? 0x3f : char.charCodeAt(0)));
}
