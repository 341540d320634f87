// Gates of an IDT as the processor has them: SDM vol. 3, figure 6-2.
import type { Descriptor, Gate } from '../paravirt-ops/types.ts';

const INTERRUPT_GATE = 0x8e00;
const TRAP_GATE = 0x8f00;

export function gateWords({ handler, dpl, masks }: Gate, cs: number): Descriptor {
  return { lo: ((cs << 16) | (handler & 0xffff)) >>> 0, hi: ((handler & 0xffff_0000) | (masks ? INTERRUPT_GATE : TRAP_GATE) | (dpl << 13)) >>> 0 };
}
