// Steps that the conformance corpus has not: exchanging frames, version 2 grant entries, uses of
// the LDT, and what the other domain does meanwhile. A family of rows like those in replay/conform-*.ts.
import { HYPERCALL } from '../abi/hypercall-numbers.ts';
import { destroyDomain } from '../hypervisor/destroy-domain.ts';
import { setPending } from '../hypervisor/event-channels.ts';
import { FRAME_TYPE } from '../hypervisor/frame-table.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import { entryCount, entryMaddr, GNTST, GTF } from '../hypervisor/grant-table.ts';
import { setVersion } from '../hypervisor/grant-table-control.ts';
import { completeUnmap, mapGrant, unmapGrant } from '../hypervisor/grant-table-map.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import { closePort } from '../hypervisor/hypercalls/event-channel.ts';
import { mapLdtOnFault } from '../hypervisor/ldt.ts';
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

/** { offset }: the processor loads a selector of the LDT, and Xen maps the page that holds it. */
const ldt: ConformOp = ({ hv, vcpu }, op) => (mapLdtOnFault(hv, vcpu, Number(op['offset'])) ? 'mapped' : 'fault');

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

/**
 * Entries of d2's table that are none for d1: of a frame that d2 never offers. A rule that looks at
 * too little finds them useful.
 */
const BAITS: readonly (readonly [gref: number, flags: number, domId: number])[] = [
  [16, GTF.permit_access, 3], [17, GTF.invalid, 1], [18, GTF.accept_transfer, 3], [19, GTF.transitive, 1],
];
export function offerBaits({ hv, d2 }: ConformContext, secretMfn: number): void {
  for (const [gref, flags, domId] of BAITS) {
    const at = entryMaddr(d2.grants, gref);
    hv.machine.writeU16(at, flags);
    hv.machine.writeU16(at + 2, domId);
    hv.machine.writeU32(at + 4, secretMfn);
  }
}

/** Parts of pages that d2 grants once its table is of version 2. */
export const SUB_PAGE_OFFERS = [{ gref: 20, frame: 'foreign', writable: true, start: 64, length: 128 }, { gref: 21, frame: 'foreign1', writable: false, start: 64, length: 128 }] as const;

/** d2's entry that passes on what d1 granted it. */
export const TRANSITIVE = { gref: 23, sourceGref: 1 } as const;

/** Flags and frame of an entry of d2's, in either version. */
export function peerEntry({ machine }: Hypervisor, { grants }: Domain, gref: number): { readonly flags: number; readonly frame: number } {
  const at = entryMaddr(grants, gref);
  return { flags: machine.readU16(at), frame: machine.readU32(at + (grants.version === 1 ? 4 : 8)) };
}

/** d2 goes over to version 2 and offers the same as before, parts of pages, and what it has from d1 (transitive). */
function upgrade(context: ConformContext): string {
  const { hv, d2 } = context;
  const before = Array.from({ length: 24 }, (_, gref) => ({ ...peerEntry(hv, d2, gref), domId: hv.machine.readU16(entryMaddr(d2.grants, gref) + 2) }));
  const refusal = d2.grants.version === 2 ? 'EEXIST' : setVersion(hv, d2, 2);
  if (refusal !== undefined) return refusal;
  const offer = (gref: number, flags: number, domId: number, low: number, frame: number): void => {
    const at = entryMaddr(d2.grants, gref);
    hv.machine.writeU16(at, flags);
    hv.machine.writeU16(at + 2, domId);
    hv.machine.writeU32(at + 4, low);
    hv.machine.writeU32(at + 8, frame);
  };
  before.forEach(({ flags, domId, frame }, gref) => offer(gref, flags, domId, 0, frame));
  for (const { gref, frame, writable, start, length } of SUB_PAGE_OFFERS) offer(gref, GTF.permit_access | GTF.sub_page | (writable ? 0 : GTF.readonly), 1, start | (length << 16), peerMfns(context)[PEER_FRAMES.indexOf(frame)] as number);
  // Its own grant by way of itself is none.
  offer(22, GTF.transitive, 1, d2.domId, 8);
  offer(TRANSITIVE.gref, GTF.transitive, 1, context.d1.domId, TRANSITIVE.sourceGref);
  return 'ok';
}

/** Grants of d1's that d2 has mapped for a device, by handle. */
const lent = (context: ConformContext): number[] => {
  const known = context.notes.get('peer.lent') as number[] | undefined;
  if (known === undefined) context.notes.set('peer.lent', []);
  return known ?? lent(context);
};

/** { do: 'close', port } | { do: 'revoke', ref } | { do: 'notify', port } | { do: 'map', ref, flags } | { do: 'unmap' } | { do: 'upgrade' } | { do: 'end' }. */
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
    // Of d1's grants, for a device: d2 has no tables of its own here.
    case 'map': {
      const { status, handle } = mapGrant(hv, d2.vcpus[0] as Vcpu, { hostAddr: 0, flags: Number(op['flags']), gref: Number(op['ref']), domId: context.d1.domId });
      if (status === GNTST.okay) lent(context).push(handle);
      return status;
    }
    case 'unmap': {
      const vcpu = d2.vcpus[0] as Vcpu;
      const { gref = 0 } = d2.grants.maptrack[lent(context)[0] ?? -1] ?? {};
      const handle = lent(context).shift();
      const mfn = context.d1.grants.active[gref]?.mfn;
      if (handle === undefined || mfn === undefined) return 'none';
      const { status, rest } = unmapGrant(hv, vcpu, { hostAddr: 0, devBusAddr: mfn * 4096, newAddr: 0, handle });
      if (rest !== undefined) completeUnmap(hv, rest);
      return status;
    }
    case 'upgrade':
      return upgrade(context);
    case 'end':
      context.notes.set(PEER_ENDED, true);
      for (const mfn of peerMfns(context)) if (hv.frames.type[mfn] === FRAME_TYPE.writable) putPageAndType(hv, mfn);
      destroyDomain(hv, d2);
      return 'ok';
    default:
      return 'no such deed';
  }
};

export const TESTING_FAMILY: ConformFamily = { calls: { exch }, ops: { g2set, ldt, peer } };
