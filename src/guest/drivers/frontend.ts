// The frontend's half of the dance of xenbus, for every class of device; what a class does with its rings
// is a subclass.
//
//   find the back end ─► it is in initWait ─► rings, grants, port into the store ─► it is connected ─► serve
//            ▲                                                                                      │
//            └── initialising ◄── closed ◄── closing ◄── the back end closes, dies, or we stop ◄────┘
//
// A device ends when its back end's directory is gone or the guest stops. After a restore everything
// shared is void, and the dance begins anew.
// Source: xen/include/public/io/xenbus.h; drivers/xen/xenbus/xenbus_client.c in Linux for who writes what.
import { XENBUS_STATE, xenbusState, type XenbusState } from '../../abi/xenbus.ts';
import { BLOCK } from '../kernel/scheduler.ts';
import { pfnToVaddr } from '../kernel/page-tables.ts';
import type { Task } from '../operations.ts';
import type { Machinery } from './machinery.ts';
import type { StoreReply, StoreWatch } from './store-client.ts';

/** Attempts to connect in a row before the driver says that it gives up. */
const MOST_ATTEMPTS = 50;
/** How long a back end may keep pages after both ends have closed. */
const PATIENCE_NS = 1_000_000_000;
/** How long a back end may take, when one of the two closes, to answer what it has taken: one that has failed never does. */
const ANSWERS_NS = 5_000_000_000;
/** Of a planted mistake: then it takes them back, whoever uses them. */
const TOO_LITTLE_PATIENCE_NS = 5_000;
const POLL_NS = 100_000;
/** The token of a watch that a planted mistake sets too late. */
const NOT_SET = '';
const OK: StoreReply = { ok: true, value: '' };

/** A page that is shared with the back end. */
export interface RingPage {
  readonly pfn: number;
  readonly vaddr: number;
  readonly gref: number;
}

export abstract class Frontend {
  readonly machinery: Machinery;
  /** device/vbd/51712, below the domain's own directory. */
  readonly node: string;
  /** What people call it. */
  name: string;
  backend = '';
  backendState: XenbusState = XENBUS_STATE.unknown;
  /** Both ends have met, and requests are taken. */
  connected = false;
  /** Its thread has ended. */
  ended = false;
  port = 0;
  #watch: StoreWatch | undefined;
  #pages: RingPage[] = [];
  #restoresSeen = 0;
  /** For a page: what woke the thread meanwhile, it has not looked at. */
  #waited = false;

  constructor(machinery: Machinery, node: string) {
    this.machinery = machinery;
    this.node = node;
    this.name = node;
  }

  /** Makes rings and says in the store where they are; a reply that is not ok ends the attempt. */
  protected abstract setUp(): Task<readonly (readonly [string, string | number])[]>;
  /** The state that says so: 3 or 4. */
  protected abstract readonly readyState: XenbusState;
  /** The back end is connected: what it says of the device. */
  protected abstract begin(): Task;
  /** Answers and new requests. */
  protected abstract work(closing: boolean): Task;
  /** Requests are under way that the back end is going to answer. */
  protected abstract get busy(): boolean;
  /** The rings are gone: what was under way must be asked again. `granted`: false after a restore. */
  protected abstract tearDown(granted: boolean): Task;

  // -- the store ------------------------------------------------------------------------------------

  *readBackend(name: string): Task<string | undefined> {
    return yield* this.machinery.store.read(`${this.backend}/${name}`);
  }
  *numberOfBackend(name: string): Task<number> {
    const text = yield* this.readBackend(name);
    return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : 0;
  }
  /** The domain has been restored since: references, ports and what stands in the store are of a former life, and may be others' now. */
  protected get stale(): boolean {
    return this.machinery.restores !== this.#restoresSeen;
  }
  /** Only while the directory is there: a frontend must not make it again. Nor say anything of its former life in a new one. */
  *#switchTo(state: XenbusState): Task {
    const { store } = this.machinery;
    const path = `${this.node}/state`;
    const isStale = (): boolean => this.stale;
    yield* store.transaction(function* (txId) {
      return isStale() || (yield* store.read(path, txId)) === undefined ? OK : yield* store.write(path, String(state), txId);
    });
  }
  /** Looks again if something changed. True: the domain was restored since the connection was made. */
  *#look(): Task<boolean> {
    const watch = this.#watch as StoreWatch;
    while (watch.fired) {
      watch.fired = false;
      this.backendState = xenbusState(yield* this.machinery.store.read(watch.path));
    }
    return this.stale;
  }

  /** The planted mistake: what changes between the look and the watch is in neither. */
  *#watchLate(): Task {
    const { store } = this.machinery;
    const { path } = this.#watch as StoreWatch;
    this.backendState = xenbusState(yield* store.read(path));
    const watch = (this.#watch = yield* store.watch(path));
    yield* this.machinery.until(() => watch.fired);
    watch.fired = false;
  }

  // -- pages and ports ------------------------------------------------------------------------------

  /** A page of the ring's; undefined: there is none, or no reference. */
  *sharePage(): Task<RingPage | undefined> {
    const { kernel, grants } = this.machinery;
    const pfn = kernel.frames.take();
    if (pfn === undefined) return undefined;
    const gref = yield* grants.grant(pfn, 0, false);
    if (gref === undefined) {
      kernel.frames.put(pfn);
      return undefined;
    }
    const page: RingPage = { pfn, vaddr: pfnToVaddr(pfn), gref };
    this.#pages.push(page);
    return page;
  }

  /** Waits, but not for ever, until the back end uses the page no more. False: it has to be left to it. */
  *endGrant(gref: number): Task<boolean> {
    const { grants, events } = this.machinery;
    const deadline = (yield* events.now()) + PATIENCE_NS;
    while (!this.stale && !(yield* grants.end(gref))) {
      this.#waited = true;
      const now = yield* events.now();
      if (now >= deadline) {
        yield* this.machinery.complain(`${this.name}: the back end keeps page ${gref} for good`);
        return false;
      }
      yield* this.machinery.until(() => false, now + POLL_NS);
    }
    return true;
  }

  *#release(granted: boolean): Task {
    const { ports, kernel } = this.machinery;
    this.connected = false;
    yield* this.tearDown(granted);
    for (const { pfn, gref } of this.#pages.splice(0)) if (!granted || (yield* this.endGrant(gref))) kernel.frames.put(pfn);
    if (granted && !this.stale && this.port !== 0) yield* ports.close(this.port);
    this.port = 0;
  }

  // -- the life of a device -------------------------------------------------------------------------

  /** Its thread. */
  *life(): Task {
    const { store } = this.machinery;
    const backend = yield* store.read(`${this.node}/backend`);
    if (backend !== undefined) {
      this.backend = backend;
      const path = `${backend}/state`;
      this.#watch = this.machinery.xen.options.planted === 'watch-after-read' ? { path, token: NOT_SET, fired: true } : yield* store.watch(path);
      yield* this.#dance();
      if (this.#watch.token !== NOT_SET) yield* store.unwatch(this.#watch);
    }
    this.ended = true;
    this.machinery.wake();
  }

  *#dance(): Task {
    const { machinery } = this;
    for (let attempts = 1; ; ) {
      this.#restoresSeen = machinery.restores;
      if (!(yield* this.#awaitBackend())) return;
      const met = yield* this.#meet();
      if (met) {
        attempts = 1;
        yield* this.#serve();
      }
      const restored = yield* this.#look();
      if (restored) yield* this.#release(false);
      else yield* this.#part();
      if (yield* this.#isOver()) return;
      if (!restored) yield* this.#switchTo(XENBUS_STATE.initialising);
      if (!met && ++attempts > MOST_ATTEMPTS) return yield* machinery.complain(`${this.name}: no connection in ${MOST_ATTEMPTS} attempts; the driver gives up`);
    }
  }
  *#isOver(): Task<boolean> {
    if (this.machinery.leaving) return true;
    const state = yield* this.machinery.store.read(`${this.node}/state`);
    // Looked at again: what woke this thread while it asked the store wakes it no more.
    return this.machinery.leaving || state === undefined;
  }

  /** False: there is nothing to wait for. */
  *#awaitBackend(): Task<boolean> {
    for (;;) {
      yield* this.#look();
      this.#restoresSeen = this.machinery.restores;
      if (this.backendState === XENBUS_STATE.initWait) return true;
      if (yield* this.#isOver()) return false;
      if (!(this.#watch as StoreWatch).fired) yield BLOCK;
    }
  }

  /** True: connected. */
  *#meet(): Task<boolean> {
    const { machinery } = this;
    const { store, ports } = machinery;
    this.port = yield* ports.offer(0);
    const entries = yield* this.setUp();
    if (entries.length === 0) {
      yield* machinery.complain(`${this.name}: no memory for its rings`);
      return false;
    }
    const { node } = this;
    const isStale = (): boolean => this.stale;
    const problem = yield* store.transaction(function* (txId) {
      if (isStale()) return OK;
      for (const [name, value] of entries) {
        const reply = yield* store.write(`${node}/${name}`, String(value), txId);
        if (!reply.ok) return reply;
      }
      return OK;
    });
    if (problem !== undefined) {
      yield* machinery.complain(`${this.name}: xenstore refused its entries: ${problem}`);
      return false;
    }
    yield* this.#switchTo(this.readyState);
    if (this.#watch?.token === NOT_SET) yield* this.#watchLate();
    for (;;) {
      if (yield* this.#look()) return false;
      if (this.backendState === XENBUS_STATE.connected) break;
      if (this.backendState !== XENBUS_STATE.initWait && this.backendState !== XENBUS_STATE.initialised) return false;
      if (machinery.leaving) return false;
      yield BLOCK;
    }
    yield* this.begin();
    if (this.readyState !== XENBUS_STATE.connected) yield* this.#switchTo(XENBUS_STATE.connected);
    this.connected = true;
    machinery.wake();
    return true;
  }

  /** Until the back end closes, the domain is restored or the guest stops; what is under way is waited for while it can come. */
  *#serve(): Task {
    let deadline: number | undefined;
    for (;;) {
      if (yield* this.#look()) return;
      const { connected, closing } = XENBUS_STATE;
      if (this.backendState !== connected && this.backendState !== closing) return;
      const leaving = this.backendState === closing || this.machinery.leaving;
      this.#waited = false;
      yield* this.work(leaving);
      if (leaving && !this.busy) return;
      if (leaving) {
        const now = yield* this.machinery.events.now();
        if (now >= (deadline ??= now + ANSWERS_NS)) return yield* this.machinery.complain(`${this.name}: the back end leaves requests without an answer`);
        this.machinery.kernel.scheduler.wakeThreadsAt(deadline);
      }
      if (!(this.#watch as StoreWatch).fired && !this.#waited) yield BLOCK;
    }
  }

  /** Both ends close; then the back end has given everything back. */
  *#part(): Task {
    const { closing, closed, unknown, initWait } = XENBUS_STATE;
    yield* this.#switchTo(closing);
    yield* this.#switchTo(closed);
    const deadline = (yield* this.machinery.events.now()) + (this.machinery.xen.options.planted === 'grant-ended-early' ? TOO_LITTLE_PATIENCE_NS : PATIENCE_NS);
    for (;;) {
      if (yield* this.#look()) return yield* this.#release(false);
      if (this.backendState === closed || this.backendState === unknown || this.backendState === initWait) break;
      const watch = this.#watch as StoreWatch;
      if (!(yield* this.machinery.until(() => watch.fired, deadline))) break;
    }
    yield* this.#release(true);
  }
}
