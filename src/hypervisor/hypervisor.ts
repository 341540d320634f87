// The hypervisor: domains, frames, and the doors through which guests and the world call it.
// CONTRACT SKELETON: members are fixed, bodies grow.
import type { MachineMemory } from '../machine/memory.ts';
import type { FrameTable } from './frame-table.ts';
import type { Domain, Vcpu } from './domain.ts';
import type { WorldPort } from './world-port.ts';
import type { XenBuild } from './personality.ts';

export interface Hypervisor {
  readonly machine: MachineMemory;
  readonly frames: FrameTable;
  readonly domains: Map<number, Domain>;
  readonly world: WorldPort;
  readonly build: XenBuild;
  domain(domId: number): Domain | undefined;
  vcpu(domId: number, vcpuId: number): Vcpu | undefined;
}
