import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { sameBytes } from '../../../src/base/hash.ts';
import { checkPacket, completed, fit, NO_OFFLOADS } from '../../../src/dom0/net/offload.ts';
import { putU16, u16At, u32At, type Packet } from '../../../src/dom0/net/packet.ts';
import { checksumAt, checksumHolds, findTransport, internetChecksum } from '../../../src/dom0/net/transport.ts';
import { tcpPacket } from './frames.ts';
import { noise } from './lan.ts';

const ALL = { blankIpv4: true, blankIpv6: true, gsoTcpv4: true, gsoTcpv6: true };

const shapes = fc.record({
  version: fc.constantFrom<4 | 6>(4, 6), tcpOptionWords: fc.integer({ min: 0, max: 10 }), payload: fc.integer({ min: 0, max: 9000 }), flags: fc.integer({ min: 0, max: 255 }),
  seq: fc.oneof(fc.nat(0xffff_ffff), fc.integer({ min: 0xffff_f000, max: 0xffff_ffff })),
});

const isIntact = (bytes: Uint8Array): boolean => {
  const transport = findTransport(bytes);
  const fieldAt = transport === undefined ? undefined : checksumAt(transport);
  return transport !== undefined && fieldAt !== undefined && checksumHolds(bytes, transport, fieldAt) && (transport.version === 6 || internetChecksum(bytes, transport.ipAt, transport.at) === 0);
};

describe('checksums', () => {
  test("RFC 1071's own example", () => {
    expect(internetChecksum(Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7))).toBe(0x220d);
  });

  test('a frame from a real machine holds, and one flipped bit does not', () => {
    // A SYN of Linux 6.x with all its options, as tcpdump saw it.
    const hex = '025278000001422f5c73312508004500003cdf0f4000400646e00a4d00320a4d0001b3760050d5f7ebe800000000a002faf006730000020405b40402080afa5fc1c5000000000103030a';
    const frame = Uint8Array.from(hex.match(/../g) as string[], (pair) => Number.parseInt(pair, 16));
    expect(findTransport(frame)).toMatchObject({ version: 4, protocol: 6, at: 34, end: 74 });
    expect(isIntact(frame)).toBe(true);
    for (let bit = 14 * 8; bit < frame.length * 8; bit++) {
      const damaged = frame.slice();
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(isIntact(damaged), `bit ${bit}`).toBe(false);
    }
  });

  test('a blank checksum is finished for who cannot, left for who can, and never twice', () => {
    fc.assert(fc.property(shapes, (shape) => {
      const bytes = tcpPacket({ ...shape, payload: shape.payload % 1400 });
      const packet: Packet = { bytes, checksum: 'blank' };
      expect(checkPacket(packet)).toBe(packet);
      expect(fit(packet, ALL)[0]).toBe(packet);
      const [whole, ...more] = fit(packet, NO_OFFLOADS);
      expect(more).toEqual([]);
      expect(whole?.checksum).toBe('none');
      expect(isIntact(whole?.bytes as Uint8Array)).toBe(true);
      expect(fit(whole as Packet, NO_OFFLOADS)[0]).toBe(whole);
      expect(sameBytes(completed(packet), whole?.bytes as Uint8Array)).toBe(true);
    }), { seed: 1, numRuns: 200 });
  });
});

describe('segmentation', () => {
  test('segments are whole packets that carry the same bytes in order', () => {
    fc.assert(fc.property(shapes, fc.integer({ min: 40, max: 1380 }), (shape, size) => {
      const bytes = tcpPacket(shape);
      const packet: Packet = { bytes, checksum: 'blank', gso: { type: shape.version === 4 ? 'tcpv4' : 'tcpv6', size } };
      expect(fit(packet, ALL)[0]).toBe(packet);
      const parts = fit(packet, NO_OFFLOADS);
      const headerBytes = bytes.length - shape.payload;
      expect(parts.length).toBe(Math.max(1, Math.ceil(shape.payload / size)));
      let at = headerBytes;
      parts.forEach((part, index) => {
        const l4 = findTransport(part.bytes)?.at as number;
        expect(isIntact(part.bytes)).toBe(true);
        expect(u32At(part.bytes, l4 + 4)).toBe((shape.seq + at - headerBytes) >>> 0);
        expect(sameBytes(part.bytes.subarray(headerBytes), bytes.subarray(at, at + part.bytes.length - headerBytes))).toBe(true);
        const isLast = index === parts.length - 1;
        // FIN and PSH belong to the last, CWR to the first, the rest to all.
        expect(part.bytes[l4 + 13]).toBe(shape.flags & ~(isLast ? 0 : 0x09) & ~(index === 0 ? 0 : 0x80));
        if (shape.version === 4) expect(u16At(part.bytes, 18)).toBe((u16At(bytes, 18) + index) & 0xffff);
        at += part.bytes.length - headerBytes;
      });
      expect(at).toBe(bytes.length);
    }), { seed: 2, numRuns: 100 });
  });

  test('what asks for offloads that its bytes do not allow is refused, and a large frame is no frame', () => {
    const bytes = tcpPacket({ version: 4, tcpOptionWords: 0, payload: 3000, flags: 0x10, seq: 1 });
    expect(checkPacket({ bytes, checksum: 'blank', gso: { type: 'tcpv6', size: 1000 } })).toContain('no such TCP header');
    expect(checkPacket({ bytes: bytes.subarray(0, 40), checksum: 'blank' })).toContain('no TCP or UDP header');
    expect(checkPacket({ bytes: noise(60, 1), checksum: 'blank' })).toContain('no TCP or UDP header');
    expect(fit({ bytes, checksum: 'none' }, ALL)).toEqual([]);
    // A GSO packet whose sender forgot to say that the checksum is blank: it is made so.
    const forgot = bytes.slice();
    putU16(forgot, 14 + 20 + 16, 0x1234);
    const checked = checkPacket({ bytes: forgot, checksum: 'validated', gso: { type: 'tcpv4', size: 1000 } });
    expect(checked).toEqual({ bytes, checksum: 'blank', gso: { type: 'tcpv4', size: 1000 } });
  });

  test('no bytes at all make it fall over', () => {
    const anyPacket = fc.record({ bytes: fc.uint8Array({ minLength: 0, maxLength: 120 }), v6: fc.boolean(), ip: fc.boolean(), size: fc.integer({ min: 1, max: 70000 }) });
    fc.assert(fc.property(anyPacket, ({ bytes, v6, ip, size }) => {
      if (ip && bytes.length > 24) bytes.set(v6 ? [0x86, 0xdd, 0x60] : [0x08, 0x00, 0x45], 12);
      for (const packet of [{ bytes, checksum: 'blank' }, { bytes, checksum: 'blank', gso: { type: v6 ? 'tcpv6' : 'tcpv4', size } }] as Packet[]) {
        const checked = checkPacket(packet);
        if (typeof checked !== 'string') for (const part of fit(checked, NO_OFFLOADS)) completed(part);
      }
    }), { seed: 3, numRuns: 2000 });
  });
});
