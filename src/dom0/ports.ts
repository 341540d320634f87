// How back ends of dom0 see a guest: pages that it shares, a port to ring, work later, the log. The
// simulation implements these; tests have small ones. A back end never sees a hypervisor.

import type { FaultQuestion } from '../abi/faults.ts';
import type { PlantedBug } from '../abi/planted.ts';

/** A page of the guest that the back end has mapped; offsets within the page. The guest may change it at any time. */
export interface SharedPage {
  readU8(at: number): number;
  readU32(at: number): number;
  /** A copy. */
  readBytes(at: number, sizeBytes: number): Uint8Array;
  writeU8(at: number, value: number): void;
  writeU32(at: number, value: number): void;
  writeBytes(at: number, bytes: Uint8Array): void;
}

/** What a service of one guest's ring needs. */
export interface RingPort {
  readonly page: SharedPage;
  /** Sends an event to the guest through the service's channel. */
  notify(): void;
  nowNs(): number;
  /** Asks for run() at a later virtual time. */
  scheduleRun(delayNs: number): void;
  /** Whether a fault happens here. Absent: there are none. */
  readonly fault?: FaultQuestion;
  /** An event for the log; kinds as in abi/events.ts, the domain is the guest. */
  emit(kind: number, values: readonly number[], bytes?: Uint8Array): void;
}

export interface ConsolePort extends RingPort {
  /** The world's console: what the guest has printed. */
  output(bytes: Uint8Array): void;
}

/** A page that the guest granted, for as long as the back end keeps it. */
export interface GrantedPage extends SharedPage {
  readonly gref: number;
  readonly readOnly: boolean;
}

/**
 * What the back end of one device needs. All of the guest's answers are data: a grant that is refused
 * gives its GNTST_* status (below 0), a channel that cannot be bound gives false; nothing throws.
 */
export interface DevicePort {
  /** The guest's. */
  readonly domId: number;

  /** Keeps the granted page until unmapGrant(). */
  mapGrant(gref: number, readOnly: boolean): GrantedPage | number;
  unmapGrant(page: GrantedPage): void;
  /** A page that has been mapped before: what restore() needs. */
  mappedGrant(gref: number, readOnly: boolean): GrantedPage;
  /** Copies within one page out of a grant, as GNTTABOP_copy by dom0: the bytes, or the status. */
  copyFromGrant(gref: number, offset: number, sizeBytes: number): Uint8Array | number;
  /** Copies within one page into a grant: 0, or the status. */
  copyToGrant(gref: number, offset: number, bytes: Uint8Array): number;

  /** Binds the other end of a port that the guest left unbound for dom0. run() follows at once, and with each event. */
  bindChannel(guestPort: number): boolean;
  unbindChannel(guestPort: number): void;
  notify(guestPort: number): void;

  /** Xenstore as dom0 (absolute paths). Values hold one byte a character. */
  readStore(path: string): string | undefined;
  writeStore(path: string, value: string): void;
  removeStore(path: string): void;
  /** changed() follows, after a latency, whenever the node or one below it changes, and once at first. */
  watchStore(path: string): void;
  unwatchStore(path: string): void;

  nowNs(): number;
  /** Asks for run() at a later virtual time. */
  scheduleRun(delayNs: number): void;
  /** Asks the seeded scheduler: 0..options-1; names as in sim/choices.ts. */
  choose(name: string, options: number): number;
  /** Whether a fault happens here. Absent: there are none. */
  readonly fault?: FaultQuestion;
  /** The mistake that back ends are to make, if one is planted. */
  readonly planted?: PlantedBug;
  /** An event for the log; kinds as in abi/events.ts, the domain is the guest. */
  emit(kind: number, values: readonly number[], bytes?: Uint8Array): void;
}

/** A disk's content as the host has it: never changed. Reads past the end give fewer bytes. */
export interface ImageReader {
  readonly sizeBytes: number;
  /** There are only zeros, however large it is. */
  readonly blank?: true;
  /** A copy. */
  read(offset: number, sizeBytes: number): Uint8Array;
}
