// Memory layouts as tables: every structure that a guest or a file can see is one row list with
// its source, checked on load for overlap, alignment and size. Readers and writers derive from it.
import { assert } from './assert.ts';

export type FieldType = 'u8' | 'u16' | 'u32' | 'i32' | 'u64';
/** `at` is the byte offset in the structure; `count` > 1 makes an array. */
export interface Field {
  readonly at: number;
  readonly type: FieldType;
  readonly count?: number;
  /** Default true. Packed ABI structures (i386 u64 on 4 bytes) say false. */
  readonly aligned?: boolean;
}
export interface Layout<F extends Record<string, Field>> {
  readonly sizeBytes: number;
  readonly source: string;
  readonly fields: F;
}

const FIELD_BYTES: Record<FieldType, number> = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8 };
export const fieldBytes = (field: Field): number => FIELD_BYTES[field.type] * (field.count ?? 1);

/** Checks the table (overlap, alignment, size) and returns it. Throws InvariantViolation. */
export function layout<const F extends Record<string, Field>>(table: Layout<F>): Layout<F> {
  const rows = Object.entries(table.fields).sort((a, b) => a[1].at - b[1].at);
  let end = 0;
  for (const [name, field] of rows) {
    const unit = FIELD_BYTES[field.type];
    assert(field.at >= end, `${table.source}: field ${name} at ${field.at} overlaps its predecessor ending at ${end}`);
    assert(field.aligned === false || field.at % Math.min(unit, 8) === 0, `${table.source}: field ${name} at ${field.at} is not aligned to ${unit}`);
    end = field.at + fieldBytes(field);
  }
  assert(end <= table.sizeBytes, `${table.source}: fields end at ${end}, past the size ${table.sizeBytes}`);
  return table;
}
