// A world in which nothing moves: time stands still, nobody listens, choices come from a function.
// For tests of parts that need a hypervisor but no run loop.
import { MachineMemory } from '../../src/machine/memory.ts';
import { createHypervisor, type Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { XEN_BUILDS } from '../../src/hypervisor/personality.ts';
import type { WorldPort } from '../../src/hypervisor/world-port.ts';

export interface Emitted {
  readonly kind: number;
  readonly domId: number;
  readonly values: readonly number[];
}

export function stillHypervisor(memoryMib: number, choose: (name: string, options: number) => number = () => 0): { hv: Hypervisor; emitted: Emitted[] } {
  const emitted: Emitted[] = [];
  const world: WorldPort = {
    nowNs: () => 0,
    tscKhz: () => 1_000_000,
    wallClockAtZeroSec: () => 1_167_609_600,
    setTimer: () => {},
    vcpuRunnable: () => {},
    yielded: () => {},
    notifyBackend: () => {},
    domainShutdown: () => {},
    preempt: () => false,
    emit: (kind, domId, _vcpuId, values) => void emitted.push({ kind, domId, values }),
    choose,
  };
  const hv = createHypervisor({ machine: new MachineMemory({ frameCount: memoryMib * 256 }), world, build: XEN_BUILDS.release, hypercallRows: {} });
  return { hv, emitted };
}
