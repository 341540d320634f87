// The toolstack in dom0, as far as it has to do with devices and the life of a domain: gives devices,
// takes them back, tells a guest to shut down. Its steps take virtual time, and what it waits for it
// waits for as libxl does: by watching xenstore, with a limit.
//
//   attach   write both directories · back end appears · hotplug script · (guest connects by itself)
//   detach   online = 0, state = closing · wait until the back end says closed · remove the directories
//
// Source: tools/libs/light/libxl_device.c (libxl__initiate_device_generic_remove), tools/xl/xl_vmcontrol.c.
import { XENBUS_STATE } from '../abi/xenbus.ts';
import { backendPath, type DeviceConfig } from './device-spec.ts';
import { memoryTargetPath } from './domain-entries.ts';
import { removeDeviceEntries, writeDeviceEntries, writeHotplugDone } from './device-entries.ts';
import type { Xenstored } from './xenstored.ts';

/** What a person with `xl` may ask of a running domain. A device is named by its vdev (disks) or its number (vif0). */
export type ToolstackCommand =
  | { readonly do: 'attach'; readonly device: string }
  /** `force`: not more than LIMIT_NS of waiting for the guest, then it is taken away. */
  | { readonly do: 'detach'; readonly device: string; readonly force?: boolean }
  /** Asks the guest, through control/shutdown. */
  | { readonly do: 'shutdown'; readonly how: 'poweroff' | 'reboot' | 'halt' | 'suspend' }
  /** Saves the domain and restores it, this much virtual time after it has suspended: all devices are new to it. */
  | { readonly do: 'save-restore'; readonly downNs?: number }
  /** A key of the magic SysRq. */
  | { readonly do: 'sysrq'; readonly key: string }
  /** The guest is asked to grow or shrink to so much. */
  | { readonly do: 'balloon'; readonly targetKib: number };

/** A command as the log has it; undefined: this is none. */
export function parseCommand(text: string): ToolstackCommand | undefined {
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(text) as Record<string, unknown>;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { device, force, how, key, targetKib, downNs } = value;
  switch (value['do']) {
    case 'attach':
      return typeof device === 'string' ? { do: 'attach', device } : undefined;
    case 'detach':
      return typeof device === 'string' ? { do: 'detach', device, ...(force === true ? { force } : {}) } : undefined;
    case 'shutdown':
      return how === 'poweroff' || how === 'reboot' || how === 'halt' || how === 'suspend' ? { do: 'shutdown', how } : undefined;
    case 'save-restore':
      return downNs === undefined || (typeof downNs === 'number' && Number.isSafeInteger(downNs) && downNs >= 0) ? { do: 'save-restore', ...(downNs === undefined ? {} : { downNs }) } : undefined;
    case 'sysrq':
      return typeof key === 'string' ? { do: 'sysrq', key } : undefined;
    case 'balloon':
      return typeof targetKib === 'number' && Number.isSafeInteger(targetKib) && targetKib >= 0 ? { do: 'balloon', targetKib } : undefined;
    default:
      return undefined;
  }
}

export interface ToolstackPort {
  /** The devices that the domain's spec names, whether plugged or not. */
  devicesOf(domId: number): readonly DeviceConfig[];
  /** x86_32-abi or x86_64-abi. */
  protocolOf(domId: number): string;
  /** A back end appears in dom0; false: it is there already. */
  startBackend(domId: number, device: DeviceConfig): boolean;
  /** The back end is dropped, whatever it was doing. */
  stopBackend(domId: number, device: DeviceConfig): void;
  /** Another domain is running. */
  othersRun(domId: number): boolean;
  /** How long it takes to notice something. */
  latencyNs(): number;
  nowNs(): number;
  /** run() follows at a later virtual time. */
  scheduleRun(delayNs: number): void;
  /** run() follows when the node changes. */
  watchStore(path: string): void;
  unwatchStore(path: string): void;
  /** The suspended domain comes back with new ends of store and console. A text: why it cannot. */
  renew(domId: number): string | undefined;
  /** Everything that dom0 and Xen hold of it goes. */
  destroy(domId: number): void;
  /** A remark in the log. */
  note(domId: number, text: string): void;
}

interface Removal {
  readonly domId: number;
  readonly device: string;
  readonly deadlineNs: number;
  readonly force: boolean;
}
interface Script {
  readonly domId: number;
  readonly device: string;
  readonly dueNs: number;
}

interface Asked {
  readonly domId: number;
  readonly dueNs: number;
  /** The word is out of the store. */
  readonly heard: boolean;
}

interface End {
  readonly domId: number;
  readonly then: 'restore' | 'destroy';
  readonly dueNs: number;
}

const SHUTDOWN_SUSPEND = 2;
/** A fast disk for a small domain. */
const DOWN_NS = 5_000_000;
/** What a guest has to take "suspend" out of the store, and then again to suspend: a minute each, as in libxl_dom_suspend.c (domain_suspend_common_pvcontrol_suspending, domain_suspend_common_wait_guest). */
const SUSPEND_LIMIT_NS = 60_000_000_000;
/** LIBXL_DESTROY_TIMEOUT: ten seconds. */
const REMOVAL_LIMIT_NS = 10_000_000_000;

export const deviceName = (device: DeviceConfig): string => (device.deviceClass === 'vbd' ? device.disk.vdev : `vif${device.deviceId}`);

const shutdownPath = (domId: number): string => `/local/domain/${domId}/control/shutdown`;

export class Toolstack {
  readonly #store: Xenstored;
  readonly #port: ToolstackPort;
  #removals: Removal[] = [];
  #scripts: Script[] = [];
  /** Domains that are to be saved and restored, and how long that takes. */
  #comingBack: Record<number, number> = {};
  /** Until when their kernels may hear of it, and then do it. */
  #asked: Asked[] = [];
  /** What is to happen with domains that have shut down. */
  #ends: End[] = [];
  /** Minor number of the next loop device. */
  #nextMinor = 0;

  constructor(store: Xenstored, port: ToolstackPort) {
    this.#store = store;
    this.#port = port;
  }

  /** All devices of a domain that does not run yet; as xl, its guest finds them in initWait. */
  buildDevices(domId: number): void {
    for (const device of this.#port.devicesOf(domId)) {
      const plugged = device.deviceClass === 'vbd' ? device.disk.plugged : device.vif.plugged;
      if (plugged === false) continue;
      this.#attach(domId, device);
      writeHotplugDone(this.#store, domId, device, this.#nextMinor++);
    }
  }

  command(domId: number, command: ToolstackCommand, scriptDelayNs: number): void {
    switch (command.do) {
      case 'attach':
        return this.#plugIn(domId, command.device, scriptDelayNs);
      case 'detach':
        return this.#takeAway(domId, command.device, command.force === true);
      case 'shutdown':
        return this.#store.writeAsDom0(shutdownPath(domId), command.how);
      case 'save-restore':
        this.#comingBack[domId] = command.downNs ?? DOWN_NS;
        this.#waitForSuspension(domId, false);
        return this.#store.writeAsDom0(shutdownPath(domId), 'suspend');
      case 'sysrq':
        return this.#store.writeAsDom0(`/local/domain/${domId}/control/sysrq`, command.key.slice(0, 1));
      case 'balloon':
        return this.#setMemory(domId, command.targetKib);
    }
  }

  /** libxl_set_memory_target() in libxl_mem.c. */
  #setMemory(domId: number, targetKib: number): void {
    const mostKib = Number(this.#store.readAsDom0(`/local/domain/${domId}/memory/static-max`));
    if (targetKib > mostKib) return this.#port.note(domId, `the domain cannot have ${targetKib} KiB: its maxmem is ${mostKib} KiB`);
    this.#store.writeAsDom0(memoryTargetPath(domId), String(targetKib));
  }

  #find(domId: number, name: string): DeviceConfig | undefined {
    const found = this.#port.devicesOf(domId).find((device) => deviceName(device) === name);
    if (found === undefined) this.#port.note(domId, `the domain has no device ${name}`);
    return found;
  }

  #attach(domId: number, device: DeviceConfig): boolean {
    if (this.#store.readAsDom0(backendPath(domId, device)) !== undefined) {
      this.#port.note(domId, `${deviceName(device)} is attached already`);
      return false;
    }
    writeDeviceEntries(this.#store, domId, device, this.#port.protocolOf(domId));
    this.#port.startBackend(domId, device);
    return true;
  }

  #plugIn(domId: number, name: string, scriptDelayNs: number): void {
    const device = this.#find(domId, name);
    if (device === undefined || !this.#attach(domId, device)) return;
    this.#scripts.push({ domId, device: name, dueNs: this.#port.nowNs() + scriptDelayNs });
    this.#port.scheduleRun(scriptDelayNs);
  }

  #takeAway(domId: number, name: string, force: boolean): void {
    const device = this.#find(domId, name);
    if (device === undefined) return;
    const path = backendPath(domId, device);
    if (this.#store.readAsDom0(path) === undefined) return this.#port.note(domId, `${name} is not attached`);
    if (this.#removals.some((row) => row.domId === domId && row.device === name)) return this.#port.note(domId, `${name} is being detached already`);
    this.#store.writeAsDom0(`${path}/online`, '0');
    this.#store.writeAsDom0(`${path}/state`, String(XENBUS_STATE.closing));
    this.#removals.push({ domId, device: name, deadlineNs: this.#port.nowNs() + REMOVAL_LIMIT_NS, force });
    this.#port.watchStore(`${path}/state`);
    this.#port.scheduleRun(REMOVAL_LIMIT_NS);
  }

  /** A script has finished, a node changed, or a limit has passed. */
  run(): void {
    const now = this.#port.nowNs();
    const finished = this.#scripts.filter((row) => row.dueNs <= now);
    this.#scripts = this.#scripts.filter((row) => row.dueNs > now);
    for (const { domId, device } of finished) {
      const config = this.#find(domId, device);
      if (config !== undefined) writeHotplugDone(this.#store, domId, config, this.#nextMinor++);
    }
    for (const row of [...this.#removals]) this.#goOnRemoving(row, now);
    for (const { domId, heard } of this.#asked.filter((row) => row.dueNs <= now)) this.#waitedForSuspension(domId, heard);
    const ended = this.#ends.filter((row) => row.dueNs <= now);
    this.#ends = this.#ends.filter((row) => row.dueNs > now);
    for (const { domId, then } of ended) then === 'restore' ? this.#restoreDomain(domId) : this.#port.destroy(domId);
  }

  /** A kernel that does not watch control/shutdown never takes the word out. */
  #isUnheard(domId: number): boolean {
    return this.#comingBack[domId] !== undefined && this.#store.readAsDom0(shutdownPath(domId)) === 'suspend';
  }
  #waitForSuspension(domId: number, heard: boolean): void {
    this.#asked = [...this.#asked.filter((row) => row.domId !== domId), { domId, dueNs: this.#port.nowNs() + SUSPEND_LIMIT_NS, heard }];
    this.#port.scheduleRun(SUSPEND_LIMIT_NS);
  }
  #waitedForSuspension(domId: number, heard: boolean): void {
    const unheard = this.#isUnheard(domId);
    if (!unheard && !heard) return this.#waitForSuspension(domId, true);
    this.#asked = this.#asked.filter((row) => row.domId !== domId);
    delete this.#comingBack[domId];
    if (unheard) this.#store.writeAsDom0(shutdownPath(domId), '');
    this.#port.note(domId, unheard ? 'it was to be saved, but its kernel has not taken "suspend" out of control/shutdown for a minute; the request is withdrawn' : 'it was to be saved, but its kernel, which has heard of it, has not suspended for a minute; it is not waited for any longer');
  }

  /** The domain has shut down. True: it comes back, or another one does. */
  domainShutdown(domId: number, reason: number): boolean {
    const downNs = reason === SHUTDOWN_SUSPEND ? this.#comingBack[domId] : undefined;
    if (downNs === undefined && this.#comingBack[domId] !== undefined) {
      this.#port.note(domId, `it was to be saved, but has ended without suspending${this.#isUnheard(domId) ? ': its kernel has not taken "suspend" out of control/shutdown' : ''}`);
    }
    delete this.#comingBack[domId];
    this.#asked = this.#asked.filter((row) => row.domId !== domId);
    this.#store.domainShutdown(domId);
    // Nobody is left who could see whether it is cleared away.
    const awaited = this.awaitsDomain;
    if (downNs === undefined && !awaited && !this.#port.othersRun(domId)) return false;
    const afterNs = this.#port.latencyNs() + (downNs ?? 0);
    this.#ends.push({ domId, then: downNs === undefined ? 'destroy' : 'restore', dueNs: this.#port.nowNs() + afterNs });
    this.#port.scheduleRun(afterNs);
    return downNs !== undefined || awaited;
  }

  /** A suspended domain is going to be there again. */
  get awaitsDomain(): boolean {
    return this.#ends.some(({ then }) => then === 'restore');
  }

  /** What was plugged is plugged again, anew. */
  #restoreDomain(domId: number): void {
    const plugged = this.#port.devicesOf(domId).filter((device) => this.#store.readAsDom0(backendPath(domId, device)) !== undefined);
    this.forgetDomain(domId);
    const problem = this.#port.renew(domId);
    if (problem !== undefined) {
      this.#port.note(domId, `it was saved, and cannot be restored: ${problem}`);
      return this.#port.destroy(domId);
    }
    for (const device of plugged) {
      this.#attach(domId, device);
      writeHotplugDone(this.#store, domId, device, this.#nextMinor++);
    }
  }

  #goOnRemoving(row: Removal, now: number): void {
    const device = this.#find(row.domId, row.device);
    if (device === undefined) return;
    const path = backendPath(row.domId, device);
    const state = this.#store.readAsDom0(`${path}/state`);
    const closed = state === undefined || state === String(XENBUS_STATE.closed);
    if (!closed && now < row.deadlineNs) return;
    this.#removals = this.#removals.filter((other) => other !== row);
    this.#port.unwatchStore(`${path}/state`);
    if (!closed && !row.force) return this.#port.note(row.domId, `${row.device} was not given back by the guest in time; it stays`);
    this.#port.stopBackend(row.domId, device);
    removeDeviceEntries(this.#store, row.domId, device);
  }

  /** The domain is gone: so are its devices. */
  forgetDomain(domId: number): void {
    for (const row of this.#removals.filter((removal) => removal.domId === domId)) {
      const device = this.#find(domId, row.device);
      if (device !== undefined) this.#port.unwatchStore(`${backendPath(domId, device)}/state`);
    }
    this.#removals = this.#removals.filter((row) => row.domId !== domId);
    this.#scripts = this.#scripts.filter((row) => row.domId !== domId);
    for (const device of this.#port.devicesOf(domId)) {
      this.#port.stopBackend(domId, device);
      removeDeviceEntries(this.#store, domId, device);
    }
  }

  /** JSON-serialisable. What is added later is there only if it says something: digests of worlds in which it does not stay as they were. */
  save(): unknown {
    return { removals: [...this.#removals], scripts: [...this.#scripts], comingBack: { ...this.#comingBack }, ends: [...this.#ends], nextMinor: this.#nextMinor, ...(this.#asked.length === 0 ? {} : { asked: [...this.#asked] }) };
  }
  restore(state: unknown): void {
    const saved = state as { removals: Removal[]; scripts: Script[]; comingBack: Record<number, number>; asked?: Asked[]; ends: End[]; nextMinor: number };
    this.#removals = [...saved.removals];
    this.#scripts = [...saved.scripts];
    this.#comingBack = { ...saved.comingBack };
    this.#asked = [...(saved.asked ?? [])];
    this.#ends = [...saved.ends];
    this.#nextMinor = saved.nextMinor;
  }
}
