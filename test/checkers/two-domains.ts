// Two small PAE guests with real processors on one machine, as the domain builder leaves them.
import { readFileSync } from 'node:fs';
import { buildDomain, type BuiltDomain } from '../../src/hypervisor/build/build-domain.ts';
import { parseKernel } from '../../src/hypervisor/build/kernel-image.ts';
import { pvCpuid } from '../../src/hypervisor/cpuid.ts';
import { hypercallRows } from '../../src/hypervisor/hypercall-rows.ts';
import { createHypervisor, type Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { XEN_BUILDS } from '../../src/hypervisor/personality.ts';
import type { WorldPort } from '../../src/hypervisor/world-port.ts';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import type { Cpu } from '../../src/x86/cpu.ts';

export interface TwoDomains {
  readonly hv: Hypervisor;
  readonly cpus: readonly [Cpu, Cpu];
  readonly built: readonly [BuiltDomain, BuiltDomain];
}

const kernel = readFileSync(new URL('../../scenarios/guests/images/pv-i386-pae.elf', import.meta.url));

export function twoDomains(): TwoDomains {
  const world: WorldPort = {
    nowNs: () => 0, tscKhz: () => 1_000_000, wallClockAtZeroSec: () => 0, setTimer: () => {}, vcpuRunnable: () => {}, yielded: () => {},
    notifyBackend: () => {}, domainShutdown: () => {}, preempt: () => false, choose: () => 0, emit: () => {},
  };
  const machine = new MachineMemory({ frameCount: 18 * 256, arenaBytes: 8 * 1024 * 1024 });
  const hv = createHypervisor({ machine, world, build: XEN_BUILDS.release, hypercallRows });
  const image = parseKernel(kernel);
  if ('problem' in image) throw new Error(image.problem);
  const processor = (): Cpu => createCpu(machine, { exceptions: 'exit', cpuid: pvCpuid, pdpteCached: image.abi.startsWith('xen3') });
  const cpus: [Cpu, Cpu] = [processor(), processor()];
  const built = cpus.map((cpu, index) => {
    const answer = buildDomain(hv, { domId: index + 1, name: `guest${index + 1}`, image, memoryMib: 8, cmdline: '', cpus: [cpu] });
    if ('problem' in answer) throw new Error(answer.problem);
    return answer;
  });
  return { hv, cpus, built: built as [BuiltDomain, BuiltDomain] };
}
