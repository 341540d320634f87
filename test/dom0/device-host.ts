// A dom0 for one device without a hypervisor: a real xenstored, grants as pages by reference, event
// channels as counters, an agenda in virtual time. `frontend` acts as the guest (domain 1).
import { XS, xsOperationName } from '../../src/abi/xenstore.ts';
import type { FaultQuestion } from '../../src/abi/faults.ts';
import { DeviceBackend, type DeviceDriver } from '../../src/dom0/device-backend.ts';
import { backendPath, frontendPath, type DeviceConfig } from '../../src/dom0/device-spec.ts';
import { writeDomainEntries } from '../../src/dom0/domain-entries.ts';
import type { DevicePort, GrantedPage } from '../../src/dom0/ports.ts';
import { Toolstack } from '../../src/dom0/toolstack.ts';
import { Xenstored } from '../../src/dom0/xenstored.ts';
import { PlainPage } from './ring-page.ts';

export const GUEST = 1;

export interface Granted {
  readonly page: PlainPage;
  readonly readOnly: boolean;
}

export class DeviceHost {
  readonly store = new Xenstored();
  readonly toolstack: Toolstack;
  readonly devices: readonly DeviceConfig[];
  /** What the guest offers. */
  readonly grants = new Map<number, Granted>();
  /** References that the back end holds now, with how often. */
  readonly mapped = new Map<number, number>();
  /** The guest's unbound ports, and how often each was notified. */
  readonly unbound = new Set<number>();
  readonly bound = new Set<number>();
  readonly notified = new Map<number, number>();
  readonly emitted: { readonly kind: number; readonly values: readonly number[]; readonly bytes: Uint8Array | undefined }[] = [];
  readonly notes: string[] = [];
  choose: (name: string, options: number) => number = () => 0;
  fault: FaultQuestion = () => 0;
  nowNs = 0;
  renew: () => string | undefined = () => undefined;
  backend: DeviceBackend | undefined;
  readonly #makeDriver: (port: DevicePort, device: DeviceConfig) => DeviceDriver;
  #agenda: { readonly atNs: number; readonly seq: number; readonly work: 'device' | 'toolstack' }[] = [];
  #seq = 0;

  constructor(devices: readonly DeviceConfig[], makeDriver: (port: DevicePort, device: DeviceConfig) => DeviceDriver) {
    this.devices = devices;
    this.#makeDriver = makeDriver;
    writeDomainEntries(this.store, { domId: GUEST, name: 'g', memoryKib: 65536, maxMemoryKib: 65536, vcpus: 1, storeMfn: 1, storePort: 1, consoleMfn: 2, consolePort: 2 });
    this.store.onDom0Event = (_path, token) => {
      if (token === 'device') this.backend?.changed();
      this.#schedule(token as 'device' | 'toolstack', 1000);
    };
    this.toolstack = new Toolstack(this.store, {
      devicesOf: () => this.devices,
      protocolOf: () => 'x86_64-abi',
      startBackend: (_domId, device) => this.#start(device),
      stopBackend: () => this.backend?.vanish(),
      renew: () => this.renew(),
      destroy: (domId) => this.toolstack.forgetDomain(domId),
      othersRun: () => true,
      latencyNs: () => 1000,
      nowNs: () => this.nowNs,
      scheduleRun: (delayNs) => this.#schedule('toolstack', delayNs),
      watchStore: (path) => this.store.watchAsDom0(path, 'toolstack'),
      unwatchStore: (path) => this.store.unwatchAsDom0(path, 'toolstack'),
      note: (_domId, text) => void this.notes.push(text),
    });
  }

  get device(): DeviceConfig {
    return this.devices[0] as DeviceConfig;
  }

  #start(device: DeviceConfig): boolean {
    if (this.backend !== undefined && !this.backend.gone) return false;
    const port = this.port();
    this.backend = new DeviceBackend(device, port, this.#makeDriver(port, device));
    this.backend.start();
    return true;
  }

  /** The back end is made anew from its saved state, as after a checkpoint. */
  restart(): void {
    const saved = JSON.parse(JSON.stringify(this.backend?.save()));
    const port = this.port();
    this.backend = new DeviceBackend(this.device, port, this.#makeDriver(port, this.device));
    this.backend.restore(saved);
  }

  #schedule(work: 'device' | 'toolstack', delayNs: number): void {
    this.#agenda.push({ atNs: this.nowNs + delayNs, seq: this.#seq++, work });
    this.#agenda.sort((a, b) => a.atNs - b.atNs || a.seq - b.seq);
  }

  /** Lets everything happen that is due up to then. */
  settle(untilNs = this.nowNs + 1_000_000_000): void {
    for (let next = this.#agenda[0]; next !== undefined && next.atNs <= untilNs; next = this.#agenda[0]) {
      this.#agenda.shift();
      this.nowNs = Math.max(this.nowNs, next.atNs);
      if (next.work === 'device') this.backend?.run();
      else this.toolstack.run();
    }
    this.nowNs = Math.max(this.nowNs, untilNs);
  }

  /** One entry of the agenda; false: there is none. */
  step(): boolean {
    const next = this.#agenda.shift();
    if (next === undefined) return false;
    this.nowNs = Math.max(this.nowNs, next.atNs);
    if (next.work === 'device') this.backend?.run();
    else this.toolstack.run();
    return true;
  }

  port(): DevicePort {
    const granted = (gref: number, readOnly: boolean): GrantedPage => {
      const { page } = this.grants.get(gref) as Granted;
      return { gref, readOnly, readU8: (at) => page.readU8(at), readU32: (at) => page.readU32(at), readBytes: (at, size) => page.readBytes(at, size), writeU8: (at, value) => page.writeU8(at, value), writeU32: (at, value) => page.writeU32(at, value), writeBytes: (at, bytes) => page.writeBytes(at, bytes) };
    };
    const refuse = (gref: number, readOnly: boolean): number | undefined => {
      const grant = this.grants.get(gref);
      return grant === undefined ? -3 : grant.readOnly && !readOnly ? -1 : undefined;
    };
    return {
      domId: GUEST,
      mapGrant: (gref, readOnly) => {
        const refused = refuse(gref, readOnly);
        if (refused !== undefined) return refused;
        this.mapped.set(gref, (this.mapped.get(gref) ?? 0) + 1);
        return granted(gref, readOnly);
      },
      unmapGrant: ({ gref }) => {
        const left = (this.mapped.get(gref) ?? 0) - 1;
        if (left < 0) throw new Error(`grant ${gref} is given back more often than it was mapped`);
        if (left === 0) this.mapped.delete(gref);
        else this.mapped.set(gref, left);
      },
      mappedGrant: granted,
      copyFromGrant: (gref, offset, sizeBytes) => refuse(gref, true) ?? (offset + sizeBytes > 4096 ? -10 : (this.grants.get(gref) as Granted).page.readBytes(offset, sizeBytes)),
      copyToGrant: (gref, offset, bytes) => {
        const refused = refuse(gref, false) ?? (offset + bytes.length > 4096 ? -10 : 0);
        if (refused === 0) (this.grants.get(gref) as Granted).page.writeBytes(offset, bytes);
        return refused;
      },
      bindChannel: (guestPort) => {
        if (!this.unbound.delete(guestPort)) return false;
        this.bound.add(guestPort);
        this.#schedule('device', 500);
        return true;
      },
      unbindChannel: (guestPort) => {
        if (this.bound.delete(guestPort)) this.unbound.add(guestPort);
      },
      notify: (guestPort) => void this.notified.set(guestPort, (this.notified.get(guestPort) ?? 0) + 1),
      readStore: (path) => this.store.readAsDom0(path),
      writeStore: (path, value) => this.store.writeAsDom0(path, value),
      removeStore: (path) => this.store.removeAsDom0(path),
      watchStore: (path) => this.store.watchAsDom0(path, 'device'),
      unwatchStore: (path) => this.store.unwatchAsDom0(path, 'device'),
      nowNs: () => this.nowNs,
      scheduleRun: (delayNs) => this.#schedule('device', delayNs),
      choose: (name, options) => this.choose(name, options),
      fault: (name) => this.fault(name),
      emit: (kind, values, bytes) => void this.emitted.push({ kind, values, bytes }),
    };
  }

  // ---- the guest's side ----------------------------------------------------------------------------

  /** The guest rings the back end's bell. */
  kick(): void {
    this.#schedule('device', 700);
  }

  /** A request of the guest's to xenstored; NUL shown as |. */
  ask(op: keyof typeof XS, payload: string, domId = GUEST): string {
    const connection = this.store.connection(domId);
    if (connection === undefined) return 'no connection';
    connection.out.length = 0;
    this.store.handle(connection, { type: XS[op], reqId: 1, txId: 0, payload: payload.replaceAll('|', '\0') });
    const reply = connection.out.find((row) => row.type !== XS.WATCH_EVENT);
    connection.out.length = 0;
    return reply === undefined ? 'nothing' : `${xsOperationName(reply.type)} ${reply.payload.replaceAll('\0', '|')}`;
  }
  writeFront(name: string, value: string | number): void {
    const reply = this.ask('WRITE', `${frontendPath(GUEST, this.device)}/${name}|${value}`);
    if (reply !== 'WRITE OK|') throw new Error(`the guest may not write ${name}: ${reply}`);
  }
  readBack(name: string): string | undefined {
    const reply = this.ask('READ', `${backendPath(GUEST, this.device)}/${name}|`);
    return reply.startsWith('READ ') ? reply.slice(5) : undefined;
  }
  grant(gref: number, page = new PlainPage(), readOnly = false): PlainPage {
    this.grants.set(gref, { page, readOnly });
    return page;
  }
}
