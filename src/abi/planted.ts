// Mistakes that can be planted, one at a time, for the tools that hunt them (`--set bug=NAME`). Each is a
// mistake that somebody has made: the code runs as it should unless the order of events, or a fault that
// correct code survives, is against it. On the calmest run none of them shows.

export interface PlantedRow {
  /** The place that does wrong. */
  readonly where: string;
  readonly about: string;
}

export const PLANTED = {
  'lost-wakeup': { where: 'src/guest/kernel/scheduler.ts', about: 'the idle loop lets events in before it waits, and looks for what they have woken only behind the wait' },
  'no-final-check': { where: 'src/dom0/block-backend.ts', about: 'the back end goes to sleep some time after it has emptied the ring, and asks to be woken without another look' },
  'grant-ended-early': { where: 'src/guest/drivers/frontend.ts', about: 'a frontend that has closed waits 5 µs for the back end to let go of its pages, and then ends the grants, whoever uses them' },
  'watch-after-read': { where: 'src/guest/drivers/frontend.ts', about: 'a frontend reads the state of its back end before it sets its watch, and takes the watch’s first event for old news' },
  'eagain-ignored': { where: 'src/guest/drivers/store-client.ts', about: 'a transaction that ends with EAGAIN counts as carried out' },
  'answers-twice': { where: 'src/dom0/block-backend.ts', about: 'a request that fails is answered by the path for errors, which goes on into the common one' },
  'connects-early': { where: 'src/dom0/device-backend.ts', about: 'the back end connects as soon as the store has entries, also those of the connection before, whose pages are granted no more' },
  'forgets-in-flight': { where: 'src/dom0/block-backend.ts', about: 'a back end that takes over a ring in use begins behind the requests that wait on it' },
  'flush-reordered': { where: 'src/dom0/block-backend.ts', about: 'a barrier does not wait for the writes before it: its flush may overtake what it is to cover' },
  'port-leak': { where: 'src/dom0/device-backend.ts', about: 'a device that goes before it was connected gives nothing back, although its port is bound already' },
} as const satisfies Readonly<Record<string, PlantedRow>>;

export type PlantedBug = keyof typeof PLANTED;
export const PLANTED_BUGS = Object.keys(PLANTED) as readonly PlantedBug[];
export const isPlantedBug = (name: unknown): name is PlantedBug => typeof name === 'string' && Object.hasOwn(PLANTED, name);
