// All system rows by name.
import { CONTROL_REGISTER_ROWS } from './control-registers.ts';
import { FAST_CALL_ROWS } from './fast-calls.ts';
import { MISC_ROWS } from './misc.ts';
import type { SystemRow } from './row.ts';
import { SIMD_STATE_ROWS } from './simd.ts';
import { TRANSFER_ROWS } from './transfers.ts';
import { X87_CONTROL_ROWS } from './x87-control.ts';
import { X87_ROWS } from './x87.ts';

const Enter = MISC_ROWS['enter'] as SystemRow;
export const SYSTEM_ROWS: Readonly<Record<string, SystemRow>> = { ...CONTROL_REGISTER_ROWS, ...TRANSFER_ROWS, ...MISC_ROWS, ...FAST_CALL_ROWS, ...X87_ROWS, ...X87_CONTROL_ROWS, ...SIMD_STATE_ROWS, Enter };
