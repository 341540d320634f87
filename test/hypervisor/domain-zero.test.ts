// What a guest is told that names domain 0: it exists, and is a stranger's. In the conformance world there is none.
import { expect, test } from 'vitest';
import { introduceDom0 } from '../../src/hypervisor/foreign-domain.ts';
import { SmallGuest } from './small-guest.ts';

const NR = { mmu_update: 1, memory_op: 12, grant_table_op: 20, mmuext_op: 26, sched_op: 29, event_channel_op: 32 } as const;
const [EPERM, ESRCH, EINVAL] = [-1, -3, -22] as const;
const GNTST = { general_error: -1, bad_domain: -2, bad_gntref: -3, permission_denied: -8 } as const;
const HOST_MAP = 2;
const SOURCE_GREF = 1;

const statusAt = (guest: SmallGuest, at: number): number => (guest.state.hv.machine.readU16(guest.maddr(at)) << 16) >> 16;
const grantOp = (guest: SmallGuest, command: number, at: number, ...words: readonly number[]): number => {
  expect(guest.call(NR.grant_table_op, command, guest.words(...words, 0, 0, 0), 1)).toBe(0);
  return statusAt(guest, at);
};

const ASKED: readonly [name: string, ask: (guest: SmallGuest) => unknown, nobody: number, stranger: number][] = [
  ['mmu_update of its frames', (guest) => guest.call(NR.mmu_update, guest.words(0, 0, 0, 0), 1, 0, 0), ESRCH, EPERM],
  ['mmu_update of its tables', (guest) => guest.call(NR.mmu_update, guest.words(0, 0, 0, 0), 1, 0, (1 << 16) | 0x7ff0), ESRCH, EPERM],
  ['mmuext_op', (guest) => guest.call(NR.mmuext_op, guest.words(6, 0, 0, 0), 1, 0, 0), ESRCH, EPERM],
  ['its reservation', (guest) => guest.call(NR.memory_op, 3, guest.words(0)), ESRCH, EPERM],
  ['alloc_unbound', (guest) => guest.call(NR.event_channel_op, 6, guest.words(0, 0)), ESRCH, EPERM],
  ['bind_interdomain', (guest) => guest.call(NR.event_channel_op, 0, guest.words(0, 1, 0)), ESRCH, EINVAL],
  ['status of a port', (guest) => guest.call(NR.event_channel_op, 5, guest.words(0, 1, 0, 0, 0, 0)), ESRCH, EPERM],
  ['reset', (guest) => guest.call(NR.event_channel_op, 10, guest.words(0)), ESRCH, EPERM],
  ['remote_shutdown', (guest) => guest.call(NR.sched_op, 4, guest.words(0, 0)), ESRCH, EPERM],
  ['map_grant_ref', (guest) => grantOp(guest, 0, 18, 0x1000, 0, HOST_MAP, 8, 0), GNTST.bad_domain, GNTST.general_error],
  ['map_grant_ref beyond its table', (guest) => grantOp(guest, 0, 18, 0x1000, 0, HOST_MAP, 512, 0), GNTST.bad_domain, GNTST.bad_gntref],
  ['copy', (guest) => grantOp(guest, 5, 20, 8, 0, 0, 0x7ff0, 4 | (SOURCE_GREF << 16)), GNTST.bad_domain, GNTST.general_error],
  ['query_size', (guest) => grantOp(guest, 6, 12, 0), GNTST.bad_domain, GNTST.permission_denied],
];

test.each(ASKED)('%s: refused as a stranger', (_name, ask, nobody, stranger) => {
  expect(ask(new SmallGuest())).toBe(nobody);
  const guest = new SmallGuest();
  introduceDom0(guest.state.hv);
  expect(ask(guest)).toBe(stranger);
});
