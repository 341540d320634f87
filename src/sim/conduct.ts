// What a guest and dom0's back ends owe each other, judged where a back end touches the guest: pages stay
// granted until they are given back, and who has closed holds no port. A hostile guest may do otherwise, and
// no hypervisor minds; so it ends a run only where the spec says that everybody is to behave (`conduct`).
import { EVENT } from '../abi/events.ts';
import { GTF, readEntry, statusMaddr } from '../hypervisor/grant-table.ts';
import type { World } from './world.ts';

function misconduct(world: World, domId: number, text: string): void {
  world.emit(EVENT.note, domId, 0, [], new TextEncoder().encode(`misconduct: ${text}`));
  world.end('misconduct', text);
}

/** A back end is about to give a page back that it has mapped. */
export function judgeUnmap(world: World, domId: number, gref: number): void {
  const grants = world.hv.domain(domId)?.grants;
  if (world.spec.conduct !== true || grants === undefined || !grants.backendMappings.some((mapping) => mapping.gref === gref)) return;
  const flags = grants.version === 1 ? readEntry(world.hv, grants, gref).flags : world.machine.readU16(statusMaddr(grants, gref));
  if ((flags & GTF.reading) === 0) misconduct(world, domId, `domain ${domId} ended grant ${gref} while a back end had the page mapped`);
}

/** A back end has closed. `channels`: ports of the guest's that it has bound. */
export function judgeClosed(world: World, domId: number, service: string, channels: ReadonlyMap<number, number>): void {
  if (world.spec.conduct !== true || channels.size === 0) return;
  misconduct(world, domId, `the back end of ${service} of domain ${domId} has closed and keeps port ${[...channels.keys()].join(', ')} bound`);
}
