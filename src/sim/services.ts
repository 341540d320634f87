// The back ends of dom0 in a world, by domain and name: which ports lead to them, and when they are run.
import { assert } from '../base/assert.ts';
import type { EventQueue } from './event-queue.ts';
import type { Service } from './world-faces.ts';

export class Services {
  /** By domain and port, the name of the service that it leads to. */
  ports = new Map<string, string>();
  readonly #services = new Map<string, Service>();
  readonly #queue: EventQueue;
  readonly #nowNs: () => number;

  constructor(queue: EventQueue, nowNs: () => number) {
    this.#queue = queue;
    this.#nowNs = nowNs;
  }

  /** `ports` of the domain lead to this service. */
  add(domId: number, service: Service, ports: readonly number[]): void {
    this.#services.set(`${service.name}:${domId}`, service);
    for (const port of ports) this.ports.set(`${domId}:${port}`, service.name);
  }

  /** Whatever is due for it is dropped. */
  remove(domId: number, name: string): void {
    this.#services.delete(`${name}:${domId}`);
    for (const [port, owner] of this.ports) if (owner === name && port.startsWith(`${domId}:`)) this.ports.delete(port);
    this.#queue.cancel((what) => what.kind === 'backend' && what.domId === domId && what.service === name);
  }

  get(domId: number, name: string): Service | undefined {
    return this.#services.get(`${name}:${domId}`);
  }

  /** The domain's port leads to this service from now on; undefined: to none. */
  connectPort(domId: number, port: number, name: string | undefined): void {
    if (name === undefined) this.ports.delete(`${domId}:${port}`);
    else this.ports.set(`${domId}:${port}`, name);
  }

  /** The name of the service that the domain's port leads to. */
  behindPort(domId: number, port: number): string | undefined {
    return this.ports.get(`${domId}:${port}`);
  }

  /** A service asks to be run later. */
  schedule(domId: number, service: string, delayNs: number): void {
    this.#queue.add(this.#nowNs() + delayNs, { kind: 'backend', domId, service });
  }

  /** Replaces whatever the service has asked for; undefined: it wants nothing. */
  scheduleOnly(domId: number, service: string, atNs: number | undefined): void {
    this.#queue.cancel((what) => what.kind === 'backend' && what.domId === domId && what.service === service);
    if (atNs !== undefined) this.#queue.add(Math.max(atNs, this.#nowNs()), { kind: 'backend', domId, service });
  }

  /** State of all back ends, ordered as they were added. */
  save(): unknown {
    return this.#whole().map(([key, service]) => [key, service.save()]);
  }

  /** Equal if and only if save() is. */
  digest(): unknown {
    return this.#whole().map(([key, service]) => [key, service.digest?.() ?? service.save()]);
  }

  restore(saved: unknown): void {
    for (const [key, state] of saved as [string, unknown][]) {
      const service = this.#services.get(key);
      assert(service !== undefined, () => `there is no service ${key} to restore`);
      service.restore(state);
    }
  }

  #whole(): [string, Service][] {
    return [...this.#services].filter(([, service]) => service.partOf === undefined);
  }
}
