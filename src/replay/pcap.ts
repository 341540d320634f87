// The frames of one network interface as a capture file: what tcpdump and Wireshark read. Timestamps
// are virtual time since the world began. Frames are as they passed the interface (one large segment
// is one frame), except that checksums which were left to the other side are filled in.
// Source: the nanosecond form of libpcap's savefile (magic 0xa1b23c4d), draft-ietf-opsawg-pcap.
import { CHECKSUM_STATE, EVENT, GSO_TYPE } from '../abi/events.ts';
import { completed } from '../dom0/net/offload.ts';

export interface Interface {
  readonly domId: number;
  readonly deviceId: number;
}
export const interfaceName = ({ domId, deviceId }: Interface): string => `d${domId}:${deviceId}`;

const MAGIC_NS = 0xa1b2_3c4d;
const SNAPLEN = 262_144;
const LINKTYPE_ETHERNET = 1;
const NS_PER_SEC = 1_000_000_000;
const RECORD_BYTES = 16;

export function pcapHeader(): Uint8Array {
  const view = new DataView(new ArrayBuffer(24));
  view.setUint32(0, MAGIC_NS, true);
  view.setUint16(4, 2, true);
  view.setUint16(6, 4, true);
  view.setUint32(16, SNAPLEN, true);
  view.setUint32(20, LINKTYPE_ETHERNET, true);
  return new Uint8Array(view.buffer);
}

/** The capture's record of an event; undefined: it is no frame of this interface. */
export function pcapRecord(wanted: Interface, kind: number, domId: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): Uint8Array | undefined {
  const [deviceId = 0, , checksum = 0, gso = 0, size = 0] = values;
  if (kind !== EVENT.netFrame || domId !== wanted.domId || deviceId !== wanted.deviceId || bytes === undefined) return undefined;
  const type = GSO_TYPE[gso];
  const frame = completed({ bytes, checksum: CHECKSUM_STATE[checksum] ?? 'none', ...(type === undefined || type === 'none' ? {} : { gso: { type, size } }) });
  const record = new Uint8Array(RECORD_BYTES + frame.length);
  const view = new DataView(record.buffer);
  view.setUint32(0, Math.floor(nowNs / NS_PER_SEC), true);
  view.setUint32(4, nowNs % NS_PER_SEC, true);
  view.setUint32(8, frame.length, true);
  view.setUint32(12, frame.length, true);
  record.set(frame, RECORD_BYTES);
  return record;
}
