// The PV console's shared page: two byte rings with free-running indices.
// Source: xen/include/public/io/console.h, struct xencons_interface.
import { layout } from '../base/layout.ts';

export const CONSOLE_IN_BYTES = 1024;
export const CONSOLE_OUT_BYTES = 2048;
export const CONSOLE_RING = layout({
  sizeBytes: 4096, source: 'xen/include/public/io/console.h struct xencons_interface',
  fields: {
    in: { at: 0, type: 'u8', count: CONSOLE_IN_BYTES }, out: { at: 1024, type: 'u8', count: CONSOLE_OUT_BYTES }, in_cons: { at: 3072, type: 'u32' },
    in_prod: { at: 3076, type: 'u32' }, out_cons: { at: 3080, type: 'u32' }, out_prod: { at: 3084, type: 'u32' }, connection: { at: 3088, type: 'u8' },
  },
});
export const CONSOLE_CONNECTION = { connected: 0, disconnected: 1 } as const;
