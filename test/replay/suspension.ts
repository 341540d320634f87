// What a test sees of a guest that is suspended.
import { EVENT } from '../../src/abi/events.ts';
import { INVALID_M2P } from '../../src/hypervisor/frame-table.ts';
import type { EventSink, World } from '../../src/sim/world.ts';

const SHUTDOWN_SUSPEND = 2;

/** mfns by pfn, as Xen knows them. */
export function framesOfGuest({ hv }: World): Map<number, number> {
  const found = new Map<number, number>();
  for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) {
    const pfn = hv.frames.getM2p(mfn);
    if (hv.frames.owner[mfn] === 1 && pfn !== INVALID_M2P) found.set(pfn, mfn);
  }
  return found;
}

/** Calls `suspended` while the guest is. */
export const atSuspension = (suspended: (world: World) => void) => (sink: EventSink, world: World): EventSink => ({
  event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
    sink.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
    if (kind === EVENT.domainShutdown && values[0] === SHUTDOWN_SUSPEND) suspended(world);
  },
  stateDigest: (eventCount, insns) => sink.stateDigest?.(eventCount, insns),
});
