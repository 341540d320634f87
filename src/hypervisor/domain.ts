// Domains and vCPUs as plain records: everything here can be written to a checkpoint. Families of
// state live in their own files (event-channels.ts, grant-table.ts, ...) and hang from here.
import type { Cpu } from '../x86/cpu.ts';
import type { Abi, XenBuild } from './personality.ts';
import type { EventChannels } from './event-channels.ts';
import type { GrantTable } from './grant-table.ts';
import type { PerDomain } from './per-domain.ts';
import type { VcpuTimers } from './time.ts';

/** One row of a guest's virtual IDT (set_trap_table). */
export interface TrapGate {
  readonly cs: number;
  /** Address of the handler: u32, or signed canonical number for 64-bit guests. */
  readonly address: number;
  readonly dpl: number;
  /** Clear the upcall... i.e. set the event mask on entry (TI_GET_IF). */
  readonly maskEvents: boolean;
}

export interface Callback {
  readonly cs: number;
  readonly address: number;
  readonly maskEvents: boolean;
}

/** A table whose type reference is to be dropped; `partial`: it is half torn down already. */
export interface OldTable {
  readonly mfn: number;
  /** The table that held it as an entry (linear tables are counted), or -1. */
  readonly parentMfn: number;
  readonly partial: boolean;
}

export interface Vcpu {
  readonly domain: Domain;
  readonly vcpuId: number;
  /** The processor; undefined for scripted guests (conformance), which have only tables and memory. */
  cpu: Cpu | undefined;
  /** VCPUOP_up state; offline vCPUs do not run. */
  online: boolean;
  /** VCPUOP_initialise was done (vCPU 0: by the domain builder). */
  initialised: boolean;
  /** Blocked in SCHEDOP_block or poll. */
  blocked: boolean;
  polling: { readonly ports: readonly number[] } | undefined;
  /** mfn of the loaded kernel base table (and of the user one on pv64), 0 = none. */
  guestTableMfn: number;
  userTableMfn: number;
  /** pv64: in kernel mode. i386: derived from CPL; stays true. */
  kernelMode: boolean;
  kernelSs: number;
  kernelSp: number;
  traps: (TrapGate | undefined)[];
  eventCallback: Callback | undefined;
  failsafeCallback: Callback | undefined;
  syscallCallback: Callback | undefined;
  /** sysenter and 32-bit syscall entry points: kept because guests register them. */
  syscall32Callback: Callback | undefined;
  sysenterCallback: Callback | undefined;
  nmiPending: boolean;
  /** An NMI was delivered and the guest has not returned by iret since: no other is. */
  nmiInProgress: boolean;
  gdtFrames: number[];
  gdtEntries: number;
  ldtBase: number;
  ldtEntries: number;
  /** Virtual CR0.TS, CR4 as the guest sees them, debug registers. */
  taskSwitched: boolean;
  cr0Guest: number;
  cr4Guest: number;
  debugRegs: number[];
  cr2Guest: number;
  /** Virtual I/O privilege level (0..3) and I/O bitmap (linear address, ports covered), PHYSDEVOP_set_iopl/iobitmap. */
  iopl: number;
  ioBitmapVaddr: number;
  ioBitmapPorts: number;
  /** Machine address of struct vcpu_info (in shared_info, or where register_vcpu_info placed it). */
  vcpuInfoMaddr: number;
  /** The frame held by register_vcpu_info, 0 = still in the shared page. */
  vcpuInfoMfn: number;
  /** Linear address of the registered runstate area and time area, 0 = none. */
  runstateVaddr: number;
  timeVaddr: number;
  /** What could not be written to those areas, because a 64-bit guest's user tables do not map them: done on the way back to its kernel. */
  staleAreas: { runstate: boolean; time: boolean };
  runstate: { state: number; sinceNs: number; timesNs: number[] };
  timers: VcpuTimers;
  /** A page table whose teardown was interrupted or is still due: done first by the next MMU hypercall (old_guest_table). */
  oldTable: OldTable | undefined;
  /** Frames of the LDT that Xen has mapped, by page of the LDT; 0 = not mapped. */
  ldtFrames: number[];
  /** Inside HYPERVISOR_multicall, which may not nest. */
  inMulticall: boolean;
  /** Value of the TLB clock at this vCPU's last full flush (tlb-clock.ts). */
  tlbFlushedAt: number;
  /** 64-bit guests: the GS bases of the two modes. The one of the mode that runs is in the processor, and stale here. */
  segmentBases: { gsKernel: number; gsUser: number };
}

export type DomainLife =
  | { readonly kind: 'running' }
  | { readonly kind: 'shutdown'; readonly reason: number }
  /** Xen killed it; `why` is one sentence. */
  | { readonly kind: 'crashed'; readonly why: string }
  | { readonly kind: 'destroyed' };

export interface Domain {
  readonly domId: number;
  readonly name: string;
  readonly abi: Abi;
  readonly build: XenBuild;
  readonly privileged: boolean;
  vcpus: Vcpu[];
  life: DomainLife;
  paused: boolean;
  /** Memory accounting in frames. */
  totPages: number;
  maxPages: number;
  sharedInfoMfn: number;
  /** The memory map that the toolstack gave: one piece of RAM from address 0, in frames. */
  memoryMapPages?: number;
  /** VMASST_TYPE_* bits that are on. */
  vmAssist: number;
  events: EventChannels;
  grants: GrantTable;
  /** Xen's windows on descriptor tables; undefined for scripted guests. */
  perDomain: PerDomain | undefined;
  /** L2 tables on which a refused PAE root left a reference and a type for ever, as real Xen does; one entry each. */
  leakedTables: number[];
  /** 16 bytes. */
  handle: Uint8Array;
  /** SCHEDOP_shutdown_code: reported instead of the reason given later. */
  shutdownCode: number | undefined;
  /** SCHEDOP_watchdog timers: deadline in ns, undefined = free. Two, as Xen has. */
  watchdogs: (number | undefined)[];
  /** The frame of PHYSDEVOP_pirq_eoi_gmfn, held writable. */
  pirqEoiMfn?: number;
  /** CONSOLEIO_write output since the last newline. */
  consoleLine: string;
}
