// Structures that guests hand over by address: copied whole once, read by their layout table, changed
// in the copy and copied back whole, as copy_from_guest and copy_to_guest do.
import type { Field, Layout } from '../base/layout.ts';
import type { Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

type Fields = Record<string, Field>;
/** Scalars of the layout as numbers (u64: exact below 2^53). */
export type StructValues<F extends Fields> = { [K in keyof F]: number };

export interface GuestStruct<F extends Fields> {
  readonly vaddr: number;
  readonly bytes: Uint8Array;
  readonly layout: Layout<F>;
  readonly values: StructValues<F>;
}

const isSigned = (field: Field): boolean => field.type === 'i32';

function getField(view: DataView, field: Field): number {
  switch (field.type) {
    case 'u8': return view.getUint8(field.at);
    case 'u16': return view.getUint16(field.at, true);
    case 'u32':
    case 'i32': return isSigned(field) ? view.getInt32(field.at, true) : view.getUint32(field.at, true);
    case 'u64': return view.getUint32(field.at + 4, true) * 0x1_0000_0000 + view.getUint32(field.at, true);
  }
}
function setField(view: DataView, field: Field, value: number): void {
  switch (field.type) {
    case 'u8': return view.setUint8(field.at, value);
    case 'u16': return view.setUint16(field.at, value, true);
    case 'u32':
    case 'i32': return view.setUint32(field.at, value >>> 0, true);
    case 'u64':
      view.setUint32(field.at, value >>> 0, true);
      view.setUint32(field.at + 4, Math.floor(value / 0x1_0000_0000) >>> 0, true);
      return;
  }
}

/** Reads the scalars of a structure from bytes. */
export function decodeStruct<F extends Fields>(layout: Layout<F>, bytes: Uint8Array): StructValues<F> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const values: Record<string, number> = {};
  for (const [name, field] of rowsOf(layout)) values[name] = getField(view, field);
  return values as StructValues<F>;
}

/** The fields as a list, made once for each table. */
const ROWS = new WeakMap<object, readonly (readonly [string, Field])[]>();
function rowsOf(layout: Layout<Fields>): readonly (readonly [string, Field])[] {
  let rows = ROWS.get(layout);
  if (rows === undefined) {
    rows = Object.entries(layout.fields);
    ROWS.set(layout, rows);
  }
  return rows;
}

/** undefined: EFAULT. */
export function readStruct<F extends Fields>(hv: Hypervisor, vcpu: Vcpu, vaddr: number, layout: Layout<F>): GuestStruct<F> | undefined {
  const bytes = hv.access.copyFromGuest(vcpu, vaddr, layout.sizeBytes);
  return bytes === undefined ? undefined : { vaddr, bytes, layout, values: decodeStruct(layout, bytes) };
}

/** Sets fields of the copy and writes it back whole. False: EFAULT. */
export function writeStruct<F extends Fields>(hv: Hypervisor, vcpu: Vcpu, struct: GuestStruct<F>, changes: Partial<StructValues<F>>): boolean {
  encodeInto(struct.layout, struct.bytes, changes);
  return hv.access.copyToGuest(vcpu, struct.vaddr, struct.bytes);
}

export function encodeInto<F extends Fields>(layout: Layout<F>, bytes: Uint8Array, changes: Partial<StructValues<F>>): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (const [name, value] of Object.entries(changes)) setField(view, layout.fields[name] as Field, value as number);
}
