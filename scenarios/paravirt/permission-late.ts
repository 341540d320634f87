// The toolstack makes a device's two directories in xenstore and then says who may read and write them. A
// guest that looks in between is refused (EACCES), and a guest whose quota is used up for the moment cannot
// write (ENOSPC). Neither is the end: a driver that took the first no for an answer would leave the device
// alone for ever, since nobody tells it again.
//
// Here xenstored refuses a third of the first requests, wherever the seed has it: reading where the back end
// is, setting a watch, beginning a transaction, writing the ring's reference in the middle of one. Each is
// asked again a millisecond later; a transaction that is refused half-way leaves nothing behind.
import { BUSY_DONE, busyDomain } from '../../src/sim/busy-domain.ts';
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'permission-late',
  title: 'xenstore refuses the drivers at first: a permission is not set yet, and they ask again',
  domains: [busyDomain()],
  faults: [{ fault: 'xenstore.access', oneIn: 3, most: 30 }, { fault: 'xenstore.space', oneIn: 3, most: 10 }],
  expect: BUSY_DONE,
});
