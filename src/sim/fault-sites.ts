// Faults that the world itself injects: events of dom0 that reach a guest late, never, twice or together,
// time that the host takes away, domains that it pauses.
import { notifyFromBackend } from '../hypervisor/event-channels.ts';
import { pauseDomain } from '../hypervisor/vcpu-state.ts';
import { EVENT } from '../abi/events.ts';
import type { Agenda } from './event-queue.ts';
import { FaultInjector } from './fault-injector.ts';
import type { World } from './world.ts';

const DELAY_NS = 25_000;
const DUPLICATE_NS = 10_000;
const MERGE_NS = 1_000_000;
const CLOCK_JUMP_NS = 1_000_000;
const PAUSE_NS = 100_000;

export type { FaultInjector };

export const createFaults = (world: World): FaultInjector =>
  new FaultInjector(world.spec.faults ?? [], {
    nowNs: () => world.nowNs(),
    choose: (name, options) => world.choose(name, options),
    happened: (fault, argument, domId) => world.emit(EVENT.fault, domId, 0, [world.nameNumber(`fault.${fault}`), argument]),
  });

/** A back end of dom0 sends an event to the guest's port. */
export function notifyGuest(world: World, domId: number, port: number, remotePort: number): void {
  const later = (delayNs: number): void => world.queue.add(world.nowNs() + delayNs, { kind: 'notify', domId, port, remotePort });
  if (world.faults.ask('upcall.drop', domId) > 0) return;
  if (world.faults.ask('upcall.merge', domId) > 0) return later(MERGE_NS);
  const delay = world.faults.ask('upcall.delay', domId);
  if (delay > 0) return later(delay * DELAY_NS);
  if (world.faults.ask('upcall.duplicate', domId) > 0) later(DUPLICATE_NS);
  // Whoever waits to be merged goes with this one.
  world.queue.cancel((what) => what.kind === 'notify' && what.domId === domId && what.port === port && what.remotePort === remotePort);
  notifyFromBackend(world.hv, domId, port, remotePort);
}

/** An event that was held back arrives. */
export function deliverLate(world: World, { domId, port, remotePort }: Extract<Agenda, { kind: 'notify' }>): void {
  notifyFromBackend(world.hv, domId, port, remotePort);
}

/** Before the scheduler picks somebody. */
export function disturbDomains(world: World): void {
  for (const domain of world.hv.domains.values()) {
    if (domain.life.kind !== 'running' || domain.paused) continue;
    const jump = world.faults.ask('clock.jump', domain.domId);
    if (jump > 0) world.jumpTo(world.nowNs() + jump * CLOCK_JUMP_NS);
    const pause = world.faults.ask('domain.pause', domain.domId);
    if (pause === 0) continue;
    pauseDomain(world.hv, domain, true);
    world.queue.add(world.nowNs() + pause * PAUSE_NS, { kind: 'unpause', domId: domain.domId });
  }
}

export function endPause(world: World, domId: number): void {
  const domain = world.hv.domain(domId);
  if (domain !== undefined) pauseDomain(world.hv, domain, false);
}
