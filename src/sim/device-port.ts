// The ports of dom0's back ends, implemented over a world and its hypervisor: pages, grants, event
// channels, the store, the agenda. Nothing here decides anything.
import type { DevicePort, GrantedPage, RingPort, SharedPage } from '../dom0/ports.ts';
import { assert } from '../base/assert.ts';
import { BIND_HOW, EVENT, valueIndex } from '../abi/events.ts';
import { XENBUS_STATE } from '../abi/xenbus.ts';
import type { Xenstored } from '../dom0/xenstored.ts';
import { connectBackend, disconnectBackend } from '../hypervisor/event-channels.ts';
import { GNTST } from '../hypervisor/grant-table.ts';
import { mapForBackend, readThroughGrant, unmapForBackend, writeThroughGrant } from '../hypervisor/grant-table-backend.ts';
import type { MachineMemory } from '../machine/memory.ts';
import { judgeClosed, judgeUnmap } from './conduct.ts';
import { notifyGuest } from './fault-sites.ts';
import type { World } from './world.ts';

export function ringPort(world: World, domId: number, service: string, mfn: number, port: number): RingPort {
  return {
    page: sharedPage(world.machine, mfn),
    notify: () => notifyGuest(world, domId, port, port),
    nowNs: () => world.nowNs(),
    scheduleRun: (delayNs) => world.services.schedule(domId, service, delayNs),
    fault: (name) => world.fault(name, domId),
    emit: (kind, values, bytes) => world.emit(kind, domId, 0, values, bytes),
  };
}

export function sharedPage(machine: MachineMemory, mfn: number): SharedPage {
  const base = mfn * 4096;
  return {
    readU8: (at) => machine.readU8(base + at),
    readU32: (at) => machine.readU32(base + at),
    readBytes: (at, sizeBytes) => machine.readBytes(base + at, sizeBytes),
    writeU8: (at, value) => machine.writeU8(base + at, value),
    writeU32: (at, value) => machine.writeU32(base + at, value),
    writeBytes: (at, bytes) => machine.writeBytes(base + at, bytes),
  };
}

export interface DeviceWiring {
  readonly world: World;
  readonly store: Xenstored;
  readonly domId: number;
  /** Of the agenda, and the token of its watches. */
  readonly service: string;
  /** The guest's ports that are bound now, and dom0's numbers for them; saved with the device. */
  readonly channels: Map<number, number>;
  /** A number that dom0 has not used for a port yet. */
  readonly newPort: () => number;
}

export const watchToken = (domId: number, service: string): string => `${domId}:${service}`;

export function devicePort(wiring: DeviceWiring): DevicePort {
  const { world, store, domId, service, channels } = wiring;
  const { hv, machine } = world;
  const token = watchToken(domId, service);
  const granted = (gref: number, readOnly: boolean, mfn: number): GrantedPage => ({ ...sharedPage(machine, mfn), gref, readOnly });
  return {
    domId,
    mapGrant: (gref, readOnly) => {
      if (world.fault('grant.map', domId) > 0) return GNTST.no_device_space;
      const { status, mfn } = mapForBackend(hv, domId, gref, readOnly);
      return status === GNTST.okay ? granted(gref, readOnly, mfn) : status;
    },
    unmapGrant: ({ gref, readOnly }) => {
      judgeUnmap(world, domId, gref);
      unmapForBackend(hv, domId, gref, readOnly);
    },
    mappedGrant: (gref, readOnly) => {
      const mapping = hv.domain(domId)?.grants.backendMappings.find((row) => row.gref === gref && row.readOnly === readOnly);
      assert(mapping !== undefined, () => `d${domId}'s grant ${gref} is not mapped`);
      return granted(gref, readOnly, mapping.mfn);
    },
    copyFromGrant: (gref, offset, sizeBytes) => readThroughGrant(hv, domId, gref, offset, sizeBytes),
    copyToGrant: (gref, offset, bytes) => writeThroughGrant(hv, domId, gref, offset, bytes),
    bindChannel: (guestPort) => {
      const ownPort = wiring.newPort();
      const bound = connectBackend(hv, domId, guestPort, ownPort);
      world.emit(EVENT.evtchnBind, 0, 0, [valueIndex(BIND_HOW, 'interdomain'), ownPort, domId, guestPort, 0, bound ? 0 : -22]);
      if (!bound) return false;
      channels.set(guestPort, ownPort);
      world.services.connectPort(domId, guestPort, service);
      // bind_interdomain leaves the new port pending: what the guest did before is seen.
      world.services.schedule(domId, service, world.latencyNs());
      return true;
    },
    unbindChannel: (guestPort) => {
      const ownPort = channels.get(guestPort);
      if (ownPort === undefined) return;
      channels.delete(guestPort);
      world.services.connectPort(domId, guestPort, undefined);
      disconnectBackend(hv, domId, guestPort, ownPort);
      world.emit(EVENT.evtchnClose, 0, 0, [ownPort, 0]);
    },
    notify: (guestPort) => {
      const ownPort = channels.get(guestPort);
      if (ownPort !== undefined) notifyGuest(world, domId, guestPort, ownPort);
    },
    readStore: (path) => store.readAsDom0(path),
    writeStore: (path, value) => store.writeAsDom0(path, value),
    removeStore: (path) => store.removeAsDom0(path),
    watchStore: (path) => store.watchAsDom0(path, token),
    unwatchStore: (path) => store.unwatchAsDom0(path, token),
    nowNs: () => world.nowNs(),
    scheduleRun: (delayNs) => world.services.schedule(domId, service, delayNs),
    choose: (name, options) => world.choose(name, options),
    fault: (name) => world.fault(name, domId),
    ...(world.spec.bug === undefined ? {} : { planted: world.spec.bug }),
    emit: (kind, values, bytes) => {
      world.emit(kind, domId, 0, values, bytes);
      if (kind === EVENT.deviceState && values[2] === XENBUS_STATE.closed) judgeClosed(world, domId, service, channels);
    },
  };
}
