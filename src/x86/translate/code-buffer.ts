// A growable byte buffer that speaks WebAssembly: opcodes by name, LEB128 immediates. Function bodies are
// written straight into it; wasm-module.ts wraps finished bodies into a module.
// Not checked: types. A body that does not validate is our own bug and throws in WebAssembly.Module.

/** Opcodes and value types, WebAssembly core specification 2.0, section 5.4 (and the tail-call extension). */
export const OP = {
  unreachable: 0x00, nop: 0x01, block: 0x02, loop: 0x03, if: 0x04, else: 0x05, end: 0x0b,
  br: 0x0c, br_if: 0x0d, br_table: 0x0e, return: 0x0f, call: 0x10, call_indirect: 0x11, return_call: 0x12, return_call_indirect: 0x13,
  drop: 0x1a, select: 0x1b, local_get: 0x20, local_set: 0x21, local_tee: 0x22, global_get: 0x23, global_set: 0x24,
  i32_load: 0x28, i64_load: 0x29, i32_load8_s: 0x2c, i32_load8_u: 0x2d, i32_load16_s: 0x2e, i32_load16_u: 0x2f, i64_load32_u: 0x35,
  i32_store: 0x36, i64_store: 0x37, i32_store8: 0x3a, i32_store16: 0x3b,
  i32_const: 0x41, i64_const: 0x42,
  i32_eqz: 0x45, i32_eq: 0x46, i32_ne: 0x47, i32_lt_s: 0x48, i32_lt_u: 0x49, i32_gt_s: 0x4a, i32_gt_u: 0x4b, i32_le_s: 0x4c, i32_le_u: 0x4d, i32_ge_s: 0x4e, i32_ge_u: 0x4f,
  i64_eqz: 0x50, i64_eq: 0x51, i64_ne: 0x52, i64_lt_s: 0x53, i64_lt_u: 0x54, i64_gt_s: 0x55, i64_gt_u: 0x56, i64_le_s: 0x57, i64_le_u: 0x58, i64_ge_s: 0x59, i64_ge_u: 0x5a,
  i32_clz: 0x67, i32_ctz: 0x68, i32_popcnt: 0x69, i32_add: 0x6a, i32_sub: 0x6b, i32_mul: 0x6c, i32_div_s: 0x6d, i32_div_u: 0x6e, i32_rem_s: 0x6f, i32_rem_u: 0x70,
  i32_and: 0x71, i32_or: 0x72, i32_xor: 0x73, i32_shl: 0x74, i32_shr_s: 0x75, i32_shr_u: 0x76, i32_rotl: 0x77, i32_rotr: 0x78,
  i64_clz: 0x79, i64_ctz: 0x7a, i64_popcnt: 0x7b, i64_add: 0x7c, i64_sub: 0x7d, i64_mul: 0x7e, i64_div_s: 0x7f, i64_div_u: 0x80, i64_rem_s: 0x81, i64_rem_u: 0x82,
  i64_and: 0x83, i64_or: 0x84, i64_xor: 0x85, i64_shl: 0x86, i64_shr_s: 0x87, i64_shr_u: 0x88, i64_rotl: 0x89, i64_rotr: 0x8a,
  i32_wrap_i64: 0xa7, i64_extend_i32_s: 0xac, i64_extend_i32_u: 0xad, i32_extend8_s: 0xc0, i32_extend16_s: 0xc1, i64_extend8_s: 0xc2, i64_extend16_s: 0xc3, i64_extend32_s: 0xc4,
  prefix_fc: 0xfc, prefix_simd: 0xfd,
} as const;
/** Second byte after prefix_fc. */
export const OP_FC = { memory_copy: 10, memory_fill: 11 } as const;
export const TYPE = { i32: 0x7f, i64: 0x7e, v128: 0x7b, funcref: 0x70, empty: 0x40 } as const;

const V128_CONST = 12;
const I8X16_SHUFFLE = 13;

export class CodeBuffer {
  #bytes: Uint8Array;
  #length = 0;

  constructor(capacity = 4096) {
    this.#bytes = new Uint8Array(capacity);
  }

  get length(): number {
    return this.#length;
  }
  /** A view of what was written; valid until the next write. */
  written(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
  reset(): void {
    this.#length = 0;
  }

  #room(sizeBytes: number): void {
    if (this.#length + sizeBytes <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + sizeBytes));
    grown.set(this.written());
    this.#bytes = grown;
  }

  byte(value: number): void {
    if (this.#length === this.#bytes.length) this.#room(1);
    this.#bytes[this.#length++] = value;
  }
  append(bytes: Uint8Array): void {
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }
  /** Unsigned LEB128. */
  u32(value: number): void {
    this.#room(5);
    let rest = value >>> 0;
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.#bytes[this.#length++] = rest;
  }
  /** Signed LEB128 of a number taken modulo 2^32. */
  s32(value: number): void {
    this.#room(5);
    let rest = value | 0;
    for (;;) {
      const low = rest & 0x7f;
      rest >>= 7;
      if ((rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0)) {
        this.#bytes[this.#length++] = low;
        return;
      }
      this.#bytes[this.#length++] = low | 0x80;
    }
  }
  /** Signed LEB128 of a bigint taken modulo 2^64. */
  s64(value: bigint): void {
    this.#room(10);
    let rest = BigInt.asIntN(64, value);
    for (;;) {
      const low = Number(rest & 0x7fn);
      rest >>= 7n;
      if ((rest === 0n && (low & 0x40) === 0) || (rest === -1n && (low & 0x40) !== 0)) {
        this.#bytes[this.#length++] = low;
        return;
      }
      this.#bytes[this.#length++] = low | 0x80;
    }
  }
  name(text: string): void {
    this.u32(text.length);
    for (let i = 0; i < text.length; i++) this.byte(text.charCodeAt(i));
  }

  const32(value: number): void {
    this.byte(OP.i32_const);
    this.s32(value);
  }
  const64(value: bigint): void {
    this.byte(OP.i64_const);
    this.s64(value);
  }
  /** local.get, local.set, local.tee, call, br, br_if and the like: an opcode with one index. */
  index(op: number, index: number): void {
    this.byte(op);
    this.u32(index);
  }
  get(local: number): void {
    this.index(OP.local_get, local);
  }
  set(local: number): void {
    this.index(OP.local_set, local);
  }
  tee(local: number): void {
    this.index(OP.local_tee, local);
  }
  br(depth: number): void {
    this.index(OP.br, depth);
  }
  brIf(depth: number): void {
    this.index(OP.br_if, depth);
  }
  /** A load or store; the alignment hint is always 1 byte, which costs nothing on the engines that matter. */
  memory(op: number, offset: number): void {
    this.byte(op);
    this.byte(0);
    this.u32(offset);
  }
  /** An operator on vectors (vector.ts). */
  simd(op: number): void {
    this.byte(OP.prefix_simd);
    this.u32(op);
  }
  simdLane(op: number, index: number): void {
    this.simd(op);
    this.byte(index);
  }
  simdMemory(op: number, offset: number): void {
    this.simd(op);
    this.byte(0);
    this.u32(offset);
  }
  /** v128.const. */
  vector(value: bigint): void {
    this.simd(V128_CONST);
    for (let i = 0n; i < 16n; i++) this.byte(Number((value >> (8n * i)) & 0xffn));
  }
  /** i8x16.shuffle. */
  shuffle(bytes: readonly number[]): void {
    this.simd(I8X16_SHUFFLE);
    for (const byte of bytes) this.byte(byte);
  }
  /** block, loop or if without results. */
  open(op: number): void {
    this.byte(op);
    this.byte(TYPE.empty);
  }
  end(): void {
    this.byte(OP.end);
  }
}
