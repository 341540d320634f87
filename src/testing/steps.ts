// Steps that the conformance corpus has not: exchanging frames, version 2 grant entries, and what the
// other domain does meanwhile. A family of rows like those in replay/conform-*.ts.
import { HYPERCALL } from '../abi/hypercall-numbers.ts';
import { destroyDomain } from '../hypervisor/destroy-domain.ts';
import { setPending } from '../hypervisor/event-channels.ts';
import { FRAME_TYPE } from '../hypervisor/frame-table.ts';
import { entryCount, entryMaddr } from '../hypervisor/grant-table.ts';
import { closePort } from '../hypervisor/hypercalls/event-channel.ts';
import { putPageAndType } from '../hypervisor/page-types.ts';
import type { ConformCall, ConformContext, ConformFamily, ConformOp } from '../replay/conform-op.ts';

const XENMEM_EXCHANGE = 11;
const DOMID_SELF = 0x7ff0;

/** { in: frames given, out?: address of the list of frames received }. Names move to the new frames. */
const exch: ConformCall = (context, op) => {
  const names = op['in'] as readonly string[];
  const word = context.wide ? 8 : 4;
  const size = context.wide ? 32 : 20;
  const { machine } = context.hv;
  const put = (vaddr: number, value: number): void => {
    const at = context.scratchMaddr(vaddr);
    machine.writeU32(at, value >>> 0);
    if (context.wide) machine.writeU32(at + 4, Math.floor(value / 0x1_0000_0000) >>> 0);
  };
  const inList = context.scratch(names.length * word);
  const ownList = context.scratch(names.length * word);
  const outList = op['out'] === undefined ? ownList : context.vaddr(String(op['out']));
  names.forEach((name, i) => {
    put(inList + i * word, context.frame(name));
    put(ownList + i * word, 0x100 + i);
  });
  const arg = context.scratch(size * 2 + word);
  [inList, outList].forEach((list, i) => {
    put(arg + i * size, list);
    put(arg + i * size + word, names.length);
    machine.writeU16(context.scratchMaddr(arg + i * size + 2 * word + 8), DOMID_SELF);
  });
  return {
    number: HYPERCALL.memory_op, args: [XENMEM_EXCHANGE, arg],
    finish: (rc) => {
      const done = machine.readU32(context.scratchMaddr(arg + size * 2));
      if (outList === ownList) names.slice(0, Math.min(done, names.length)).forEach((name, i) => context.mfns.set(name, machine.readU32(context.scratchMaddr(ownList + i * word))));
      return [rc, done];
    },
  };
};

/** d1 writes a version 2 entry of its own table: plain stores. */
const g2set: ConformOp = (context, op) => {
  const { machine } = context.hv;
  const at = (context.mfns.get('gnttab') as number) * 4096 + (Number(op['ref']) % 256) * 16;
  machine.writeU16(at, parseInt(String(op['flags']), 16));
  machine.writeU16(at + 2, context.domId(String(op['dom'])));
  machine.writeU16(at + 4, Number(op['off'] ?? 0));
  machine.writeU16(at + 6, Number(op['len'] ?? 4096));
  machine.writeU32(at + 8, context.frame(String(op['frame'])));
  machine.writeU32(at + 12, 0);
  return 'ok';
};

/** Frames that d2 maps writable itself, as long as it lives. */
export const PEER_FRAMES = ['foreign', 'foreign1', 'foreign2'] as const;
/** Their numbers at the start, whatever the names mean later. */
export const PEER_MFNS = 'peer.mfns';
export const peerMfns = ({ mfns, notes }: ConformContext): readonly number[] =>
  (notes.get(PEER_MFNS) as readonly number[] | undefined) ?? PEER_FRAMES.map((frame) => mfns.get(frame) as number);
export const PEER_ENDED = 'peer.ended';
/** Grant references of d2 that it has taken back. */
export const PEER_REVOKED = 'peer.revoked';

export function revoked(context: ConformContext): Set<number> {
  const known = context.notes.get(PEER_REVOKED) as Set<number> | undefined;
  if (known !== undefined) return known;
  const made = new Set<number>();
  context.notes.set(PEER_REVOKED, made);
  return made;
}

/** { do: 'close', port } | { do: 'revoke', ref } | { do: 'notify', port } | { do: 'end' }. */
const peer: ConformOp = (context, op) => {
  const { hv, d2 } = context;
  if (context.notes.has(PEER_ENDED)) return 'gone';
  switch (op['do']) {
    case 'close':
      return closePort(hv, d2, Number(op['port'])) ? 'ok' : 'none';
    case 'notify': {
      const binding = d2.events.ports[Number(op['port'])]?.binding;
      const far = binding?.kind === 'interdomain' ? hv.domain(binding.remoteDomId) : undefined;
      if (binding?.kind === 'interdomain' && far !== undefined) setPending(hv, far, binding.remotePort);
      return 'ok';
    }
    case 'revoke': {
      const gref = Number(op['ref']);
      if (gref >= entryCount(d2.grants)) return 'none';
      hv.machine.writeU16(entryMaddr(d2.grants, gref), hv.machine.readU16(entryMaddr(d2.grants, gref)) & ~3);
      revoked(context).add(gref);
      return 'ok';
    }
    case 'end':
      context.notes.set(PEER_ENDED, true);
      for (const mfn of peerMfns(context)) if (hv.frames.type[mfn] === FRAME_TYPE.writable) putPageAndType(hv, mfn);
      destroyDomain(hv, d2);
      return 'ok';
    default:
      return 'no such deed';
  }
};

export const TESTING_FAMILY: ConformFamily = { calls: { exch }, ops: { g2set, peer } };
