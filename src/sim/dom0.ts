// Domain 0 without being a domain: xenstored, the toolstack and the back ends of all devices, wired
// to a world. Rings and devices are services of the world's agenda; what they all share is saved as
// one service of domain 0.
//
//   guest rings ─► agenda (latency) ─► service.run() ─► store, grants, channels ─► afterwards()
//   a watch of dom0's fires ─► agenda (latency) ─► the service whose token it has
//   a watch of a guest's fires ─► afterwards() ─► agenda (latency) ─► that guest's store ring
import { assert, UsageError } from '../base/assert.ts';
import { EVENT } from '../abi/events.ts';
import { ConsoleBackend } from '../dom0/console.ts';
import { DeviceBackend, type DeviceDriver } from '../dom0/device-backend.ts';
import { Disk } from '../dom0/disk.ts';
import { diskNumber, type DeviceConfig } from '../dom0/device-spec.ts';
import { memoryTargetPath, writeDomainEntries } from '../dom0/domain-entries.ts';
import type { ConsolePort, DevicePort, ImageReader } from '../dom0/ports.ts';
import { StoreRing } from '../dom0/store-ring.ts';
import { Toolstack, type ToolstackCommand, type ToolstackPort } from '../dom0/toolstack.ts';
import { Xenstored } from '../dom0/xenstored.ts';
import { destroyDomain } from '../hypervisor/destroy-domain.ts';
import type { Domain } from '../hypervisor/domain.ts';
import { renewDomain, type RenewedEnds } from '../hypervisor/renew-domain.ts';
import type { BuiltDomain } from '../hypervisor/build/build-domain.ts';
import { connectBackend } from '../hypervisor/event-channels.ts';
import { devicePort, ringPort, watchToken } from './device-port.ts';
import type { Network } from '../dom0/net/network.ts';
import { createDriver } from './device-drivers.ts';
import { createNetwork } from './network-service.ts';
import type { DomainSpec } from './spec.ts';
import { DOM0_SERVICE, type Service, type World } from './world.ts';

interface Tenant {
  readonly maxMemoryKib: number;
  readonly devices: readonly DeviceConfig[];
  /** By device number. Disks outlive their back ends. */
  readonly disks: ReadonlyMap<number, Disk>;
  /** While the domain is there. */
  ring: StoreRing | undefined;
  ends: RenewedEnds | undefined;
  readonly protocol: string;
}

interface RunningDevice {
  readonly domId: number;
  readonly service: string;
  readonly config: DeviceConfig;
  readonly backend: DeviceBackend;
  readonly channels: Map<number, number>;
}

/** A hotplug script takes this times a latency. */
const SCRIPT_LATENCIES = 20;

export const deviceService = ({ deviceClass, deviceId }: Pick<DeviceConfig, 'deviceClass' | 'deviceId'>): string => `${deviceClass}-${deviceId}`;

export class Dom0 {
  readonly store = new Xenstored();
  readonly toolstack: Toolstack;
  readonly network: Network;
  readonly #world: World;
  readonly #tenants = new Map<number, Tenant>();
  #devices: RunningDevice[] = [];
  #nextPort = 1;

  constructor(world: World) {
    this.#world = world;
    this.toolstack = new Toolstack(this.store, this.#toolstackPort());
    this.network = createNetwork(world);
    world.disk = (domId, vdev) => this.#disk(domId, vdev);
    if (world.spec.faults !== undefined) this.store.fault = (name, domId) => world.fault(name, domId);
    this.store.onDom0Event = (_path, token) => this.#watchFired(token);
    world.services.add(0, {
      name: DOM0_SERVICE,
      run: () => this.#act(() => this.toolstack.run()),
      command: (domId, command) => this.#command(domId, command),
      domainShutdown: (domId, reason) => this.toolstack.domainShutdown(domId, reason),
      save: () => ({ ...this.#saveShared(), disks: this.#eachDisk((disk) => disk.save()) }),
      digest: () => ({ ...this.#saveShared(), disks: this.#eachDisk((disk) => disk.digest()) }),
      restore: (state) => this.#restore(state),
    }, []);
  }

  /** The domain has been built and does not run yet. */
  addDomain(built: BuiltDomain, spec: DomainSpec, images: readonly ImageReader[]): void {
    const { domain } = built;
    const devices = devicesOf(spec);
    assert(images.length === (spec.disks ?? []).length, () => `${spec.name} has ${spec.disks?.length ?? 0} disks, and content for ${images.length}`);
    const disks = new Map(devices.filter((device) => device.deviceClass === 'vbd').map((device, index) => [device.deviceId, new Disk(images[index] as ImageReader)]));
    this.#tenants.set(domain.domId, { maxMemoryKib: (spec.maxMemoryMib ?? spec.memoryMib) * 1024, devices, disks, ring: undefined, ends: undefined, protocol: domain.abi.wordBits === 64 ? 'x86_64-abi' : 'x86_32-abi' });
    this.#connect(domain, built, spec.memoryMib * 1024);
    this.#act(() => this.toolstack.buildDevices(domain.domId));
  }

  /** Store and console of a domain that is new, or new again. */
  #connect(domain: Domain, { storeMfn, storePort, consoleMfn, consolePort }: RenewedEnds, memoryKib: number): void {
    const { domId } = domain;
    const { hv } = this.#world;
    const tenant = this.#tenants.get(domId) as Tenant;
    connectBackend(hv, domId, storePort);
    connectBackend(hv, domId, consolePort);
    writeDomainEntries(this.store, { domId, name: domain.name, memoryKib, maxMemoryKib: tenant.maxMemoryKib, vcpus: domain.vcpus.length, storeMfn, storePort, consoleMfn, consolePort });
    const { ring, console } = this.#addRings(domId, tenant, { storeMfn, storePort, consoleMfn, consolePort });
    ring.connect();
    console.connect();
  }

  #addRings(domId: number, tenant: Tenant, ends: RenewedEnds): { readonly ring: StoreRing; readonly console: ConsoleBackend } {
    const world = this.#world;
    const ring = new StoreRing(this.store, domId, ringPort(world, domId, 'xenstore', ends.storeMfn, ends.storePort));
    tenant.ring = ring;
    tenant.ends = ends;
    world.services.add(domId, { name: 'xenstore', run: () => this.#act(() => ring.run()), save: () => ring.save(), restore: (state) => ring.restore(state) }, [ends.storePort]);
    const port: ConsolePort = { ...ringPort(world, domId, 'console', ends.consoleMfn, ends.consolePort), output: (bytes) => world.consoleOut(domId, bytes) };
    const console = new ConsoleBackend(port);
    world.services.add(domId, { name: 'console', run: () => console.run(), input: (bytes) => console.input(bytes), save: () => console.save(), restore: (state) => console.restore(state) }, [ends.consolePort]);
    return { ring, console };
  }

  #removeRings(domId: number, tenant: Tenant): void {
    tenant.ring = tenant.ends = undefined;
    for (const service of ['xenstore', 'console']) this.#world.services.remove(domId, service);
  }

  // ---- the end of a domain, and its return -----------------------------------------------------------

  /** After a suspension that the toolstack asked for. A text: why not. */
  #renew(domId: number): string | undefined {
    const { hv } = this.#world;
    const domain = hv.domain(domId);
    const tenant = this.#tenants.get(domId);
    if (domain === undefined || tenant === undefined) return 'it is gone';
    const ends = renewDomain(hv, domain);
    if ('problem' in ends) return ends.problem;
    // What is saved with it is the memory that it was last told to have (retrieve_domain_configuration_end() in libxl_domain.c).
    const targetKib = Number(this.store.readAsDom0(memoryTargetPath(domId)));
    this.store.release(domId);
    this.store.removeAsDom0(`/local/domain/${domId}`);
    this.#removeRings(domId, tenant);
    this.#connect(domain, ends, targetKib);
    return undefined;
  }

  #destroy(domId: number): void {
    const world = this.#world;
    const domain = world.hv.domain(domId);
    const tenant = this.#tenants.get(domId);
    if (domain === undefined || tenant === undefined) return;
    // xenconsoled reads what is left in the ring before it lets go of it.
    world.services.get(domId, 'console')?.run();
    this.toolstack.forgetDomain(domId);
    this.store.release(domId);
    this.store.removeAsDom0(`/local/domain/${domId}`);
    this.#removeRings(domId, tenant);
    world.queue.cancel((what) => what.kind === 'timer' && what.domId === domId);
    // While its vCPU is still there to say where it stood: positions of a domain never go back.
    world.emit(EVENT.domainDestroyed, domId, 0, []);
    destroyDomain(world.hv, domain);
    const goesOn = this.toolstack.awaitsDomain || world.goesOn();
    if (!goesOn) world.end('crash', `domain ${domain.name} was saved and could not be restored`);
  }

  // ---- acting and what follows ---------------------------------------------------------------------

  /** Does something in dom0; domains whose watches it fired will hear of it. */
  #act(work: () => void): void {
    work();
    for (const domId of this.store.takeWoken()) {
      if (this.#tenants.get(domId)?.ring?.hasOutput() === true) this.#world.services.schedule(domId, 'xenstore', this.#world.latencyNs());
    }
  }

  /** A watch of dom0's own: its token names who set it. */
  #watchFired(token: string): void {
    const [domText = '', service = ''] = token.split(':');
    const domId = Number(domText);
    this.#device(domId, service)?.backend.changed();
    this.#world.services.schedule(domId, service, this.#world.latencyNs());
  }

  #command(domId: number, command: ToolstackCommand): void {
    this.#act(() => this.toolstack.command(domId, command, SCRIPT_LATENCIES * this.#world.latencyNs()));
  }

  #toolstackPort(): ToolstackPort {
    const token = watchToken(0, DOM0_SERVICE);
    return {
      devicesOf: (domId) => this.#tenants.get(domId)?.devices ?? [],
      protocolOf: (domId) => this.#tenants.get(domId)?.protocol ?? '',
      startBackend: (domId, device) => this.#startDevice(domId, device),
      stopBackend: (domId, device) => this.#stopDevice(domId, device),
      renew: (domId) => this.#renew(domId),
      destroy: (domId) => this.#destroy(domId),
      othersRun: (domId) => [...this.#world.hv.domains.values()].some((domain) => domain.domId !== domId && domain.life.kind === 'running'),
      latencyNs: () => this.#world.latencyNs(),
      nowNs: () => this.#world.nowNs(),
      scheduleRun: (delayNs) => this.#world.services.schedule(0, DOM0_SERVICE, delayNs),
      watchStore: (path) => this.store.watchAsDom0(path, token),
      unwatchStore: (path) => this.store.unwatchAsDom0(path, token),
      note: (domId, text) => this.#world.emit(EVENT.note, domId, 0, [], new TextEncoder().encode(text)),
    };
  }

  // ---- devices -------------------------------------------------------------------------------------

  #device(domId: number, service: string): RunningDevice | undefined {
    return this.#devices.find((row) => row.domId === domId && row.service === service);
  }

  #startDevice(domId: number, config: DeviceConfig): boolean {
    const service = deviceService(config);
    const old = this.#device(domId, service);
    if (old !== undefined && !old.backend.gone) return false;
    if (old !== undefined) this.#stopDevice(domId, config);
    this.#makeDevice(domId, config).backend.start();
    return true;
  }

  #makeDevice(domId: number, config: DeviceConfig): RunningDevice {
    const service = deviceService(config);
    const channels = new Map<number, number>();
    const port = devicePort({ world: this.#world, store: this.store, domId, service, channels, newPort: () => this.#nextPort++ });
    const backend = new DeviceBackend(config, port, this.#driverOf(domId, config, port));
    const device: RunningDevice = { domId, service, config, backend, channels };
    this.#devices.push(device);
    this.#world.services.add(domId, this.#deviceService(device), []);
    return device;
  }

  #driverOf(domId: number, config: DeviceConfig, port: DevicePort): DeviceDriver {
    const tenant = this.#tenants.get(domId);
    assert(tenant !== undefined, () => `domain ${domId} is unknown to dom0`);
    return createDriver({ world: this.#world, config, port, network: this.network, disk: tenant.disks.get(config.deviceId) });
  }

  #deviceService({ service, backend }: RunningDevice): Service {
    return { name: service, partOf: DOM0_SERVICE, run: () => this.#act(() => backend.run()), save: () => null, restore: () => {} };
  }

  #stopDevice(domId: number, config: DeviceConfig): void {
    const device = this.#device(domId, deviceService(config));
    if (device === undefined) return;
    device.backend.vanish();
    this.#devices = this.#devices.filter((row) => row !== device);
    this.#world.services.remove(domId, device.service);
  }

  // ---- state ---------------------------------------------------------------------------------------

  /** Whether plugged or not. */
  #disk(domId: number, vdev: string): Disk | undefined {
    const device = this.#tenants.get(domId)?.devices.find((row) => row.deviceClass === 'vbd' && row.disk.vdev === vdev);
    return device === undefined ? undefined : this.#tenants.get(domId)?.disks.get(device.deviceId);
  }

  #eachDisk<T>(of: (disk: Disk) => T): [domId: number, deviceId: number, T][] {
    return [...this.#tenants].flatMap(([domId, { disks }]) => [...disks].map(([deviceId, disk]) => [domId, deviceId, of(disk)] as [number, number, T]));
  }

  #saveShared(): object {
    return {
      tenants: [...this.#tenants].map(([domId, { ends }]) => [domId, ends ?? null]),
      store: this.store.save(), toolstack: this.toolstack.save(), nextPort: this.#nextPort,
      devices: this.#devices.map((row) => ({ domId: row.domId, service: row.service, channels: [...row.channels], backend: row.backend.save() })),
    };
  }

  /** The rings of the saved world; what is on them the services restore themselves. */
  #restoreRings(domId: number, ends: RenewedEnds | null): void {
    const tenant = this.#tenants.get(domId);
    assert(tenant !== undefined, () => `the saved domain ${domId} is unknown`);
    if (ends === null) this.#removeRings(domId, tenant);
    else if (JSON.stringify(ends) !== JSON.stringify(tenant.ends)) this.#addRings(domId, tenant, ends);
  }

  #restore(state: unknown): void {
    const saved = state as { store: unknown; toolstack: unknown; nextPort: number; devices: { domId: number; service: string; channels: [number, number][]; backend: unknown }[]; disks: [number, number, unknown][]; tenants: [number, RenewedEnds | null][] };
    for (const [domId, ends] of saved.tenants) this.#restoreRings(domId, ends);
    for (const [domId, deviceId, content] of saved.disks) this.#tenants.get(domId)?.disks.get(deviceId)?.restore(content);
    this.store.restore(saved.store);
    this.toolstack.restore(saved.toolstack);
    this.#nextPort = saved.nextPort;
    for (const { domId, service } of this.#devices.splice(0)) this.#world.services.remove(domId, service);
    for (const row of saved.devices) {
      const config = this.#tenants.get(row.domId)?.devices.find((device) => deviceService(device) === row.service);
      assert(config !== undefined, () => `the saved device ${row.service} of domain ${row.domId} is not in its spec`);
      const device = this.#makeDevice(row.domId, config);
      for (const [guestPort, ownPort] of row.channels) {
        device.channels.set(guestPort, ownPort);
        this.#world.services.connectPort(row.domId, guestPort, row.service);
      }
      device.backend.restore(row.backend);
    }
  }
}

/** Throws UsageError for names and numbers that no toolstack would take. */
function devicesOf(spec: DomainSpec): DeviceConfig[] {
  const devices: DeviceConfig[] = [];
  for (const disk of spec.disks ?? []) {
    const deviceId = diskNumber(disk.vdev);
    if (deviceId === undefined) throw new UsageError(`${spec.name}: ${disk.vdev} is no name of a disk; write xvda, xvdb, ... or sda, hda`);
    if (devices.some((other) => other.deviceClass === 'vbd' && other.deviceId === deviceId)) throw new UsageError(`${spec.name}: two disks are called ${disk.vdev}`);
    devices.push({ deviceClass: 'vbd', deviceId, disk, imageName: disk.image.name });
  }
  (spec.vifs ?? []).forEach((vif, deviceId) => {
    if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(vif.mac)) throw new UsageError(`${spec.name}: ${vif.mac} is no MAC address; write 00:16:3e:xx:xx:xx`);
    devices.push({ deviceClass: 'vif', deviceId, vif });
  });
  return devices;
}
