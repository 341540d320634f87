// Numbers that are small at first and large later.
//
// V8 keeps integers of 32 bits and other numbers in objects of different shapes. When a field takes its first large
// value all code that was compiled for the old shape is thrown away, to be compiled again: in a boot of Debian's Linux
// that happened 258 times, and 105 times once the vCPU's, the world's and the processor's fields were made like this.
// Fields that were large once keep room for it, and so does every object made the same way. Only speed depends on it.

/** The record as it is, with room for any number in each field that holds one. For objects that live long. */
export function wide<T extends object>(record: T): T {
  const fields = record as Record<string, unknown>;
  for (const [key, value] of Object.entries(record)) {
    if (typeof value !== 'number') continue;
    fields[key] = NaN;
    fields[key] = value;
  }
  return record;
}
