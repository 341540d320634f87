// Disks and network interfaces as xl.cfg writes them, in all their spellings.
//
//   /img,raw,xvda,rw     file:/img,xvda,w     format=raw,vdev=xvda,access=rw,target=/img,with,commas
//
// Source: docs/man/xl-disk-configuration.5, xl-network-configuration.5; tools/libs/util/libxlu_disk_l.l.
import { diskNumber, type VifConfig } from '../../dom0/device-spec.ts';
import type { DiskSpec } from '../spec.ts';

/** Says what is wrong with the text; never returns. */
export type Complain = (problem: string) => never;

interface DiskDraft {
  target?: string;
  format?: string;
  vdev?: string;
  access?: string;
  cdrom?: boolean;
  discard?: boolean;
}

/** `phy:` and its like say the format; the next part is then the vdev. */
const PREFIXES: Readonly<Record<string, string>> = { phy: 'raw', file: 'raw', raw: 'raw', aio: 'raw', tap: '', tap2: '', tapdisk: '', qcow: 'qcow', qcow2: 'qcow2', vhd: 'vhd', qed: 'qed' };
const FORMATS = ['raw', 'qcow', 'qcow2', 'vhd', 'qed', 'empty'];
const WRITABLE = ['w', 'rw'];
const READ_ONLY = ['r', 'ro'];

type DiskKey = (draft: DiskDraft, value: string, complain: Complain) => void;
const DISK_KEYS: Readonly<Record<string, DiskKey>> = {
  format: (draft, value) => void (draft.format = value),
  vdev: (draft, value) => void (draft.vdev = value),
  access: (draft, value) => void (draft.access = value),
  devtype: (draft, value, complain) => {
    if (value !== 'disk' && value !== 'cdrom') complain(`devtype=${value} is not supported; write disk or cdrom`);
    draft.cdrom = value === 'cdrom';
  },
  // All of dom0's back ends look alike from the guest.
  backendtype: (_draft, value, complain) => {
    if (value !== 'phy' && value !== 'qdisk') complain(`backendtype=${value} is not supported`);
  },
};
const DISK_FLAGS: Readonly<Record<string, (draft: DiskDraft) => void>> = {
  cdrom: (draft) => void (draft.cdrom = true),
  discard: (draft) => void (draft.discard = true),
  'no-discard': (draft) => void (draft.discard = false),
  'direct-io-safe': () => undefined,
};

export function parseDisk(text: string, complain: Complain): DiskSpec {
  const draft: DiskDraft = {};
  let rest = text.trim();
  let prefixed = false;
  for (let prefix = /^([a-z0-9]+):/.exec(rest); prefix !== null && Object.hasOwn(PREFIXES, prefix[1] as string); prefix = /^([a-z0-9]+):/.exec(rest)) {
    prefixed = true;
    if (PREFIXES[prefix[1] as string] !== '') draft.format = PREFIXES[prefix[1] as string] as string;
    rest = rest.slice(prefix[0].length);
  }
  let place = 0;
  while (rest !== '') {
    // The target may have commas when it is named, and is the last then.
    if (rest.startsWith('target=')) {
      draft.target = rest.slice('target='.length);
      break;
    }
    const comma = rest.indexOf(',');
    const part = (comma < 0 ? rest : rest.slice(0, comma)).trim();
    rest = comma < 0 ? '' : rest.slice(comma + 1).trim();
    const named = /^([a-z0-9-]+)=(.*)$/.exec(part);
    if (named !== null && !part.startsWith('/')) {
      const [, key = '', value = ''] = named;
      const apply = Object.hasOwn(DISK_KEYS, key) ? DISK_KEYS[key] : undefined;
      if (apply === undefined) complain(`${key}= of a disk is not supported`);
      else apply(draft, value.trim(), complain);
    } else if (Object.hasOwn(DISK_FLAGS, part)) (DISK_FLAGS[part] as (draft: DiskDraft) => void)(draft);
    else place = positional(draft, part, place, prefixed, complain);
  }
  return finished(draft, complain);
}

/** target, format, vdev, access; an empty part leaves its place as it is. */
function positional(draft: DiskDraft, part: string, from: number, prefixed: boolean, complain: Complain): number {
  const names = prefixed ? (['target', 'vdev', 'access'] as const) : (['target', 'format', 'vdev', 'access'] as const);
  const name = names[from];
  if (name === undefined) return complain(`there is one part too many: ${part}`);
  if (part !== '') draft[name] = part;
  return from + 1;
}

function finished(draft: DiskDraft, complain: Complain): DiskSpec {
  const [vdev = '', kind] = (draft.vdev ?? '').split(':');
  const cdrom = draft.cdrom === true || kind === 'cdrom';
  if (kind !== undefined && kind !== 'cdrom' && kind !== 'disk') complain(`${draft.vdev} is no name of a disk`);
  const { format = 'raw', access = cdrom ? 'r' : 'rw', target } = draft;
  if (!FORMATS.includes(format)) complain(`${format} is no format of a disk`);
  if (format === 'empty' || target === undefined || target === '') return complain('a disk without an image is not supported');
  if (format !== 'raw') complain(`the format ${format} is not supported; convert the image (qemu-img convert -O raw)`);
  if (vdev === '') complain('the disk has no vdev; write vdev=xvda');
  if (diskNumber(vdev) === undefined) complain(`${vdev} is no name of a disk; write xvda, xvdb, ... or sda, hda`);
  const plain = access.replace(/!$/, '');
  if (!WRITABLE.includes(plain) && !READ_ONLY.includes(plain)) complain(`the access ${access} is not known; write rw or ro`);
  return {
    vdev, image: { name: target }, mode: WRITABLE.includes(plain) && !cdrom ? 'w' : 'r', format: 'raw',
    ...(cdrom ? { cdrom } : {}), ...(draft.discard === false ? { features: { discard: false } } : {}),
  };
}

/** Keys of a network interface that say something about the host alone, or about emulated cards. */
const VIF_WITHOUT_EFFECT = ['model', 'vifname', 'script'];

export function parseVif(text: string, index: number, complain: Complain): VifConfig {
  const draft: { mac: string; bridge: string; ip?: string; mtu?: number } = { mac: `00:16:3e:00:00:${(index + 1).toString(16).padStart(2, '0')}`, bridge: 'xenbr0' };
  for (const part of text.split(',').map((piece) => piece.trim())) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const key = part.slice(0, Math.max(equals, 0));
    const value = part.slice(equals + 1);
    if (equals < 0 && part === 'ioemu') complain('an emulated network card (ioemu) is not supported');
    else if (equals < 0) complain(`${part} is not known; write it as key=value`);
    else if (key === 'mac') {
      if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(value)) complain(`${value} is no MAC address; write 00:16:3e:xx:xx:xx`);
      draft.mac = value.toLowerCase();
    } else if (key === 'bridge') draft.bridge = value;
    else if (key === 'ip') draft.ip = value;
    else if (key === 'mtu') {
      if (!/^\d{2,5}$/.test(value) || Number(value) < 68 || Number(value) > 65521) complain(`mtu=${value}: an MTU is a number from 68 to 65521`);
      draft.mtu = Number(value);
    } else if (key === 'type') {
      if (value !== 'vif') complain(`type=${value} is not supported; a PV guest has type=vif`);
    } else if (!VIF_WITHOUT_EFFECT.includes(key)) complain(`${key}= of a network interface is not supported`);
  }
  return draft;
}
