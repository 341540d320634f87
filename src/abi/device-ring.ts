// The ring that frontends and back ends of devices share: four free-running indices, then slots.
// Source: xen/include/public/io/ring.h, DEFINE_RING_TYPES.
import { layout } from '../base/layout.ts';

export const SRING = layout({
  sizeBytes: 64, source: 'xen/include/public/io/ring.h struct __name##_sring',
  fields: { req_prod: { at: 0, type: 'u32' }, req_event: { at: 4, type: 'u32' }, rsp_prod: { at: 8, type: 'u32' }, rsp_event: { at: 12, type: 'u32' } },
});

/** __RING_SIZE: the largest power of two that fits. */
export function ringSlots(sizeBytes: number, entryBytes: number): number {
  let slots = 1;
  while (2 * slots * entryBytes <= sizeBytes - SRING.sizeBytes) slots *= 2;
  return slots;
}
