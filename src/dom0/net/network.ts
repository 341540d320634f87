// All switches of a world and the hosts on them, behind one clock: the next frame that arrives or
// timer that is due is one entry of the world's agenda, replaced whenever an earlier one comes up.
import type { FaultQuestion } from '../../abi/faults.ts';
import { assert } from '../../base/assert.ts';
import { Host } from './host.ts';
import type { BridgePlan } from './network-spec.ts';
import type { Packet } from './packet.ts';
import { Switch, type SwitchClient } from './switch.ts';

export interface NetworkPort {
  nowNs(): number;
  /** run() follows then, and not at any time asked for before; undefined: not at all. */
  wakeAt(ns: number | undefined): void;
  /** How long a frame is under way on a quiet wire; seeded. */
  latencyNs(): number;
  readonly fault?: FaultQuestion;
  /** A remark for the log. */
  note(text: string): void;
}

/** An interface's plug in its switch. */
export interface Plug {
  send(packet: Packet): void;
  unplug(): void;
}

export class Network {
  readonly #port: NetworkPort;
  readonly #switches = new Map<string, Switch>();
  readonly #hosts: { readonly key: string; readonly host: Host }[] = [];
  #wakeNs = Infinity;
  #isRunning = false;

  constructor(bridges: readonly BridgePlan[], port: NetworkPort) {
    this.#port = port;
    const clock = { nowNs: () => port.nowNs(), latencyNs: () => port.latencyNs(), wakeAt: (ns: number) => this.#wakeBy(ns), ...(port.fault === undefined ? {} : { fault: port.fault }) };
    for (const bridge of bridges) {
      const lan = new Switch(bridge.name, clock);
      this.#switches.set(bridge.name, lan);
      for (const config of bridge.hosts) {
        const host = new Host(config, {
          nowNs: clock.nowNs,
          send: (packet) => lan.send(config.name, packet),
          note: (text) => port.note(`${bridge.name}: ${text}`),
        });
        lan.plug(host);
        this.#hosts.push({ key: `${bridge.name}/${config.name}`, host });
      }
    }
  }

  /** The bridge must be in the plan. */
  plug(bridge: string, client: SwitchClient): Plug {
    const lan = this.#switches.get(bridge);
    assert(lan !== undefined, () => `there is no bridge ${bridge}`);
    lan.plug(client);
    return { send: (packet) => lan.send(client.name, packet), unplug: () => lan.unplug(client.name) };
  }

  /** Frames arrive, timers fire. */
  run(): void {
    const nowNs = this.#port.nowNs();
    this.#isRunning = true;
    for (const lan of this.#switches.values()) lan.run();
    for (const { host } of this.#hosts) if (host.nextNs() <= nowNs) host.run();
    this.#isRunning = false;
    this.#wakeNs = this.#nextNs();
    this.#port.wakeAt(this.#wakeNs === Infinity ? undefined : this.#wakeNs);
  }

  #nextNs(): number {
    let next = Infinity;
    for (const lan of this.#switches.values()) next = Math.min(next, lan.nextNs());
    for (const { host } of this.#hosts) next = Math.min(next, host.nextNs());
    return next;
  }

  /** Hosts speak and frames leave while we run, too; then the end of run() says when to go on. */
  #wakeBy(ns: number): void {
    if (this.#isRunning || ns >= this.#wakeNs) return;
    this.#wakeNs = ns;
    this.#port.wakeAt(ns);
  }

  /** JSON-serialisable. */
  save(): unknown {
    return {
      wakeNs: this.#wakeNs === Infinity ? null : this.#wakeNs, switches: [...this.#switches].map(([name, lan]) => [name, lan.save()]), hosts: this.#hosts.map(({ key, host }) => [key, host.save()]),
    };
  }
  restore(state: unknown): void {
    const saved = state as { wakeNs: number | null; switches: [string, unknown][]; hosts: [string, unknown][] };
    this.#wakeNs = saved.wakeNs ?? Infinity;
    for (const [name, lan] of saved.switches) this.#switches.get(name)?.restore(lan);
    for (const [key, host] of saved.hosts) this.#hosts.find((row) => row.key === key)?.host.restore(host);
  }
}
