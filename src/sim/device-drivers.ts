// Which driver serves which class of device.
import { UsageError } from '../base/assert.ts';
import type { DeviceDriver } from '../dom0/device-backend.ts';
import type { DeviceConfig } from '../dom0/device-spec.ts';
import type { DevicePort, ImageReader } from '../dom0/ports.ts';
import { Netback } from '../dom0/netback.ts';
import type { Network } from '../dom0/net/network.ts';
import type { World } from './world.ts';

export interface DriverParts {
  readonly world: World;
  readonly config: DeviceConfig;
  readonly port: DevicePort;
  readonly network: Network;
  /** A disk's content. */
  readonly image: ImageReader | undefined;
}

export function createDriver({ config, port, network }: DriverParts): DeviceDriver {
  if (config.deviceClass === 'vif') return new Netback(config, port, (client) => network.plug(config.vif.bridge, client));
  throw new UsageError(`devices of class ${config.deviceClass} are not there yet`);
}
