// What it means that no vCPU can run and nothing is due: the guests have stopped for good (all events
// masked), or wait for something that can never come.
import type { Vcpu } from '../hypervisor/domain.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import type { Outcome } from './outcome.ts';
import type { World } from './world.ts';

export function outcomeOfSilence(hv: Hypervisor): { readonly outcome: Outcome; readonly text: string } {
  const live = [...hv.domains.values()].filter((domain) => domain.life.kind === 'running');
  const masked = (vcpu: Vcpu): boolean => !vcpu.online || hv.machine.readU8(vcpu.vcpuInfoMaddr + 1) !== 0;
  const halted = live.every(({ vcpus }) => vcpus.every((vcpu) => !vcpu.online || vcpu.polling === undefined) && vcpus.every(masked));
  if (halted) return { outcome: 'halted', text: 'every vCPU is blocked with events masked' };
  return { outcome: 'stuck', text: 'every vCPU is blocked, no timer is set and no back end has anything to say' };
}

/** More virtual time has passed than the spec allows. */
export const endOfTime = (world: World): void => world.end('limit', `${world.spec.maxVirtualSec} s of virtual time passed without an end; allow more with --set max-time=SECONDS`);
