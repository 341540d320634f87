// Answers that no recorded script asks for, derived from Xen's source instead: each names its function.
// Scripts of the corpus' format, run as the debug build that was recorded.
import { describe, expect, test } from 'vitest';
import { ConformRunner } from '../../src/replay/conform.ts';
import type { ScriptOp } from '../../src/replay/conform-op.ts';

type AbiOf = 'pv64' | 'pv32pae';

/** What each operation answers. */
function answers(abi: AbiOf, ops: readonly ScriptOp[]): unknown[] {
  const heard: unknown[] = [];
  new ConformRunner({ afterOp: (_context, _op, answer) => heard.push(answer) }).run({ id: 'source', abi, family: 'mm', sub: 'source', ops, results: [] });
  return heard;
}
const last = (abi: AbiOf, ops: readonly ScriptOp[]): unknown => answers(abi, ops).at(-1);

describe('compat_mmuext_op(), xen/arch/x86/x86_64/compat/mm.c', () => {
  // A second root for the 32-bit guest: the same kernel, an L2 of its own in slot 3.
  const root: readonly ScriptOp[] = [
    { op: 'wr', va: 'v0', val: 'live_l2:1' }, { op: 'wr', va: 'v0+18', val: 'f1:1' },
    { op: 'uvm', va: 'v0', val: 'f0:61', fl: 2 }, { op: 'uvm', va: 'v1', val: 'f1:61', fl: 2 },
  ];

  test('elements are translated before the first runs: one that is not for 32-bit guests goes unheard behind a base switch', () => {
    expect(last('pv32pae', [...root, { op: 'ext', req: [['new_baseptr', 'f0'], ['new_user_baseptr', 'f0']] }])).toEqual([0, 1]);
    expect(last('pv32pae', [...root, { op: 'ext', req: [['new_baseptr', 'f0'], ['tlb_flush_local'], ['new_user_baseptr', 'f0']] }])).toEqual([-22, 2]);
    expect(last('pv32pae', [{ op: 'ext', req: [['tlb_flush_local'], ['new_user_baseptr', '0']] }])).toEqual([-22, 1]);
  });

  test('nothing to do is done before anybody asks for whom', () => {
    for (const count of [0, 0x8000_0000]) expect(last('pv32pae', [{ op: 'hc', nr: 26, args: ['kernel', count, 0, 99] }])).toBe(0);
    for (const count of [0, 0x8000_0000]) expect(last('pv64', [{ op: 'hc', nr: 26, args: ['kernel', count, 0, 99] }])).toBe(-3);
  });
});

describe.each(['pv64', 'pv32pae'] as const)('event channels of %s', (abi) => {
  test('do_event_channel_op(): going on with a reset asks for the same right as the reset itself', () => {
    const RESET_CONT = 14;
    const cont = (dom: number): unknown => last(abi, [{ op: 'wr', va: 'kernel', val: `raw:${dom.toString(16)}` }, { op: 'hc', nr: 32, args: [RESET_CONT, 'kernel'] }]);
    expect([cont(0x7ff0), cont(1), cont(2), cont(99)]).toEqual([-16, -16, -1, -3]);
  });

  test('vcpu_mark_events_pending(): sets one bit of the byte and leaves the guest\'s others', () => {
    const answer = last(abi, [{ op: 'shset', field: 'upcall_pending', val: 2 }, { op: 'evt', cmd: 'bind_interdomain', remote: 'd2', rport: 3 }]);
    expect(answer).toMatchObject({ rc: 0, port: 3, up: 3 });
  });
});
