import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CONSOLE_RING } from '../../src/abi/console-ring.ts';
import { indexAdd, indexDistance } from '../../src/abi/ring-index.ts';
import { MAX_GUEST_CMDLINE, START_INFO_32, START_INFO_64, startInfoBytes, type StartInfoValues } from '../../src/abi/start-info.ts';
import { XEN_NOTES, xenNoteRow } from '../../src/abi/xen-notes.ts';
import { XS, xsOperationName, XS_RING } from '../../src/abi/xenstore.ts';

const VALUES: StartInfoValues = {
  magic: 'xen-3.0-x86_32p', nr_pages: 16384, shared_info: 0x123000, flags: 16, store_mfn: 0x111, store_evtchn: 1, console_mfn: 0x222, console_evtchn: 2,
  pt_base: 0xc030_0000, nr_pt_frames: 4, mfn_list: 0xc020_0000, mod_start: 0xc010_0000, mod_len: 4095, cmd_line: 'a=b', first_p2m_pfn: 7, nr_p2m_frames: 8,
};

describe('free-running indices', () => {
  test('only differences mean anything, across the wrap at 2^32 too', () => {
    fc.assert(
      fc.property(fc.constantFrom(0, 0xffff_ffff, 0x7fff_ffff, 0xffff_fc00), fc.nat(4096), fc.nat(4096), (start, a, b) => {
        expect(indexDistance(start, indexAdd(start, a))).toBe(a);
        expect(indexAdd(indexAdd(start, a), b)).toBe(indexAdd(start, a + b));
      }),
      { seed: 51 },
    );
    expect(indexAdd(0xffff_ffff, 1)).toBe(0);
  });
});

describe('start_info', () => {
  // offsetof() as GCC gives it for -m32 and -m64 with xen/include/public/xen.h.
  test('has the offsets that kernels compile in', () => {
    expect(START_INFO_32.fields.pt_base.at).toBe(60);
    expect(START_INFO_32.fields.cmd_line.at).toBe(80);
    expect(START_INFO_64.fields.console_evtchn.at).toBe(80);
    expect(START_INFO_64.fields.cmd_line.at).toBe(128);
    expect([START_INFO_32.sizeBytes, START_INFO_64.sizeBytes]).toEqual([1112, 1168]);
  });

  test('keeps high addresses of 64-bit kernels whole', () => {
    const view = new DataView(startInfoBytes(64, { ...VALUES, pt_base: -0x7d00_0000 }).buffer);
    expect(view.getBigUint64(88, true)).toBe(0xffff_ffff_8300_0000n);
    expect(view.getUint32(64, true)).toBe(1);
  });

  test('cuts a command line that is too long and ends it with NUL', () => {
    const bytes = startInfoBytes(32, { ...VALUES, cmd_line: 'x'.repeat(5000) });
    expect(bytes[80 + MAX_GUEST_CMDLINE - 2]).toBe(0x78);
    expect(bytes[80 + MAX_GUEST_CMDLINE - 1]).toBe(0);
    expect(new DataView(bytes.buffer).getUint32(1104, true)).toBe(7);
  });
});

describe('tables', () => {
  test('rings fill one page and put their indices behind their bytes', () => {
    expect([XS_RING.fields.req_cons.at, XS_RING.fields.rsp_prod.at, CONSOLE_RING.fields.in_cons.at, CONSOLE_RING.fields.out_prod.at]).toEqual([2048, 2060, 3072, 3084]);
  });
  test('numbers and names of notes and operations are one to one', () => {
    expect(XEN_NOTES.map((row) => row.type)).toEqual(Array.from({ length: 20 }, (_, index) => index));
    expect(xenNoteRow(9)?.name).toBe('PAE_MODE');
    expect(xenNoteRow(99)).toBeUndefined();
    expect(new Set(Object.values(XS)).size).toBe(Object.keys(XS).length);
    expect([xsOperationName(2), xsOperationName(99)]).toEqual(['READ', 'type 99']);
  });
});
