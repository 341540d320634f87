// Makes cases: picks operands (edges and seeded noise), encodes ModRM and SIB in every form, points
// the address registers at the window the operand should lie in. All chance comes from one Rng.
import {
  CODE, CODE_BASE, DATA, EDGES, GPR, INITIAL_SEGS, LDT, ldtSelector, READ_ONLY, REGIONS, registerFile, REGISTER_FILES, Rng, UNMAPPED,
} from '../environment.ts';
import type { Case, Patch } from '../vector.ts';

export type Size = 8 | 16 | 32;
const STATUS = 0x8d5;
const DF = 0x400;
export const ESP = 4;
const SEG_PREFIX = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65] as const;

/** A case under construction. */
export class Draft {
  code: number[] = [];
  at = CODE;
  eip: number | undefined;
  file = 0;
  regs = new Uint32Array(8);
  eflags = 2;
  segs = [...INITIAL_SEGS];
  memory: Patch[] = [];
  /** Registers that form an address: operands must leave them alone. */
  readonly pinned = new Set<number>();

  setReg(index: number, value: number): void {
    if (!this.pinned.has(index)) this.regs[index] = value;
  }
  pin(index: number, value: number): void {
    this.regs[index] = value;
    this.pinned.add(index);
  }
  /** An operand register: 8-bit ones 4 to 7 are AH, CH, DH, BH. */
  setOperand(index: number, size: Size, value: number): void {
    const at = size === 8 ? index & 3 : index;
    const old = this.regs[at] as number;
    if (size === 8) this.setReg(at, index < 4 ? (old & 0xffffff00) | (value & 0xff) : (old & 0xffff00ff) | ((value & 0xff) << 8));
    else if (size === 16) this.setReg(at, (old & 0xffff0000) | (value & 0xffff));
    else this.setReg(at, value);
  }
  poke(vaddr: number, size: number, value: number): void {
    const bytes = Uint8Array.from({ length: size / 8 }, (_, i) => value >>> (8 * i));
    this.pokeBytes(vaddr, bytes);
  }
  /** Only where every byte is writable: elsewhere the region's own content stays. */
  pokeBytes(vaddr: number, bytes: Uint8Array): void {
    const inside = (at: number): boolean => REGIONS.some((r) => r.write && at >= r.vaddr && at < r.vaddr + r.sizeBytes);
    if (inside(vaddr) && inside(vaddr + bytes.length - 1)) this.memory.push({ vaddr, bytes });
  }
  case(): Case {
    return {
      code: Uint8Array.from(this.code), at: this.at, eip: this.eip ?? this.at, file: this.file, regs: this.regs, eflags: this.eflags, segs: this.segs, memory: this.memory,
    };
  }
}

/** A ModRM operand, chosen: how it is encoded and what must hold for it. */
export interface Place {
  readonly prefixes: readonly number[];
  /** ModRM with reg = 0, SIB, displacement. */
  readonly modrm: readonly number[];
  readonly reg?: number;
  readonly vaddr?: number;
  readonly pins: readonly (readonly [register: number, value: number])[];
  readonly seg?: readonly [index: number, selector: number];
}

export interface PlaceOptions {
  readonly bytes?: number;
  readonly addr16?: boolean;
  readonly target?: number;
  /** Never use ESP to form the address (stack instructions). */
  readonly noEsp?: boolean;
  /** No faults, no segment overrides. */
  readonly plain?: boolean;
  /** Segment override: index and selector. */
  readonly seg?: readonly [number, number];
}

export interface Form {
  readonly prefixes?: readonly number[];
  readonly opcode: readonly number[];
  /** The /digit of the ModRM byte; absent: a register operand. */
  readonly ext?: number;
  readonly size: Size;
  /** Operand size of the register operand if it differs (MOVZX). */
  readonly regSize?: Size;
  /** Whether the ModRM operand is there at all. */
  readonly modrm?: 'reg' | 'mem' | 'both' | 'none';
  readonly memBytes?: number;
  readonly immBits?: readonly Size[];
  /** Immediate bytes to choose from instead of noise. */
  readonly imms?: readonly number[];
  readonly encodings?: number;
  readonly draws?: number;
  readonly noEsp?: boolean;
  readonly plain?: boolean;
  readonly noPrefix66?: boolean;
  readonly tune?: (draft: Draft, place: Place | undefined, rng: Rng) => void;
}

const BASES16: readonly (readonly number[])[] = [[3, 6], [3, 7], [5, 6], [5, 7], [6], [7], [5], [3]];

export class Maker {
  readonly rng: Rng;
  readonly cases: Case[] = [];
  /** 16: everything runs in a 16-bit code segment. */
  readonly bits: 16 | 32;
  constructor(seed: number, bits: 16 | 32 = 32) {
    this.rng = new Rng(seed);
    this.bits = bits;
  }

  value(): number {
    const { rng } = this;
    return rng.chance(2) ? rng.pick(EDGES) : rng.u32();
  }

  draft(): Draft {
    const { rng } = this;
    const draft = new Draft();
    draft.file = rng.below(REGISTER_FILES);
    draft.regs = registerFile(draft.file);
    draft.eflags = ((rng.u32() & STATUS) | 2 | (rng.chance(8) ? DF : 0)) >>> 0;
    if (this.bits === 16) {
      draft.segs[1] = ldtSelector('code16');
      draft.eip = CODE - CODE_BASE;
    }
    return draft;
  }

  add(draft: Draft): void {
    this.cases.push(draft.case());
  }

  /** One case with nothing special but its code. */
  plain(code: readonly number[], tune?: (draft: Draft) => void): void {
    const draft = this.draft();
    draft.code = [...code];
    tune?.(draft);
    this.add(draft);
  }

  size66(size: Size): readonly number[] {
    return size === 8 || size === this.bits ? [] : [0x66];
  }

  regPlace(reg: number): Place {
    return { prefixes: [], modrm: [0xc0 | reg], reg, pins: [] };
  }

  target(bytes: number, addr16: boolean): number {
    const { rng } = this;
    if (addr16) return rng.chance(6) ? 0xffff - rng.below(3) - (bytes > 1 ? bytes - 1 : 0) : 0x8010 + rng.below(0x1fc0);
    const fate = rng.below(40);
    if (fate === 0) return UNMAPPED + rng.below(0x1000);
    if (fate === 1) return READ_ONLY + 4 * rng.below(0x3f0);
    if (fate === 2) return READ_ONLY - rng.below(bytes); // from writable into read-only
    if (fate === 3) return UNMAPPED - rng.below(bytes); // from read-only into nothing
    if (fate <= 6) return DATA + 0x1000 - rng.below(bytes); // across two good pages
    return DATA + 0x10 + rng.below(0x7a0) * (rng.chance(4) ? 1 : 2);
  }

  memPlace(options: PlaceOptions = {}): Place {
    const { rng } = this;
    const addr16 = options.addr16 ?? rng.chance(6);
    const prefixes: number[] = addr16 === (this.bits === 32) ? [0x67] : [];
    let seg = options.seg;
    let vaddr = options.target ?? (options.plain === true ? (addr16 ? 0x8100 : DATA + 0x100) + 2 * rng.below(0x300) : this.target(options.bytes ?? 4, addr16));
    if (seg === undefined && options.plain !== true && rng.chance(10)) {
      const index = rng.pick([0, 3, 4, 5]);
      seg = [index, ldtSelector(rng.pick(['data', 'dataReadOnly', 'down32', 'dataPages', 'wrap', 'code']))];
    }
    let offset = vaddr;
    if (seg !== undefined) {
      prefixes.push(SEG_PREFIX[seg[0]] as number);
      const entry = LDT[(seg[1] >> 3) - 1];
      if (entry !== undefined && options.target === undefined) {
        offset = entry.name === 'code' ? 0x800 + rng.below(0x400) : ((addr16 ? 0x100 : 0x1000) + rng.below(0xe00)) >>> 0;
        vaddr = (entry.base + offset) >>> 0;
        if (entry.name === 'wrap') { vaddr = DATA + rng.below(0x1000); offset = (vaddr - entry.base) >>> 0; }
        if (addr16) { offset &= 0xffff; vaddr = (entry.base + offset) >>> 0; }
      } else if (entry !== undefined) offset = (vaddr - entry.base) >>> 0;
    }
    const shape = addr16 ? this.#address16(offset & 0xffff, options.noEsp === true) : this.#address32(offset, options.noEsp === true);
    return { prefixes, modrm: shape.modrm, pins: shape.pins, vaddr, ...(seg === undefined ? {} : { seg }) };
  }

  #disp(bits: 0 | 8 | 16 | 32, value: number): number[] {
    return Array.from({ length: bits / 8 }, (_, i) => (value >>> (8 * i)) & 0xff);
  }

  #address16(offset: number, _noEsp: boolean): { modrm: number[]; pins: [number, number][] } {
    const { rng } = this;
    const mod = rng.below(3), rm = rng.below(8);
    if (mod === 0 && rm === 6) return { modrm: [6, ...this.#disp(16, offset)], pins: [] };
    const disp = mod === 0 ? 0 : mod === 1 ? (rng.u32() << 24) >> 24 : rng.u32() & 0xffff;
    const bases = BASES16[rm] as readonly number[];
    const pins: [number, number][] = [];
    let left = offset - disp;
    if (bases.length === 2) {
      const index = rng.u32();
      pins.push([bases[1] as number, index]);
      left -= index;
    }
    pins.push([bases[0] as number, ((rng.u32() & 0xffff0000) | (left & 0xffff)) >>> 0]);
    return { modrm: [(mod << 6) | rm, ...this.#disp(mod === 0 ? 0 : mod === 1 ? 8 : 16, disp)], pins };
  }

  #address32(offset: number, noEsp: boolean): { modrm: number[]; pins: [number, number][] } {
    const { rng } = this;
    const mod = rng.below(3);
    const disp = mod === 0 ? 0 : mod === 1 ? (rng.u32() << 24) >> 24 : rng.u32();
    const dispBits = mod === 0 ? 0 : mod === 1 ? 8 : 32;
    let rm = rng.below(8);
    if (rm !== 4) {
      if (mod === 0 && rm === 5) return { modrm: [5, ...this.#disp(32, offset)], pins: [] };
      return { modrm: [(mod << 6) | rm, ...this.#disp(dispBits, disp)], pins: [[rm, (offset - disp) >>> 0]] };
    }
    rm = 4;
    const scale = rng.below(4);
    let index = rng.below(8), base = rng.below(8);
    if (noEsp && base === 4) base = 3;
    const sib = (scale << 6) | (index << 3) | base;
    const noBase = mod === 0 && base === 5;
    if (index === 4) { // no index
      if (noBase) return { modrm: [4, sib, ...this.#disp(32, offset)], pins: [] };
      return { modrm: [(mod << 6) | 4, sib, ...this.#disp(dispBits, disp)], pins: [[base, (offset - disp) >>> 0]] };
    }
    const indexValue = rng.u32();
    const scaled = Math.imul(indexValue, 1 << scale);
    if (noBase) return { modrm: [4, sib, ...this.#disp(32, offset - scaled)], pins: [[index, indexValue]] };
    if (index === base) { // one register twice: the displacement has to make up for it
      return { modrm: [0x84, sib, ...this.#disp(32, offset - scaled - indexValue)], pins: [[index, indexValue]] };
    }
    return { modrm: [(mod << 6) | 4, sib, ...this.#disp(dispBits, disp)], pins: [[index, indexValue], [base, (offset - disp - scaled) >>> 0]] };
  }

  /** Emits `encodings` encodings of a form with `draws` operand sets each. */
  form(form: Form): void {
    const { rng } = this;
    const encodings = form.encodings ?? 3, draws = form.draws ?? 6;
    for (let e = 0; e < encodings; e++) {
      const wanted = form.modrm ?? 'both';
      const isReg = wanted === 'reg' || (wanted === 'both' && (e === 0 || (e > 1 && rng.chance(4))));
      const place = wanted === 'none' ? undefined
        : isReg ? this.regPlace(form.noEsp === true ? rng.pick([0, 1, 2, 3, 5, 6, 7]) : rng.below(8))
        : this.memPlace({ bytes: form.memBytes ?? form.size / 8, noEsp: form.noEsp === true, plain: form.plain === true });
      const reg = form.ext ?? (form.noEsp === true ? rng.pick([0, 1, 2, 3, 5, 6, 7]) : rng.below(8));
      const code = [...(form.prefixes ?? []), ...(place?.prefixes ?? []), ...(form.noPrefix66 === true ? [] : this.size66(form.regSize ?? form.size)), ...form.opcode];
      if (place !== undefined) code.push((place.modrm[0] as number) | (reg << 3), ...place.modrm.slice(1));
      for (const bits of form.immBits ?? []) {
        const imm = form.imms !== undefined ? rng.pick(form.imms) : this.value();
        for (let i = 0; i < bits; i += 8) code.push((imm >>> i) & 0xff);
      }
      for (let d = 0; d < draws; d++) {
        const draft = this.draft();
        draft.code = [...code];
        for (const [register, value] of place?.pins ?? []) draft.pin(register, value);
        if (place?.seg !== undefined) draft.segs[place.seg[0]] = place.seg[1];
        if (form.ext === undefined && place !== undefined) draft.setOperand(reg, form.regSize ?? form.size, this.value());
        if (place?.reg !== undefined) draft.setOperand(place.reg, form.size, this.value());
        if (place?.vaddr !== undefined) {
          if (form.memBytes !== undefined && form.memBytes > 4) draft.pokeBytes(place.vaddr, Uint8Array.from({ length: form.memBytes }, () => rng.u32() >>> 24));
          else draft.poke(place.vaddr, form.size, this.value());
        }
        form.tune?.(draft, place, rng);
        this.add(draft);
      }
    }
  }
}

export const REGS = GPR;
export const SIZES: readonly Size[] = [8, 16, 32];
