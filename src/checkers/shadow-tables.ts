// The two trees of a guest on shadow page tables, as whoever checks them reads them from memory: by the
// manual (SDM vol. 3, 4.3 and 4.4), sharing nothing with the host that fills them.
import type { MachineMemory } from '../machine/memory.ts';
import type { ShadowHost } from '../shadow/host.ts';

export interface ShadowView {
  readonly machine: MachineMemory;
  readonly pae: boolean;
  /** Machine address of the loaded shadow root; guest-physical one of the guest's. */
  readonly shadowRoot: number;
  readonly guestRoot: number;
  readonly p2m: readonly number[];
  /** Frames of shadow tables with their level and the guest table they stand for. */
  readonly tables: ReadonlyMap<number, { readonly level: number; readonly gpa: number }>;
  /** Linear addresses of the processor's translations, and of the page numbers that they are of: x86/tlb-layout.ts. */
  readonly tlbBases: readonly number[];
  readonly tlbVpnBases: readonly number[];
  /** Stores to the guest's tables are trapped. */
  readonly traps: boolean;
}

export function shadowViewOf({ pager, cr, cpu, style }: ShadowHost): ShadowView {
  const { machine, shape, p2m } = pager.options;
  const tables = new Map([...pager.tables.values()].map(({ mfn, level, gpa }) => [mfn, { level, gpa }]));
  return { machine, pae: shape.levels === 3, shadowRoot: cpu.cr(3), guestRoot: cr[3], p2m, tables, tlbBases: cpu.tlbBases, tlbVpnBases: cpu.tlbVpnBases, traps: style === 'kvm' };
}

export interface Entry {
  readonly present: boolean;
  readonly write: boolean;
  readonly user: boolean;
  readonly dirty: boolean;
  readonly nx: boolean;
  readonly frame: number;
}
/** Everything that a walk adds up. */
export interface Rights {
  readonly write: boolean;
  readonly user: boolean;
  readonly nx: boolean;
}
export const ALL: Rights = { write: true, user: true, nx: false };

export function entryAt({ machine, pae }: ShadowView, maddr: number): Entry {
  const lo = machine.readU32(maddr);
  const hi = pae ? machine.readU32(maddr + 4) : 0;
  return { present: (lo & 1) !== 0, write: (lo & 2) !== 0, user: (lo & 4) !== 0, dirty: (lo & 0x40) !== 0, nx: hi >>> 31 !== 0, frame: ((hi & 0xff) << 20) + (lo >>> 12) };
}

/** Of a table: its entries, the bytes of each, and the bits of the address below its index. */
export function tableSize({ pae }: ShadowView, level: number): { readonly count: number; readonly bytes: number; readonly shift: number } {
  if (!pae) return { count: 1024, bytes: 4, shift: level === 2 ? 22 : 12 };
  return { count: level === 3 ? 4 : 512, bytes: 8, shift: [12, 21, 30][level - 1] as number };
}

/** A PAE root's entries have no rights of their own. */
export function rightsWith(rights: Rights, entry: Entry, level: number): Rights {
  return level === 3 ? rights : { write: rights.write && entry.write, user: rights.user && entry.user, nx: rights.nx || entry.nx };
}

/** What the shadow tables say of a page; undefined: nothing. */
export function shadowOf(view: ShadowView, vaddr: number): { readonly entry: Entry; readonly rights: Rights } | undefined {
  let table = view.shadowRoot;
  let rights = ALL;
  for (let level = view.pae ? 3 : 2; ; level--) {
    const { count, bytes, shift } = tableSize(view, level);
    const entry = entryAt(view, table + (Math.floor(vaddr / 2 ** shift) % count) * bytes);
    if (!entry.present) return undefined;
    rights = rightsWith(rights, entry, level);
    if (level === 1) return { entry, rights };
    table = entry.frame * 4096;
  }
}

/** Frames of the guest's tables that have a shadow, but for PAE's roots. */
export const shadowedFrames = ({ tables, p2m }: ShadowView): ReadonlySet<number> => new Set([...tables.values()].filter(({ level }) => level < 3).map(({ gpa }) => p2m[gpa / 4096] as number));
