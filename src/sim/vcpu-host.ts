// Who stands below a vCPU: the hypervisor, or for a guest on shadow page tables a host of its own.
import type { Vcpu } from '../hypervisor/domain.ts';
import { enterGuest, handleExit, reloadSegments, timerFired } from '../hypervisor/vcpu-run.ts';
import type { TimerKind } from '../hypervisor/world-port.ts';
import type { ShadowHost } from '../shadow/host.ts';
import type { CpuExit } from '../x86/exit.ts';
import type { World } from './world.ts';

export type Hosts = Map<number, ShadowHost>;

/** Before the vCPU runs. A shadow host has nothing to do then: its interrupts wait at the processor. */
export function enterVcpu(world: World, vcpu: Vcpu): void {
  if (!world.hosts.has(vcpu.domain.domId)) enterGuest(world.hv, vcpu);
}

/** After it has run: does it go on? */
export function leaveVcpu(world: World, vcpu: Vcpu, exit: CpuExit): boolean {
  const host = world.hosts.get(vcpu.domain.domId);
  return (host === undefined ? handleExit(world.hv, vcpu, exit) : host.onExit(exit)) === 'run';
}

export function vcpuTimer(world: World, domId: number, vcpuId: number, timer: TimerKind): void {
  const host = world.hosts.get(domId);
  if (host === undefined) timerFired(world.hv, domId, vcpuId, timer);
  else host.timerFired();
}

/** It runs after another one has. */
export function switchedTo(world: World, vcpu: Vcpu): void {
  if (!world.hosts.has(vcpu.domain.domId)) reloadSegments(world.hv, vcpu);
}
