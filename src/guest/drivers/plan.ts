// What the guest's drivers have to do, as data: a job for each device, and the devices' settings. A guest
// whose spec has a plan starts xenbus and the drivers of what it finds there.

export type DiskStep =
  /**
   * Pages (4 KiB) from `page` on get the pattern of `value`. `barrier`: everything before is on the disk first, everything
   * after later. `ahead`: the next step does not wait for it; the first one that is waited for then waits for all before it.
   */
  | { readonly do: 'write'; readonly page: number; readonly pages: number; readonly value: number; readonly barrier?: boolean; readonly ahead?: boolean }
  /** What was written is on the disk when it is over. */
  | { readonly do: 'flush' }
  /** Pages must hold the pattern of `value`. `ahead`: as for writes; they are looked at when they are waited for. */
  | { readonly do: 'check'; readonly page: number; readonly pages: number; readonly value: number; readonly ahead?: boolean }
  | { readonly do: 'sleep'; readonly ns: number };

export interface DiskJob {
  /** Its name in dom0: xvda. */
  readonly disk: string;
  readonly steps: readonly DiskStep[];
}

export type NetStep =
  | { readonly do: 'ping'; readonly to: string; readonly times: number }
  /** Datagrams to the other side's echo service. */
  | { readonly do: 'udp'; readonly to: string; readonly times: number }
  /** Nothing but answering others, for so long, or so many pings; with neither until the guest is told to stop. */
  | { readonly do: 'serve'; readonly ns?: number; readonly pings?: number };

export interface NetJob {
  /** vif0 is 0. */
  readonly vif: number;
  readonly ip: string;
  readonly steps: readonly NetStep[];
}

export interface DriverPlan {
  readonly disks?: readonly DiskJob[];
  readonly nets?: readonly NetJob[];
}

/** The pattern: each word says value, page and its own place, so that pieces of two writes never look like one. */
export function patternPage(value: number, page: number, into = new Uint32Array(1024)): Uint32Array {
  const first = (Math.imul(value, 0x9e37_79b1) ^ Math.imul(page + 1, 0x85eb_ca6b)) >>> 0;
  for (let i = 0; i < 1024; i++) into[i] = (first + Math.imul(i, 0x0100_0193)) >>> 0;
  return into;
}
