// What a toolstack writes into xenstore to give a domain a device, and how it takes that back: names,
// values, order and rights as libxl's. The guest owns its half and dom0 reads it; dom0 owns the other
// half and the guest reads it. Source: libxl__device_generic_add() in tools/libs/light/libxl_device.c,
// libxl_disk.c, libxl_nic.c; the copy under /libxl is what libxl itself believes.
import { XENBUS_STATE } from '../abi/xenbus.ts';
import { backendPath, frontendPath, libxlPath, type DeviceConfig } from './device-spec.ts';
import { perm } from './store-tree.ts';
import type { Xenstored } from './xenstored.ts';

type Entry = readonly [name: string, value: string];

const SCRIPTS = '/etc/xen/scripts';
const MTU_DEFAULT = 1500;

interface Entries {
  readonly back: readonly Entry[];
  readonly front: readonly Entry[];
  /** In the guest's half, but dom0's. */
  readonly readOnlyFront: readonly Entry[];
}

/** `protocol`: the guest's ring layout, for frontends too old to say it themselves. */
function entriesOf(domId: number, device: DeviceConfig, protocol: string): Entries {
  const initialising = String(XENBUS_STATE.initialising);
  if (device.deviceClass === 'vbd') {
    const { disk, imageName, deviceId } = device;
    const type = disk.cdrom === true ? 'cdrom' : 'disk';
    return {
      back: [
        ['params', imageName], ['script', `${SCRIPTS}/block`], ['frontend-id', String(domId)], ['online', '1'], ['removable', '0'], ['bootable', '1'], ['state', initialising],
        ['dev', disk.vdev], ['type', 'phy'], ['mode', disk.mode], ['device-type', type], ['discard-enable', disk.mode === 'w' && disk.features?.discard !== false ? '1' : '0'],
      ],
      front: [['backend-id', '0'], ['state', initialising], ['virtual-device', String(deviceId)], ['device-type', type], ['protocol', protocol]],
      readOnlyFront: [],
    };
  }
  const { vif, deviceId } = device;
  const mtu = vif.mtu ?? MTU_DEFAULT;
  return {
    back: [
      ['frontend-id', String(domId)], ['online', '1'], ['state', initialising], ['script', `${SCRIPTS}/vif-bridge`], ['mac', vif.mac], ...(vif.ip === undefined ? [] : [['ip', vif.ip] as const]),
      ...(mtu === MTU_DEFAULT ? [] : [['mtu', String(mtu)] as const]), ['bridge', vif.bridge], ['handle', String(deviceId)], ['type', 'vif'], ['hotplug-status', ''],
    ],
    front: [['backend-id', '0'], ['state', initialising], ['handle', String(deviceId)], ['mac', vif.mac], ['trusted', '1']],
    readOnlyFront: [['mtu', String(mtu)]],
  };
}

export function writeDeviceEntries(store: Xenstored, domId: number, device: DeviceConfig, protocol: string): void {
  const paths = { back: backendPath(domId, device), front: frontendPath(domId, device), libxl: libxlPath(domId, device) };
  const ofGuest = [perm(domId, ''), perm(0, 'r')];
  const ofDom0 = [perm(0, ''), perm(domId, 'r')];
  const entries = entriesOf(domId, device, protocol);
  store.removeAsDom0(paths.libxl);
  store.writeAsDom0(`${paths.libxl}/frontend`, paths.front);
  store.writeAsDom0(`${paths.libxl}/backend`, paths.back);
  store.removeAsDom0(paths.front);
  store.mkdirAsDom0(paths.front, ofGuest);
  store.writeAsDom0(`${paths.front}/backend`, paths.back);
  for (const [name, value] of entries.front) store.writeAsDom0(`${paths.front}/${name}`, value, ofGuest);
  for (const [name, value] of entries.readOnlyFront) store.writeAsDom0(`${paths.front}/${name}`, value, ofDom0);
  store.removeAsDom0(paths.back);
  store.mkdirAsDom0(paths.back, ofDom0);
  store.writeAsDom0(`${paths.back}/frontend`, paths.front);
  for (const [name, value] of entries.back) store.writeAsDom0(`${paths.back}/${name}`, value);
  for (const [name, value] of entries.back) store.writeAsDom0(`${paths.libxl}/${name}`, value);
}

/** What the hotplug script leaves once the image or the switch is there. */
export function writeHotplugDone(store: Xenstored, domId: number, device: DeviceConfig, minor: number): void {
  const path = backendPath(domId, device);
  if (store.readAsDom0(path) === undefined) return;
  if (device.deviceClass === 'vbd') {
    // A loop device: block-common.sh writes major and minor in hexadecimal.
    store.writeAsDom0(`${path}/physical-device`, `7:${minor.toString(16)}`);
    store.writeAsDom0(`${path}/physical-device-path`, `/dev/loop${minor}`);
  }
  store.writeAsDom0(`${path}/hotplug-status`, 'connected');
}

export function removeDeviceEntries(store: Xenstored, domId: number, device: DeviceConfig): void {
  store.removeAsDom0(frontendPath(domId, device));
  store.removeAsDom0(backendPath(domId, device));
  store.removeAsDom0(libxlPath(domId, device));
}
