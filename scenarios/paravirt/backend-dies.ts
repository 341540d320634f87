// A driver domain crashes: the back end is gone with all it knew, the grants it had mapped are unmapped, and
// what was in flight is never answered. It comes back as if it had never been there (state initWait), and the
// guest finds out by a watch. Its driver must take its pages back, make new rings and ask again for
// whatever was not answered, in the old order; a write that was carried out but not acknowledged is carried
// out twice, which is what disks are for.
//
// Frames that were in flight on the network are lost, and none comes twice: pings are asked again.
import { BUSY_DONE, busyDomain } from '../../src/sim/busy-domain.ts';
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'backend-dies',
  title: 'The back ends die with requests in flight and come back with empty hands; nothing that was acknowledged is lost',
  domains: [busyDomain()],
  faults: [{ fault: 'backend.crash', oneIn: 15, most: 6 }],
  expect: BUSY_DONE,
});
