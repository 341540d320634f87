// Group `apic`: the local APIC and what only several processors need. A domU of one vCPU has no APIC;
// its writes vanish and its reads give 0.
import type { Task } from '../operations.ts';

export interface PvApic {
  /** Register offset in bytes from the APIC's base, 0 <= register < 4096. */
  apic_write(register: number, value: number): Task;
  apic_read(register: number): Task<number>;
  /** The tick of the processor that boots. */
  setup_boot_clock(): Task;
  setup_secondary_clock(): Task;
  /** Before another processor is started: its number, entry and stack. */
  startup_ipi_hook(cpu: number, entryVaddr: number, stackVaddr: number): Task;
}
