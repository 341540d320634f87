// How back ends of dom0 see a guest: pages that it shares, a port to ring, work later, the log. The
// simulation implements these; tests have small ones. A back end never sees a hypervisor.

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
  /** Asks for run() at a later virtual time. */
  scheduleRun(delayNs: number): void;
  /** An event for the log; kinds as in abi/events.ts, the domain is the guest. */
  emit(kind: number, values: readonly number[], bytes?: Uint8Array): void;
}

export interface ConsolePort extends RingPort {
  /** The world's console: what the guest has printed. */
  output(bytes: Uint8Array): void;
}
