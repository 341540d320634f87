// The switches of a world and the hosts on them, as a service of domain 0. A world without network
// interfaces and bridges has none: nothing of it is saved, due or logged.
import type { FaultName } from '../abi/faults.ts';
import { EVENT } from '../abi/events.ts';
import { Network } from '../dom0/net/network.ts';
import { planBridges, type VifPlace } from '../dom0/net/network-spec.ts';
import type { World } from './world.ts';

const SERVICE = 'network';
/** A frame on a quiet wire is under way for one of this many multiples of LATENCY_UNIT_NS. */
const LATENCY_STEPS = 16;
const LATENCY_UNIT_NS = 1000;

/** Throws UsageError when the spec's addresses contradict each other. */
export function createNetwork(world: World): Network {
  const { bridges = [], domains } = world.spec;
  const vifs = domains.flatMap((domain) => (domain.vifs ?? []).map((vif): VifPlace => ({ domain: domain.name, mac: vif.mac, bridge: vif.bridge, ...(vif.ip === undefined ? {} : { ip: vif.ip }) })));
  const network = new Network(planBridges(bridges, vifs), {
    nowNs: () => world.nowNs(),
    wakeAt: (ns) => world.services.scheduleOnly(0, SERVICE, ns),
    latencyNs: () => (1 + world.choose('net.latency', LATENCY_STEPS)) * LATENCY_UNIT_NS,
    ...(world.spec.faults === undefined ? {} : { fault: (name: FaultName) => world.fault(name, 0) }),
    note: (text) => world.emit(EVENT.note, 0, 0, [], new TextEncoder().encode(text)),
  });
  if (bridges.length > 0 || vifs.length > 0) world.services.add(0, { name: SERVICE, run: () => network.run(), save: () => network.save(), restore: (state) => network.restore(state) }, []);
  return network;
}
