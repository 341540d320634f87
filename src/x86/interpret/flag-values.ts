// Flags and conditions as expressions for block programs: over the producer's operands, which lie in the state, or over
// the image of all six.
import { bit } from '../expr.ts';
import { conditionFrom, conditionOf, FLAG_BIT, FLAG_ROWS, flagOpCode, type FlagRow } from '../flags.ts';
import type { Expr, StatusFlag, Width } from '../ir.ts';
import type { KnownFlags } from '../translate/statement.ts';

/** Temporaries that stand for STATE.flagA, flagB and flagR. */
export const OPERAND = { a: -1, b: -2, r: -3 } as const;

/** Every tier leaves a producer's operands zero-extended to 32 bits at least. */
function overOperands(make: (a: Expr, b: Expr, r: Expr) => Expr, width: Width): Expr {
  const operand = (id: number): Expr => ({ tag: 'temp', width, id });
  return make(operand(OPERAND.a), operand(OPERAND.b), operand(OPERAND.r));
}

/** Conditions by 16 * flagOpCode + condition code. */
const conditions: (Expr | undefined)[] = [];

export function condOf(cc: number, known: KnownFlags | undefined, image: () => Expr): Expr {
  if (known === undefined) {
    const all = image();
    return conditionOf(cc, (flag) => bit(all, FLAG_BIT[flag]));
  }
  const { op, width } = known;
  return (conditions[16 * flagOpCode(op, width) + cc] ??= overOperands((a, b, r) => conditionFrom(op, cc, a, b, r), width));
}

export function flagOf(flag: StatusFlag, known: KnownFlags | undefined, image: () => Expr): Expr {
  return known === undefined ? bit(image(), FLAG_BIT[flag]) : overOperands((FLAG_ROWS[known.op] as FlagRow)[flag], known.width);
}
