// All instruction rows by mnemonic.
import type { Row } from '../lower.ts';
import { ARITHMETIC_ROWS } from './arithmetic.ts';
import { CONTROL_ROWS } from './control.ts';
import { MOVE_ROWS } from './moves.ts';
import { SHIFT_ROWS } from './shifts.ts';
import { SIMD_ROWS } from './simd.ts';
import { STRING_ROWS } from './strings.ts';

export const ROWS: Readonly<Record<string, Row>> = { ...ARITHMETIC_ROWS, ...MOVE_ROWS, ...SHIFT_ROWS, ...STRING_ROWS, ...CONTROL_ROWS, ...SIMD_ROWS };
