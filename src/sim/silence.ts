// What it means that no vCPU can run and nothing is due: the guests have stopped for good (all events
// masked), or wait for something that can never come. And that nobody wants to run but one that yields.
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

/** Two steps of a request: a back end notices it, a disk carries it out. */
const SOON_NS = 100_000;

/**
 * The only vCPU that can run gives up its turn: it waits for dom0 by asking again and again, as PV GRUB does for
 * the store and its disk. Dom0 takes the turn if it has something to do soon, and the clock goes there. Else a
 * request would cost thousands of yields of a few instructions each, of which every one is an event.
 */
export function turnOfDom0(world: World): void {
  const untilNs = world.queue.nextAtNs();
  if (untilNs - world.nowNs() <= SOON_NS) world.jumpTo(untilNs);
}
