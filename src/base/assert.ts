// Assertions that stay on in production: a broken invariant is our own bug, and the earliest
// place to notice it is the cheapest one. Guests and users never reach these by bad input;
// guest faults and refused requests are values (see Result), user errors have their own classes.

/** Our own bug: something that must hold did not. Never caused by guests or user files. */
export class InvariantViolation extends Error {
  override readonly name = 'InvariantViolation';
}

/**
 * Throws InvariantViolation unless `condition` holds. The message should carry the values; on hot
 * paths it is a function, or it would be put together each time although nobody reads it.
 */
export function assert(condition: boolean, message: string | (() => string)): asserts condition {
  if (!condition) throw new InvariantViolation(typeof message === 'string' ? message : message());
}

/** The end of every exhaustive switch: compiles only if no case is left. */
export function unreachable(value: never): never {
  throw new InvariantViolation(`unreachable value ${JSON.stringify(value)}`);
}

/** A user's bad file or option: printed by the CLI as one sentence, exit code 2. */
export class UsageError extends Error {
  override readonly name: string = 'UsageError';
}
