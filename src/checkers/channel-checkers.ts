// Checkers of event channels and grants, and of what a domain leaves behind.
//
// Not checked: bits that guests may write at any time (pending, mask, selector, the flags of a shared
// grant entry), except where only Xen can have written them last: see checkWaiting.
import { DOMID } from '../abi/domid.ts';
import type { Domain } from '../hypervisor/domain.ts';
import type { EventPort } from '../hypervisor/event-channels.ts';
import type { PinCounts } from '../hypervisor/grant-table.ts';
import { domainText, frameText, type Checker, type Report } from './checker.ts';
import type { Survey } from './survey.ts';

// -- event channels -------------------------------------------------------------------------------

/** VIRQs that each vCPU binds for itself: TIMER, DEBUG, XENOPROF, XENPMU (get_virq_type()). */
const PER_VCPU_VIRQS: ReadonlySet<number> = new Set([0, 1, 7, 13]);

function checkEventChannels({ hv, machine }: Survey, report: Report): void {
  for (const domain of hv.domains.values()) {
    domain.events.ports.forEach((entry, port) => {
      if (entry.binding.kind !== 'free') checkPort(hv.domains, domain, port, entry, (text) => report(`${domainText(domain)} port ${port}`, text));
    });
    domain.events.virqPorts.forEach((ports, vcpuId) => ports.forEach((port, virq) => {
      const binding = port === 0 ? undefined : domain.events.ports[port]?.binding;
      if (port !== 0 && (binding?.kind !== 'virq' || binding.virq !== virq)) report(`${domainText(domain)}v${vcpuId} VIRQ ${virq}`, `is said to be at port ${port}, which is ${binding?.kind ?? 'none'}`);
    }));
    checkWaiting(domain, machine.u8, machine.ramBase, report);
    checkFifo(domain, report);
  }
}

function checkPort(domains: ReadonlyMap<number, Domain>, domain: Domain, port: number, entry: EventPort, report: (text: string) => void): void {
  const { binding } = entry;
  if (port > domain.events.maxPort) report(`is beyond the domain's last port, ${domain.events.maxPort}`);
  if (port === 0 && binding.kind !== 'reserved') report(`is ${binding.kind}; port 0 is reserved`);
  if (domain.vcpus.length > 0 && domain.vcpus[entry.notifyVcpuId] === undefined) report(`notifies vCPU ${entry.notifyVcpuId}, which does not exist`);
  switch (binding.kind) {
    case 'reserved':
      if (port !== 0) report('was taken and never bound');
      return;
    case 'interdomain': {
      const far = domains.get(binding.remoteDomId)?.events.ports[binding.remotePort]?.binding;
      if (far?.kind !== 'interdomain' || far.remoteDomId !== domain.domId || far.remotePort !== port) {
        const there = far === undefined ? 'does not exist' : far.kind === 'interdomain' ? `is bound to d${far.remoteDomId} port ${far.remotePort}` : `is ${far.kind}`;
        report(`is bound to d${binding.remoteDomId} port ${binding.remotePort}, which ${there}`);
      }
      return;
    }
    case 'virq': {
      const vcpuId = PER_VCPU_VIRQS.has(binding.virq) ? entry.notifyVcpuId : 0;
      const at = domain.events.virqPorts[vcpuId]?.[binding.virq] ?? 0;
      if (at !== port) report(`is bound to VIRQ ${binding.virq}, which is said to be at port ${at}`);
      return;
    }
    case 'free':
    case 'unbound':
    case 'backend':
    case 'ipi':
      return;
  }
}

/** A vCPU that waits (SCHEDOP_block) has no event to take: with one vCPU, nobody but Xen can have written these bytes since. */
function checkWaiting(domain: Domain, u8: Uint8Array, ramBase: number, report: Report): void {
  const vcpu = domain.vcpus[0];
  if (vcpu === undefined || domain.vcpus.length !== 1 || domain.life.kind !== 'running' || !vcpu.blocked || vcpu.polling !== undefined || vcpu.vcpuInfoMaddr === 0) return;
  const at = ramBase + vcpu.vcpuInfoMaddr;
  if (u8[at] !== 0 && u8[at + 1] === 0) report(`${domainText(domain)}v0`, 'waits although an event is pending and not masked');
}

function checkFifo(domain: Domain, report: Report): void {
  const { fifo, ports } = domain.events;
  fifo?.vcpus.forEach(({ tails, controlMaddr }, vcpuId) => tails.forEach((tail, queue) => {
    if (tail === 0) return;
    if (controlMaddr === 0 || ports[tail] === undefined || Math.floor(tail / 1024) >= fifo.arrayMfns.length) report(`${domainText(domain)}v${vcpuId} queue ${queue}`, `ends at port ${tail}, which has no place in the event array`);
  }));
}

export const eventChannelsChecker: Checker = {
  name: 'eventChannels',
  claim: 'every binding of a port has its other side: the remote port, or the VIRQ; and nobody waits with an event to take',
  check: checkEventChannels,
};

// -- grants ---------------------------------------------------------------------------------------

/** GNTMAP_*, xen/include/public/grant_table.h. */
const MAP = { device: 1, host: 2, readonly: 4 } as const;

function addPins(pins: Map<number, PinCounts>, gref: number, flags: number): void {
  const sum = pins.get(gref) ?? { hostWrite: 0, hostRead: 0, devWrite: 0, devRead: 0 };
  pins.set(gref, sum);
  const readOnly = (flags & MAP.readonly) !== 0;
  if ((flags & MAP.host) !== 0) sum[readOnly ? 'hostRead' : 'hostWrite']++;
  if ((flags & MAP.device) !== 0) sum[readOnly ? 'devRead' : 'devWrite']++;
}
/** Xen keeps four counts of one byte each (xen/common/grant_table.c, GNTPIN_*). */
const MOST_USES = 255;
const pinText = (pin: PinCounts | undefined): string => (pin === undefined ? 'none' : `host ${pin.hostWrite} writable, ${pin.hostRead} read-only, device ${pin.devWrite} and ${pin.devRead}`);

function checkGrants({ hv, frames }: Survey, report: Report): void {
  /** What all handles and back ends say, by granting domain and reference. */
  const found = new Map<number, Map<number, PinCounts>>();
  const pinsOf = (domId: number): Map<number, PinCounts> => {
    const pins = found.get(domId) ?? new Map<number, PinCounts>();
    found.set(domId, pins);
    return pins;
  };
  for (const domain of hv.domains.values()) {
    domain.grants.maptrack.forEach((mapping, handle) => {
      if (mapping.flags === 0) return;
      addPins(pinsOf(mapping.domId), mapping.gref, mapping.flags);
      const active = hv.domains.get(mapping.domId)?.grants.active[mapping.gref];
      if (active === undefined) report(`${domainText(domain)} handle ${handle}`, `maps grant ${mapping.gref} of d${mapping.domId}, which is not in use`);
      else if (active.domId !== domain.domId) report(`${domainText(domain)} handle ${handle}`, `maps grant ${mapping.gref} of d${mapping.domId}, which is granted to d${active.domId}`);
    });
    for (const { gref, readOnly } of domain.grants.backendMappings) addPins(pinsOf(domain.domId), gref, MAP.host | (readOnly ? MAP.readonly : 0));
    checkHandles(domain, report);
  }
  for (const domain of hv.domains.values()) {
    const pins = found.get(domain.domId);
    for (const [key, active] of Object.entries(domain.grants.active)) {
      const gref = Number(key);
      const expected = pins?.get(gref);
      const same = expected !== undefined && (['hostWrite', 'hostRead', 'devWrite', 'devRead'] as const).every((kind) => expected[kind] === active.pin[kind]);
      if (!same) report(`${domainText(domain)} grant ${gref}`, `mappings found: ${pinText(expected)}; counted: ${pinText(active.pin)}`);
      const { hostWrite, hostRead, devWrite, devRead } = active.pin;
      if (Math.max(hostWrite, hostRead, devWrite, devRead) > MOST_USES) report(`${domainText(domain)} grant ${gref}`, `is used more often than eight bits can count: ${pinText(active.pin)}`);
      // A host mapping's reference is its page-table entry's. A guest of a release build may overwrite that
      // entry and keep the handle; so only uses that hold the frame themselves say whose it must be.
      const holds = active.pin.devWrite + active.pin.devRead > 0 || domain.grants.backendMappings.some((mapping) => mapping.gref === gref);
      if (holds && (!frames.has(active.mfn) || frames.owner[active.mfn] !== domain.domId || frames.refCount[active.mfn] === 0)) report(`${domainText(domain)} grant ${gref}`, `is in use, but its frame is not the domain's: ${frames.describe(active.mfn)}`);
    }
  }
}

/** Handles are in use or free, each once. */
function checkHandles(domain: Domain, report: Report): void {
  const { maptrack, freeHandles } = domain.grants;
  if (maptrack.length === 0 && freeHandles.length === 0) return;
  const free = new Uint8Array(maptrack.length);
  for (const handle of freeHandles) {
    if (handle >= maptrack.length || free[handle] !== 0) report(`${domainText(domain)} handle ${handle}`, 'is free twice, or does not exist');
    free[handle] = 1;
  }
  maptrack.forEach(({ flags }, handle) => {
    if ((flags !== 0) === (free[handle] === 1)) report(`${domainText(domain)} handle ${handle}`, flags !== 0 ? 'is in use and free' : 'is neither in use nor free');
  });
}

export const grantsChecker: Checker = {
  name: 'grants',
  claim: 'a grant counts as many uses of each kind as handles and back ends hold, and a frame that they hold is the granting domain\'s',
  check: checkGrants,
};

// -- ends -----------------------------------------------------------------------------------------

function checkEndings({ hv, frames, refs, used, usedCount }: Survey, report: Report): void {
  const { owner } = frames;
  const firstReserved: number = DOMID.FIRST_RESERVED;
  let last = -1;
  let isGone = false;
  let isDying = false;
  for (let i = 0; i < usedCount; i++) {
    const mfn = used[i] as number;
    const of = owner[mfn] as number;
    if (of !== last) {
      last = of;
      const domain = of < firstReserved ? hv.domains.get(of) : undefined;
      isGone = of < firstReserved && domain === undefined;
      isDying = domain?.life.kind === 'destroyed';
    }
    if (isGone) report(frameText(mfn), `belongs to d${of}, which does not exist: ${frames.describe(mfn)}`);
    // What is left is what others map.
    if (isDying && (refs[mfn] === 0 || (frames.typeCount[mfn] as number) > (refs[mfn] as number))) report(frameText(mfn), `was not given back when d${of} ended: ${frames.describe(mfn)}`);
  }
  for (const domain of hv.domains.values()) if (domain.life.kind === 'destroyed') checkRemains(domain, report);
}

function checkRemains(domain: Domain, report: Report): void {
  const { events, grants, vcpus } = domain;
  const left: readonly (readonly [string, boolean])[] = [
    ['ports', events.ports.some(({ binding }) => binding.kind !== 'free' && binding.kind !== 'reserved')],
    ['VIRQs', events.virqPorts.some((ports) => ports.some((port) => port !== 0))],
    ['an event array', events.fifo !== undefined],
    ['mapped grants', grants.maptrack.some(({ flags }) => flags !== 0) || grants.backendMappings.length > 0],
    ['grant frames', grants.sharedMfns.length + grants.statusMfns.length > 0],
    ['base tables', vcpus.some((vcpu) => vcpu.guestTableMfn !== 0 || vcpu.userTableMfn !== 0 || vcpu.oldTable !== undefined)],
    ['descriptor tables', vcpus.some((vcpu) => vcpu.gdtFrames.length > 0 || vcpu.ldtFrames.some((mfn) => mfn !== 0))],
    ['a registered vcpu_info', vcpus.some((vcpu) => vcpu.vcpuInfoMfn !== 0)],
    ['leaked tables', domain.leakedTables.length > 0],
  ];
  for (const [what, isLeft] of left) if (isLeft) report(domainText(domain), `has ended and still has ${what}`);
}

export const endingsChecker: Checker = {
  name: 'endings',
  claim: 'a domain that has ended holds nothing; only frames that others still map are left of it',
  check: checkEndings,
};
