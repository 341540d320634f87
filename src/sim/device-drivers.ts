// Which driver serves which class of device.
import { UsageError } from '../base/assert.ts';
import type { DeviceDriver } from '../dom0/device-backend.ts';
import type { DeviceConfig } from '../dom0/device-spec.ts';
import type { DevicePort, ImageReader } from '../dom0/ports.ts';
import type { World } from './world.ts';

export interface DriverParts {
  readonly world: World;
  readonly config: DeviceConfig;
  readonly port: DevicePort;
  /** A disk's content. */
  readonly image: ImageReader | undefined;
}

export function createDriver({ config }: DriverParts): DeviceDriver {
  throw new UsageError(`devices of class ${config.deviceClass} are not there yet`);
}
