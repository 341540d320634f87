// Which driver serves which class of device.
import { assert, unreachable } from '../base/assert.ts';
import { BlockBackend } from '../dom0/block-backend.ts';
import type { DeviceDriver } from '../dom0/device-backend.ts';
import type { DeviceConfig } from '../dom0/device-spec.ts';
import type { Disk } from '../dom0/disk.ts';
import { Netback } from '../dom0/netback.ts';
import type { Network } from '../dom0/net/network.ts';
import type { DevicePort } from '../dom0/ports.ts';
import type { World } from './world.ts';

export interface DriverParts {
  readonly world: World;
  readonly config: DeviceConfig;
  readonly port: DevicePort;
  readonly network: Network;
  /** Of a block device. */
  readonly disk: Disk | undefined;
}

export function createDriver({ config, port, network, disk }: DriverParts): DeviceDriver {
  switch (config.deviceClass) {
    case 'vbd':
      assert(disk !== undefined, () => `disk ${config.disk.vdev} of domain ${port.domId} has no content`);
      return new BlockBackend(config, port, disk);
    case 'vif':
      return new Netback(config, port, (client) => network.plug(config.vif.bridge, client));
    default:
      return unreachable(config);
  }
}
