// Numbers that are small at first and large later.
//
// V8 keeps integers of 32 bits and other numbers in objects of different shapes. When a field takes its first large
// value all code that was compiled for the old shape is thrown away and compiled again: of a boot's 1,170 compilations
// 430 were repetitions, most of them for a vCPU's fields. Fields that were large once keep room for it, and so does
// every object made the same way. Only speed depends on it.

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
