// What becomes of code and data segments whose range reaches into Xen's, on 32-bit Xen 3.x and on 64-bit Xen.
import { describe, expect, test } from 'vitest';
import { checkDescriptor, checkedHi, checkedLo } from '../../src/hypervisor/segment-descriptors.ts';
import { reservedDescriptor } from '../../src/hypervisor/per-domain.ts';
import { ABIS, type AbiName } from '../../src/hypervisor/personality.ts';
import type { Domain } from '../../src/hypervisor/domain.ts';

const check = (abi: AbiName, lo: number, hi: number): { lo: number; hi: number } | 'refused' =>
  checkDescriptor({ abi: ABIS[abi] } as Domain, lo, hi) ? { lo: checkedLo, hi: checkedHi } : 'refused';
const lastPage = (d: { lo: number; hi: number } | 'refused'): number | string => (d === 'refused' ? d : ((d.hi & 0xf0000) | (d.lo & 0xffff)) >>> 0);
/** A present data segment of ring 1 with 4 KiB units; `type` 2 grows up, 6 grows down. */
const data = (base: number, limit: number, type = 2): [number, number] => [((base << 16) | (limit & 0xffff)) >>> 0, ((base & 0xff000000) | 0x00c0b000 | (type << 8) | (limit & 0xf0000) | ((base >>> 16) & 0xff)) >>> 0];

describe('segments on Xen 3.x', () => {
  test.each([['xen3-nopae', 0xfc3ff], ['xen3-pae', 0xf67ff]] as const)('%s: a segment of 4 GiB ends behind the machine-to-phys table, which guests read', (abi, last) => {
    expect(lastPage(check(abi, ...data(0, 0xfffff)))).toBe(last);
    expect(lastPage(check(abi, ...data(0, last)))).toBe(last);
    expect(lastPage(check(abi, ...data(0, last - 1)))).toBe(last - 1);
  });
  test('a base other than 0 counts: the segment ends at the same address', () => {
    expect(lastPage(check('xen3-nopae', ...data(0xc0000000, 0xfffff)))).toBe(0x3c3ff);
  });
  test('one that begins within the last page below the end is refused, and so is a limit in bytes that wraps', () => {
    expect(check('xen3-nopae', ...data(0xfc3ff000, 0))).toBe('refused');
    expect(lastPage(check('xen3-nopae', ...data(0xfc3fe000, 1)))).toBe(1);
    const [lo, hi] = data(0xfc3fe000, 0xfffff);
    expect(check('xen3-nopae', lo, hi & ~0x00800000)).toBe('refused');
  });
  test('one that grows down is cut to what lies below its base', () => {
    // A limit of 0 lets it reach everything above the first page.
    expect(lastPage(check('xen3-nopae', ...data(0x1000, 0, 6)))).toBe(0xffffe);
    expect(lastPage(check('xen3-nopae', ...data(0x1000, 0xfffff, 6)))).toBe(0xfffff);
  });
});

test('the flat segments of Xen 3.x end behind the machine-to-phys table too; those of 64-bit Xen do not end', () => {
  for (const selector of [0xe019, 0xe021, 0xe02b, 0xe033]) {
    expect(lastPage(reservedDescriptor('xen3-nopae', selector) as { lo: number; hi: number })).toBe(0xfc3ff);
    expect(lastPage(reservedDescriptor('xen3-pae', selector) as { lo: number; hi: number })).toBe(0xf67ff);
    expect(lastPage(reservedDescriptor('pv32pae', selector) as { lo: number; hi: number })).toBe(0xfffff);
  }
});
