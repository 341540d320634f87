// The machine's memory: one WebAssembly.Memory for the whole world. It holds, from address 0 up,
// an arena of reserved areas (CPU states, TLBs, frame table, ...) and then the RAM of all domains.
//
//    0 ........ arena (reserve()) ........ ramBase ........ ramBase + frameCount * 4096
//
// Machine address M is linear address ramBase + M. Generated code and TypeScript see the same bytes.
// Every store from outside the CPU goes through write*(), which marks the frame dirty and tells the
// CPU's code cache when the frame holds translated code. Not checked: who may access a frame.
import { assert, UsageError } from '../base/assert.ts';
import { PAGE_SHIFT, PAGE_SIZE } from '../base/brand.ts';
import type { MemoryPool } from './memory-pool.ts';

/** Per-frame flags, one byte per frame at `frameFlagsBase`. */
export const FRAME_FLAG = {
  /** Written since the last clearDirty(). */
  dirty: 1,
  /** Holds bytes that translated or cached code was made from: writes must be reported. */
  code: 2,
} as const;

const WASM_PAGE = 65536;
const MAX_WASM_PAGES = 65536;
export const DEFAULT_ARENA_BYTES = 48 * 1024 * 1024;

export interface MachineMemoryOptions {
  /** RAM size in 4 KiB frames. */
  readonly frameCount: number;
  readonly arenaBytes?: number;
  /** Where to take the WebAssembly memory from: a new one without. */
  readonly pool?: MemoryPool;
}

export class MachineMemory {
  readonly wasm: WebAssembly.Memory;
  readonly frameCount: number;
  /** Linear address of machine address 0. */
  readonly ramBase: number;
  /** Linear address of the per-frame flag bytes. */
  readonly frameFlagsBase: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly view: DataView;
  /** Told the mfn of every outside store to a frame with FRAME_FLAG.code. Wiring, not state. */
  onCodeWrite: ((mfn: number) => void) | undefined;
  #arenaNext = 64; // linear address 0 stays unused, so that 0 can mean "none"

  constructor(options: MachineMemoryOptions) {
    const arenaBytes = options.arenaBytes ?? DEFAULT_ARENA_BYTES;
    assert(arenaBytes % WASM_PAGE === 0, () => `arena of ${arenaBytes} bytes is not a multiple of ${WASM_PAGE}`);
    const pages = arenaBytes / WASM_PAGE + Math.ceil((options.frameCount * PAGE_SIZE) / WASM_PAGE);
    if (pages >= MAX_WASM_PAGES) {
      throw new UsageError(`a machine of ${Math.round((options.frameCount * PAGE_SIZE) / 2 ** 20)} MiB does not fit into 4 GiB of WebAssembly memory; ask for less memory`);
    }
    this.wasm = options.pool?.take(pages) ?? new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.frameCount = options.frameCount;
    this.ramBase = arenaBytes;
    this.u8 = new Uint8Array(this.wasm.buffer);
    this.u16 = new Uint16Array(this.wasm.buffer);
    this.u32 = new Uint32Array(this.wasm.buffer);
    this.view = new DataView(this.wasm.buffer);
    this.frameFlagsBase = this.reserve(options.frameCount, 64);
  }

  /** Takes a zeroed area of the arena; `align` is a power of two. Returns its linear address. */
  reserve(sizeBytes: number, align = 64): number {
    const at = Math.ceil(this.#arenaNext / align) * align;
    assert(at + sizeBytes <= this.ramBase, () => `arena exhausted: ${sizeBytes} bytes at ${at} pass ${this.ramBase}`);
    this.#arenaNext = at + sizeBytes;
    return at;
  }

  get arenaLeftBytes(): number {
    return this.ramBase - this.#arenaNext;
  }

  /** True if the bytes lie inside RAM. */
  contains(maddr: number, sizeBytes: number): boolean {
    return maddr >= 0 && maddr + sizeBytes <= this.frameCount * PAGE_SIZE;
  }

  readU8(maddr: number): number {
    return this.u8[this.ramBase + maddr] as number;
  }
  readU16(maddr: number): number {
    return this.view.getUint16(this.ramBase + maddr, true);
  }
  readU32(maddr: number): number {
    return this.view.getUint32(this.ramBase + maddr, true);
  }
  /** A copy. */
  readBytes(maddr: number, sizeBytes: number): Uint8Array {
    assert(this.contains(maddr, sizeBytes), () => `read of ${sizeBytes} bytes at maddr ${maddr} is outside RAM`);
    return this.u8.slice(this.ramBase + maddr, this.ramBase + maddr + sizeBytes);
  }

  writeU8(maddr: number, value: number): void {
    this.touch(maddr >>> PAGE_SHIFT);
    this.u8[this.ramBase + maddr] = value;
  }
  writeU16(maddr: number, value: number): void {
    this.touch(maddr >>> PAGE_SHIFT);
    this.view.setUint16(this.ramBase + maddr, value, true);
  }
  writeU32(maddr: number, value: number): void {
    this.touch(maddr >>> PAGE_SHIFT);
    this.view.setUint32(this.ramBase + maddr, value, true);
  }
  writeBytes(maddr: number, bytes: Uint8Array): void {
    assert(this.contains(maddr, bytes.length), () => `write of ${bytes.length} bytes at maddr ${maddr} is outside RAM`);
    for (let mfn = maddr >>> PAGE_SHIFT; bytes.length > 0 && mfn <= (maddr + bytes.length - 1) >>> PAGE_SHIFT; mfn++) this.touch(mfn);
    this.u8.set(bytes, this.ramBase + maddr);
  }
  fillFrame(mfn: number, byte: number): void {
    this.touch(mfn);
    this.u8.fill(byte, this.ramBase + mfn * PAGE_SIZE, this.ramBase + (mfn + 1) * PAGE_SIZE);
  }

  /** Declares that the frame is about to change: dirty, and its cached code (if any) is void. */
  touch(mfn: number): void {
    assert(mfn >= 0 && mfn < this.frameCount, () => `mfn ${mfn} is outside RAM of ${this.frameCount} frames`);
    const at = this.frameFlagsBase + mfn;
    const flags = this.u8[at] as number;
    if ((flags & FRAME_FLAG.code) !== 0) this.onCodeWrite?.(mfn);
    this.u8[at] = (this.u8[at] as number) | FRAME_FLAG.dirty;
  }

  /** The mfns written since the last clearDirty(), ascending. */
  dirtyFrames(): number[] {
    const found: number[] = [];
    for (let mfn = 0; mfn < this.frameCount; mfn++) {
      if (((this.u8[this.frameFlagsBase + mfn] as number) & FRAME_FLAG.dirty) !== 0) found.push(mfn);
    }
    return found;
  }

  /** The CPUs must drop their fast write paths at the same time (Cpu.dropWriteFastPaths). */
  clearDirty(): void {
    for (let mfn = 0; mfn < this.frameCount; mfn++) {
      const at = this.frameFlagsBase + mfn;
      this.u8[at] = (this.u8[at] as number) & ~FRAME_FLAG.dirty;
    }
  }
}
