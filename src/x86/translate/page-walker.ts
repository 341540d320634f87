// The paging unit's common case in WebAssembly, for dispatchers of long mode: what lookup() of ../paging.ts does when the
// tables are in RAM and every accessed bit (and, for a store, the dirty bit) is set already.
//
//    find(vaddr: i64, access: i32) -> linear address, or 0: TypeScript's turn, which sets bits, faults, or finds no RAM
//
// 0 comes before any effect; else the effects are lookup's: the slot's translation and tags, the frame's dirty flag. Which
// of the two answers is therefore seen by nobody. What the bits mean is written in paging.ts. No breakpoint is armed
// while translated code runs.
import { FRAME_FLAG } from '../../machine/memory.ts';
import { CR0, CR4, EFER } from '../core.ts';
import { ARCH, LARGE_PAGE_RESERVED, PTE, RESERVED_HI } from '../paging.ts';
import { STATE } from '../state-layout.ts';
import { FILLED, NO_TAG, TLB, TLB_ENTRIES, TLB_VPN_BYTES } from '../tlb-layout.ts';
import { Assembly, type Code } from './assembly.ts';
import { OP, TYPE } from './code-buffer.ts';

export const FIND = { read: 0, write: 1, fetch: 2 } as const;

export interface WalkerPlaces {
  readonly stateBase: number;
  /** Of the set of translations that the dispatcher is for. */
  readonly tlbBase: number;
  readonly tlbVpnBase: number;
  readonly tlbFilledBase: number;
  readonly ramBase: number;
  readonly ramBytes: number;
  readonly frameFlagsBase: number;
}

const LOCALS = { vaddr: 0, access: 1, user: 2, entry: 3, vpnAt: 4, arch: 5, table: 6, low: 7, high: 8, rights: 9, nx: 10, wp: 11, maddr: 12, frame: 13, page: 14, none: 15 } as const;
const [I32_LOCALS, I64_LOCALS] = [12, 2] as const;

/** The function's body: (i64, i32) -> i32. */
export const walkerBody = (places: WalkerPlaces): Uint8Array => new Walker(places).body();

class Walker extends Assembly<keyof typeof LOCALS> {
  readonly #p: WalkerPlaces;

  constructor(places: WalkerPlaces) {
    super(LOCALS);
    this.#p = places;
  }

  body(): Uint8Array {
    const { c } = this;
    c.u32(2);
    c.u32(I32_LOCALS);
    c.byte(TYPE.i32);
    c.u32(I64_LOCALS);
    c.byte(TYPE.i64);
    // Canonical?
    this.returnIf(this.op(OP.i64_ne, this.op(OP.i64_shr_s, this.op(OP.i64_shl, this.get('vaddr'), this.k64(16n)), this.k64(16n)), this.get('vaddr')), 0);
    this.set('user', this.op(OP.i32_eq, this.#state(STATE.cpl), this.k(3)));
    this.set('entry', this.and(this.low32(this.op(OP.i64_shr_u, this.get('vaddr'), this.k64(6n))), (TLB_ENTRIES - 1) << 6));
    this.set('vpnAt', this.op(OP.i32_mul, this.op(OP.i32_shr_u, this.get('entry'), this.k(6)), this.k(TLB_VPN_BYTES)));
    this.set('arch', this.load(OP.i32_load, this.get('entry'), this.#p.tlbBase + TLB.arch));
    c.open(OP.block); // $found
    this.#cached();
    this.#walk();
    this.#frame();
    this.#fill();
    c.end();
    this.#tags();
    this.add(this.add(this.get('maddr'), this.k(this.#p.ramBase)), this.and(this.low32(this.get('vaddr')), 0xfff))();
    c.end();
    return c.written().slice();
  }

  #state(at: number): Code {
    return this.load(OP.i32_load, this.k(this.#p.stateBase), at);
  }
  #is(access: keyof typeof FIND): Code {
    return this.op(OP.i32_eq, this.get('access'), this.k(FIND[access]));
  }
  #vpn(): Code {
    return this.op(OP.i64_shr_u, this.get('vaddr'), this.k64(12n));
  }

  /** A cached translation that allows the access is used, however stale it is: to the end of $found. */
  #cached(): void {
    const { c } = this;
    const arch = this.get('arch');
    c.open(OP.block); // $walk
    this.brIf(this.not(this.and(arch, ARCH.valid)), 0);
    this.brIf(this.op(OP.i64_ne, this.load(OP.i64_load, this.get('vpnAt'), this.#p.tlbVpnBase), this.#vpn()), 0);
    this.brIf(this.both(this.get('user'), this.not(this.and(arch, ARCH.user))), 0);
    this.brIf(this.both(this.#is('fetch'), this.not(this.and(arch, ARCH.executable))), 0);
    const readOnly = this.both(this.not(this.and(arch, ARCH.writable)), this.or(this.get('user'), this.some(this.and(arch, ARCH.wp))));
    this.brIf(this.both(this.#is('write'), this.or(this.not(this.and(arch, ARCH.dirty)), readOnly)), 0);
    this.returnIf(this.and(arch, ARCH.noRam), 0);
    this.set('maddr', this.load(OP.i32_load, this.get('entry'), this.#p.tlbBase + TLB.maddr));
    this.#frame();
    c.br(1);
    c.end();
  }

  /** Reads the entry that the address's bits from `shift` choose in the table. */
  #entry(shift: number): void {
    const table = this.get('table');
    this.set('table', this.add(table, this.and(this.low32(this.op(OP.i64_shr_u, this.get('vaddr'), this.k64(BigInt(shift - 3)))), 0x1ff * 8)));
    this.returnIf(this.op(OP.i32_ge_u, table, this.k(this.#p.ramBytes)), 0);
    this.set('low', this.load(OP.i32_load, table, this.#p.ramBase));
    this.set('high', this.load(OP.i32_load, table, this.#p.ramBase + 4));
    this.returnIf(this.not(this.every(this.get('low'), PTE.P | PTE.A)), 0);
    // Reserved bits; and beyond 4 GiB, of which bits 0 to 7 speak, is no RAM. NX without EFER.NXE is reserved.
    this.returnIf(this.and(this.get('high'), RESERVED_HI.hosted | 0xff), 0);
    this.set('nx', this.or(this.get('nx'), this.get('high')));
    this.set('rights', this.both(this.get('rights'), this.get('low')));
  }

  #walk(): void {
    const { c } = this;
    const low = this.get('low');
    this.set('table', this.and(this.#state(STATE.cr3), ~0xfff));
    this.set('rights', this.k(PTE.RW | PTE.US));
    this.set('nx', this.k(0));
    this.set('wp', this.moved(this.#state(STATE.cr0), CR0.WP, ARCH.wp));
    c.open(OP.block); // $leaf
    for (const shift of [39, 30]) {
      this.#entry(shift);
      this.returnIf(this.and(low, PTE.PS), 0);
      this.set('table', this.and(low, ~0xfff));
    }
    this.#entry(21);
    this.when(this.and(low, PTE.PS), () => {
      this.returnIf(this.and(low, LARGE_PAGE_RESERVED), 0);
      this.set('maddr', this.or(this.and(low, ~0x1fffff), this.and(this.low32(this.get('vaddr')), 0x1ff000)));
      c.br(1);
    });
    this.set('table', this.and(low, ~0xfff));
    this.#entry(12);
    this.set('maddr', this.and(low, ~0xfff));
    c.end();
    const rights = this.get('rights');
    this.returnIf(this.both(this.op(OP.i32_lt_s, this.get('nx'), this.k(0)), this.or(this.#is('fetch'), this.not(this.and(this.#state(STATE.efer), EFER.NXE)))), 0);
    this.returnIf(this.both(this.get('user'), this.not(this.and(rights, PTE.US))), 0);
    this.when(this.#is('write'), () => {
      this.returnIf(this.not(this.and(low, PTE.D)), 0);
      this.returnIf(this.both(this.not(this.and(rights, PTE.RW)), this.or(this.get('user'), this.some(this.get('wp')))), 0);
    });
    this.returnIf(this.op(OP.i32_ge_u, this.get('maddr'), this.k(this.#p.ramBytes)), 0);
  }

  /** The frame's flags: a store into one with code is TypeScript's. */
  #frame(): void {
    this.set('frame', this.load(OP.i32_load8_u, this.op(OP.i32_shr_u, this.get('maddr'), this.k(12)), this.#p.frameFlagsBase));
    this.returnIf(this.both(this.#is('write'), this.some(this.and(this.get('frame'), FRAME_FLAG.code))), 0);
  }

  #fill(): void {
    const { tlbBase, tlbVpnBase, tlbFilledBase, ramBase } = this.#p;
    const [low, rights, entry] = [this.get('low'), this.get('rights'), this.get('entry')];
    this.when(this.not(this.and(this.get('arch'), ARCH.valid)), () => {
      const count = this.get('table');
      this.set('table', this.load(OP.i32_load, this.k(tlbFilledBase), FILLED.count));
      this.when(this.op(OP.i32_lt_u, count, this.k(FILLED.max)), () => this.store(OP.i32_store16, this.op(OP.i32_mul, count, this.k(2)), tlbFilledBase + FILLED.slots, this.op(OP.i32_shr_u, entry, this.k(6))));
      this.when(this.op(OP.i32_le_u, count, this.k(FILLED.max)), () => this.store(OP.i32_store, this.k(tlbFilledBase), FILLED.count, this.add(count, this.k(1))));
    });
    const executable = this.op(OP.i32_mul, this.op(OP.i32_ge_s, this.get('nx'), this.k(0)), this.k(ARCH.executable));
    const global = this.op(OP.i32_mul, this.both(this.some(this.and(low, PTE.G)), this.some(this.and(this.#state(STATE.cr4), CR4.PGE))), this.k(ARCH.global));
    this.set('arch', this.or(this.k(ARCH.valid), this.get('wp'), this.moved(rights, PTE.US, ARCH.user), this.moved(rights, PTE.RW, ARCH.writable), this.moved(low, PTE.D, ARCH.dirty), executable, global));
    this.store(OP.i64_store, this.get('vpnAt'), tlbVpnBase, this.#vpn());
    this.store(OP.i32_store, entry, tlbBase + TLB.arch, this.get('arch'));
    this.store(OP.i32_store, entry, tlbBase + TLB.maddr, this.get('maddr'));
    this.store(OP.i32_store, entry, tlbBase + TLB.addend, this.op(OP.i32_sub, this.add(this.get('maddr'), this.k(ramBase)), this.and(this.low32(this.get('vaddr')), ~0xfff)));
  }

  /** A store marks its frame; then every tag is what holds now. */
  #tags(): void {
    const { tlbBase, frameFlagsBase } = this.#p;
    const [arch, frame] = [this.get('arch'), this.get('frame')];
    this.when(this.#is('write'), () => {
      this.set('frame', this.or(frame, this.k(FRAME_FLAG.dirty)));
      this.store(OP.i32_store8, this.op(OP.i32_shr_u, this.get('maddr'), this.k(12)), frameFlagsBase, frame);
    });
    this.set('page', this.op(OP.i64_and, this.get('vaddr'), this.k64(-4096n)));
    this.set('none', this.op(OP.i64_or, this.op(OP.i64_and, this.get('vaddr'), this.k64(-0x1_0000_0000n)), this.k64(BigInt(NO_TAG))));
    const writes = this.both(this.every(arch, ARCH.dirty), this.op(OP.i32_eq, this.and(frame, FRAME_FLAG.dirty | FRAME_FLAG.code), this.k(FRAME_FLAG.dirty)));
    const tag = (at: number, allowed: Code): void => this.store(OP.i64_store, this.get('entry'), tlbBase + at, this.op(OP.select, this.get('page'), this.get('none'), allowed));
    this.store(OP.i64_store, this.get('entry'), tlbBase + TLB.readSup, this.get('page'));
    tag(TLB.writeSup, this.both(writes, this.or(this.every(arch, ARCH.writable), this.not(this.every(arch, ARCH.wp)))));
    tag(TLB.execSup, this.every(arch, ARCH.executable));
    tag(TLB.readUser, this.every(arch, ARCH.user));
    tag(TLB.writeUser, this.both(writes, this.every(arch, ARCH.user | ARCH.writable)));
    tag(TLB.execUser, this.every(arch, ARCH.user | ARCH.executable));
  }
}
