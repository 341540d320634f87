// An address space: a root table and the areas that a process has mapped. Areas are private and
// anonymous: pages of zeros until written to, copied on write after a fork.
import type { Mm } from '../paravirt-ops/types.ts';
import { PAGE_OFFSET } from '../entries.ts';

export interface Area {
  /** Linear addresses, multiples of the page size: [from, to). */
  readonly from: number;
  readonly to: number;
  readonly readable: boolean;
  readonly writable: boolean;
}

const PROT = { read: 1, write: 2 } as const;
/** The first page stays unmapped, as everywhere. */
const LOWEST = 0x1000;
/** Areas of one process. */
const MOST_AREAS = 1024;

export class AddressSpace implements Mm {
  readonly id: number;
  readonly pgdVaddr: number;
  readonly pgdPfn: number;
  exiting = false;
  /** It has been switched to, or a fork has handed it over: activate_mm or dup_mmap was called. */
  activated = false;
  areas: readonly Area[] = [];
  /** Which L1 tables there are, by linear address divided by what one maps. They go with the address space. */
  readonly tableSlots = new Set<number>();

  constructor(id: number, pgdVaddr: number, pgdPfn: number) {
    this.id = id;
    this.pgdVaddr = pgdVaddr;
    this.pgdPfn = pgdPfn;
  }

  areaAt(vaddr: number): Area | undefined {
    return this.areas.find((area) => vaddr >= area.from && vaddr < area.to);
  }

  /** Does the range lie in user space, whole pages, and not empty? */
  static rangeOk(from: number, pages: number): boolean {
    return from % 4096 === 0 && from >= LOWEST && pages > 0 && pages <= 0xc0000 && from + pages * 4096 <= PAGE_OFFSET;
  }

  /** Takes [from, to) out of the areas: areas are cut where they cross its ends. */
  #without(from: number, to: number): Area[] {
    const rest: Area[] = [];
    for (const area of this.areas) {
      if (area.to <= from || area.from >= to) rest.push(area);
      else {
        if (area.from < from) rest.push({ ...area, to: from });
        if (area.to > to) rest.push({ ...area, from: to });
      }
    }
    return rest;
  }
  #put(areas: Area[]): boolean {
    if (areas.length > MOST_AREAS) return false;
    this.areas = areas.sort((a, b) => a.from - b.from);
    return true;
  }

  /** The pages under the range are gone already. False: too many areas. */
  map(from: number, pages: number, prot: number): boolean {
    const to = from + pages * 4096;
    return this.#put([...this.#without(from, to), { from, to, readable: prot !== 0, writable: (prot & PROT.write) !== 0 }]);
  }
  unmap(from: number, pages: number): boolean {
    return this.#put(this.#without(from, from + pages * 4096));
  }
  /** False: some of the range is not mapped, and nothing has changed. */
  protect(from: number, pages: number, prot: number): boolean {
    const to = from + pages * 4096;
    let covered = from;
    const changed: Area[] = [];
    for (const area of this.areas) {
      if (area.to <= from || area.from >= to) continue;
      if (area.from > covered) return false;
      covered = area.to;
      changed.push({ from: Math.max(area.from, from), to: Math.min(area.to, to), readable: prot !== 0, writable: (prot & PROT.write) !== 0 });
    }
    return covered >= to && this.#put([...this.#without(from, to), ...changed]);
  }
}
