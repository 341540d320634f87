// Devices as the toolstack is told of them: plain data, part of a world's spec. A device's number in
// xenstore follows from its name (disks) or its place in the list (network interfaces).

/** What a back end can do beyond the least; all of it by default. */
export interface DiskFeatures {
  /** Segments that an indirect request may have; 0: none are offered. Default 256. */
  readonly maxIndirectSegments?: number;
  readonly persistentGrants?: boolean;
  readonly flush?: boolean;
  readonly barrier?: boolean;
  readonly discard?: boolean;
  /** log2 of the pages that a ring may have. Default 4. */
  readonly maxRingPageOrder?: number;
}

export interface DiskConfig {
  /** As the guest may call it: xvda, xvda1, sda, hda, d0p1. */
  readonly vdev: string;
  /** r: the guest may not write. */
  readonly mode: 'r' | 'w';
  readonly format?: 'raw';
  readonly cdrom?: boolean;
  /** Default 512. */
  readonly sectorBytes?: 512 | 4096;
  readonly features?: DiskFeatures;
  /** false: it is plugged in later, by a command. */
  readonly plugged?: boolean;
}

export interface VifConfig {
  /** 00:16:3e:xx:xx:xx */
  readonly mac: string;
  /** The switch to which it is connected. */
  readonly bridge: string;
  readonly ip?: string;
  readonly mtu?: number;
  /** false: it is plugged in later, by a command. */
  readonly plugged?: boolean;
}

export type DeviceClass = 'vbd' | 'vif';

/** One device of one domain, by class and number. */
export type DeviceConfig =
  | { readonly deviceClass: 'vbd'; readonly deviceId: number; readonly disk: DiskConfig; /** What dom0 calls the image. */ readonly imageName: string }
  | { readonly deviceClass: 'vif'; readonly deviceId: number; readonly vif: VifConfig };

export const backendNode = (domId: number, { deviceClass, deviceId }: Pick<DeviceConfig, 'deviceClass' | 'deviceId'>): string => `backend/${deviceClass}/${domId}/${deviceId}`;
export const backendPath = (domId: number, device: Pick<DeviceConfig, 'deviceClass' | 'deviceId'>): string => `/local/domain/0/${backendNode(domId, device)}`;
export const frontendPath = (domId: number, { deviceClass, deviceId }: Pick<DeviceConfig, 'deviceClass' | 'deviceId'>): string => `/local/domain/${domId}/device/${deviceClass}/${deviceId}`;
export const libxlPath = (domId: number, { deviceClass, deviceId }: Pick<DeviceConfig, 'deviceClass' | 'deviceId'>): string => `/libxl/${domId}/device/${deviceClass}/${deviceId}`;

// ---- names of disks --------------------------------------------------------------------------------

interface NameRow {
  readonly prefix: string;
  readonly disks: number;
  readonly partitions: number;
  readonly number: (disk: number, partition: number) => number;
}

/** Source: docs/man/xen-vbd-interface.7, libxl__device_disk_dev_number(). Order matters: xvd before sd and hd. */
const NAME_ROWS: readonly NameRow[] = [
  { prefix: 'xvd', disks: 1 << 20, partitions: 256, number: (disk, partition) => (disk < 16 && partition < 16 ? (202 << 8) | (disk << 4) | partition : (1 << 28) | (disk << 8) | partition) },
  { prefix: 'sd', disks: 16, partitions: 16, number: (disk, partition) => (8 << 8) | (disk << 4) | partition },
  { prefix: 'hd', disks: 4, partitions: 64, number: (disk, partition) => ((disk < 2 ? 3 : 22) << 8) | ((disk & 1) << 6) | partition },
];

/** The number of a disk's name in xenstore: xvda is 51712; undefined for what is no name of a disk. */
export function diskNumber(vdev: string): number | undefined {
  const numbered = /^d(\d+)(?:p(\d+))?$/.exec(vdev);
  if (numbered !== null) return rowNumber(NAME_ROWS[0] as NameRow, Number(numbered[1]), Number(numbered[2] ?? 0));
  const named = /^(xvd|sd|hd)([a-z]{1,4})(\d{0,3})$/.exec(vdev);
  if (named === null) return undefined;
  const [, prefix, letters = '', digits = ''] = named;
  // 'a' is the first disk, 'aa' the one after 'z'.
  const disk = [...letters].reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 96, 0) - 1;
  return rowNumber(NAME_ROWS.find((row) => row.prefix === prefix) as NameRow, disk, digits === '' ? 0 : Number(digits));
}

const rowNumber = (row: NameRow, disk: number, partition: number): number | undefined => (disk < row.disks && partition < row.partitions ? row.number(disk, partition) : undefined);
