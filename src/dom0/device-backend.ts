// The back end's half of the dance of xenbus, for every class of device; what a class does with its
// rings is a DeviceDriver.
//
//   born ─► initialising ─► initWait ── frontend initialised or connected, hotplug done ──► connected
//                              ▲                                                               │
//                              │ frontend starts anew                        frontend closing  │
//                              │                                                               ▼
//                            closed ◄──────────────── frontend closed ──────────────────── closing
//                              │
//                              └─ online = 0, or the frontend or our own directory is gone ─► gone
//
// Everything is decided from what the store says when we look: watches that come late, twice or
// together lead to the same state. What a frontend writes is nonsense until proven otherwise: it ends
// as an `error` node and `closing`, as xenbus_dev_fatal() does.
// Source: drivers/xen/xenbus/xenbus_client.c, drivers/block/xen-blkback/xenbus.c (frontend_changed),
// drivers/net/xen-netback/xenbus.c in Linux.
import { DEVICE, EVENT, valueIndex } from '../abi/events.ts';
import { XENBUS_STATE, xenbusState, type XenbusState } from '../abi/xenbus.ts';
import { backendNode, backendPath, frontendPath, type DeviceConfig } from './device-spec.ts';
import type { DevicePort } from './ports.ts';

/** One class of device. Texts that come back are one sentence: why it cannot be. */
export interface DeviceDriver {
  /** Says in the back end's directory what it can, before initWait. */
  probe(): void;
  /** Maps the rings and binds the channel that the frontend's directory names. Called only while disconnected. */
  connect(): string | undefined;
  /** Says what the frontend needs to know of the device itself, before connected. */
  announce(): void;
  /** Gives back rings, grants and the channel; requests under way are dropped. Harmless when not connected. */
  disconnect(): void;
  /** The guest rang, or work is due; from announce() to disconnect(). */
  run(): void;
  /** Answers everything that it has taken, at once: after that and disconnect(), connect() can take the same rings up again. Absent: it cannot. */
  settle?(): void;
  /** JSON-serialisable. */
  save(): unknown;
  restore(state: unknown): void;
}

/** Entries of both directories by their name, and nothing else of the store. */
export class DeviceDirectories {
  readonly #port: DevicePort;
  readonly back: string;
  readonly front: string;

  constructor(port: DevicePort, device: DeviceConfig) {
    this.#port = port;
    this.back = backendPath(port.domId, device);
    this.front = frontendPath(port.domId, device);
  }

  readFront(name: string): string | undefined {
    return this.#port.readStore(`${this.front}/${name}`);
  }
  /** A number as %u reads it; undefined: missing or no number below 2^32. */
  numberOfFront(name: string): number | undefined {
    const text = this.readFront(name);
    if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
    const value = Number(text);
    return value <= 0xffff_ffff ? value : undefined;
  }
  readBack(name: string): string | undefined {
    return this.#port.readStore(`${this.back}/${name}`);
  }
  writeBack(name: string, value: string | number): void {
    this.#port.writeStore(`${this.back}/${name}`, String(value));
  }
}

interface BackendState {
  state: XenbusState;
  /** The rings are mapped. */
  attached: boolean;
  /** Has been connected since then: requests are taken, while the frontend closes too. */
  serving: boolean;
  /** The store changed since we looked. */
  changed: boolean;
  /** Unregistered: nothing brings it back. */
  gone: boolean;
  /** A fault: nobody serves the rings until then. The frontend does not know. */
  awayUntilNs?: number;
}

/** How long it takes until another back end takes the rings over, times the fault's argument. */
const REBIND_NS = 20_000;

export class DeviceBackend {
  readonly device: DeviceConfig;
  readonly #port: DevicePort;
  readonly #driver: DeviceDriver;
  readonly #directories: DeviceDirectories;
  #state: BackendState = { state: XENBUS_STATE.unknown, attached: false, serving: false, changed: true, gone: false };

  constructor(device: DeviceConfig, port: DevicePort, driver: DeviceDriver) {
    this.device = device;
    this.#port = port;
    this.#driver = driver;
    this.#directories = new DeviceDirectories(port, device);
  }

  get state(): XenbusState {
    return this.#state.state;
  }
  get gone(): boolean {
    return this.#state.gone;
  }

  /** A fault: everything that was mapped, bound or under way is lost. A frontend that starts anew is served again. */
  #crash(): void {
    this.#detach();
    this.#switchTo(XENBUS_STATE.closed);
  }

  /** The toolstack has written both directories: appears to the guest. */
  start(): void {
    this.#switchTo(XENBUS_STATE.initialising);
    this.#driver.probe();
    this.#switchTo(XENBUS_STATE.initWait);
    for (const path of this.#watched()) this.#port.watchStore(path);
  }

  #watched(): readonly string[] {
    const { back, front } = this.#directories;
    return [`${front}/state`, `${back}/hotplug-status`];
  }

  /** Something that we watch changed. */
  changed(): void {
    this.#state.changed = true;
  }

  /** The guest rang, a watch fired, or work is due. */
  run(): void {
    if (this.#state.gone) return;
    if (this.#state.changed) {
      this.#state.changed = false;
      this.#look();
    }
    if (this.#state.awayUntilNs !== undefined) return this.#takeOver(this.#state.awayUntilNs);
    if (this.#state.serving && this.#port.fault?.('backend.crash') === 1) return this.#crash();
    const away = this.#state.serving && this.#driver.settle !== undefined ? (this.#port.fault?.('backend.rebind') ?? 0) : 0;
    if (away > 0) return this.#goAway(away * REBIND_NS);
    if (this.#state.serving) this.#driver.run();
  }

  /** A fault, as unbinding and binding a back end in dom0: what has been taken is answered, what is on the ring stays there. */
  #goAway(forNs: number): void {
    this.#driver.settle?.();
    this.#detach();
    this.#state.awayUntilNs = this.#port.nowNs() + forNs;
    this.#port.scheduleRun(forNs);
  }
  #takeOver(untilNs: number): void {
    if (this.#port.nowNs() < untilNs) return;
    delete this.#state.awayUntilNs;
    // The frontend may have closed meanwhile.
    if (this.#state.state !== XENBUS_STATE.connected) return;
    const problem = this.#driver.connect();
    if (problem !== undefined) return this.#fatal(problem);
    this.#driver.announce();
    this.#state.attached = this.#state.serving = true;
  }

  /** The domain or the device is no more: everything is given back at once. */
  vanish(): void {
    if (this.#state.gone) return;
    this.#detach();
    for (const path of this.#watched()) this.#port.unwatchStore(path);
    this.#state.gone = true;
  }

  #look(): void {
    if (this.#directories.readBack('frontend') === undefined) return this.vanish();
    const frontend = xenbusState(this.#directories.readFront('state'));
    switch (frontend) {
      case XENBUS_STATE.initialising:
        if (this.#state.state === XENBUS_STATE.closed) this.#switchTo(XENBUS_STATE.initWait);
        // The planted mistake: entries are enough, whoever wrote them when.
        if (this.#port.planted === 'connects-early' && this.#directories.readFront('event-channel') !== undefined) this.#meet();
        return;
      case XENBUS_STATE.initialised:
      case XENBUS_STATE.connected:
        return this.#meet();
      case XENBUS_STATE.closing:
        return this.#switchTo(XENBUS_STATE.closing);
      case XENBUS_STATE.closed:
        this.#detach();
        this.#switchTo(XENBUS_STATE.closed);
        if (this.#directories.readBack('online') !== '1') this.vanish();
        return;
      case XENBUS_STATE.unknown:
        this.#detach();
        this.#switchTo(XENBUS_STATE.closed);
        return this.vanish();
      default:
        return this.#fatal(`saw state ${frontend} at frontend`);
    }
  }

  /** The frontend has written what we need. */
  #meet(): void {
    if (this.#state.state === XENBUS_STATE.connected) return;
    if (!this.#state.attached) {
      const problem = this.#driver.connect();
      if (problem !== undefined) {
        this.#driver.disconnect();
        return this.#fatal(problem);
      }
      this.#state.attached = true;
    }
    if (this.#directories.readBack('hotplug-status') !== 'connected') return;
    this.#driver.announce();
    this.#state.serving = true;
    this.#switchTo(XENBUS_STATE.connected);
  }

  #detach(): void {
    if (!this.#state.attached) return;
    // The planted mistake: what was never connected has nothing to give back.
    if (this.#port.planted === 'port-leak' && !this.#state.serving) return;
    this.#driver.disconnect();
    this.#state.attached = this.#state.serving = false;
  }

  #switchTo(state: XenbusState): void {
    if (state === this.#state.state) return;
    this.#state.state = state;
    // Whoever was to take over has nothing left to take.
    delete this.#state.awayUntilNs;
    this.#directories.writeBack('state', state);
    this.#port.emit(EVENT.deviceState, [valueIndex(DEVICE, this.device.deviceClass), this.device.deviceId, state]);
  }

  /** xenbus_dev_fatal(). */
  #fatal(why: string): void {
    this.#port.writeStore(`/local/domain/0/error/${backendNode(this.#port.domId, this.device)}/error`, `-22 ${why}`);
    this.#switchTo(XENBUS_STATE.closing);
  }

  save(): unknown {
    return { ...this.#state, driver: this.#driver.save() };
  }
  restore(state: unknown): void {
    const { driver, ...own } = state as BackendState & { driver: unknown };
    this.#state = { ...own };
    this.#driver.restore(driver);
  }
}
