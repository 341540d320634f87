// Conformance operations of family gnttab (FORMAT section 9): grant_table_op, and the guest's own
// stores to and loads from its grant table.
import { HYPERCALL } from '../abi/hypercall-numbers.ts';
import { entryMaddr, GTF } from '../hypervisor/grant-table.ts';
import { GNTTABOP } from '../hypervisor/hypercalls/grant-table.ts';
import type { ConformCall, ConformContext, ConformFamily, ConformOp, PreparedCall, ScriptOp, Word } from './conform-op.ts';

/** What a status holds until Xen writes it. */
const UNTOUCHED = 0x5a5a;
const UNTOUCHED_U32 = 0x5a5a_5a5a;
/** Handle of a name that was never made. */
const UNMADE_HANDLE = 0xffff_f0;
const HANDLE_NOTES = 'gnttab.handles';

const num = (op: Readonly<Record<string, unknown>>, field: string): number => Number(op[field] ?? 0);
const hex = (op: Readonly<Record<string, unknown>>, field: string): number => parseInt(String(op[field] ?? '0'), 16);
const text = (op: Readonly<Record<string, unknown>>, field: string): string => String(op[field]);

/** Writes fields of an argument structure in the kernel's pages. */
class Struct {
  readonly vaddr: number;
  readonly #context: ConformContext;
  constructor(context: ConformContext, sizeBytes: number) {
    this.#context = context;
    this.vaddr = context.scratch(sizeBytes);
  }
  #maddr(at: number): number {
    return this.#context.scratchMaddr(this.vaddr + at);
  }
  u16(at: number, value: number): void {
    this.#context.hv.machine.writeU16(this.#maddr(at), value);
  }
  u32(at: number, value: number): void {
    this.#context.hv.machine.writeU32(this.#maddr(at), value >>> 0);
  }
  word(at: number, { lo, hi }: Word): void {
    this.u32(at, lo);
    this.u32(at + 4, hi);
  }
  /** A guest word: 4 or 8 bytes. */
  long(at: number, value: number): void {
    this.u32(at, value);
    if (this.#context.wide) this.u32(at + 4, Math.floor(value / 0x1_0000_0000));
  }
  getU16(at: number): number {
    return this.#context.hv.machine.readU16(this.#maddr(at));
  }
  getU32(at: number): number {
    return this.#context.hv.machine.readU32(this.#maddr(at));
  }
  /** A status, or null while untouched. */
  status(at: number): number | null {
    const value = this.getU16(at);
    return value === UNTOUCHED ? null : (value << 16) >> 16;
  }
}

const addressWord = (value: number): Word => ({ lo: value >>> 0, hi: Math.floor(value / 0x1_0000_0000) >>> 0 });
/** `w3`, or `pte:f3[7]`: the machine address of an entry. */
const place = (context: ConformContext, at: string): Word => (at.startsWith('pte:') ? context.maddr(at.slice(4)) : addressWord(context.vaddr(at)));

function handleMap(context: ConformContext): Map<string, number> {
  const known = context.notes.get(HANDLE_NOTES) as Map<string, number> | undefined;
  if (known !== undefined) return known;
  const made = new Map<string, number>();
  context.notes.set(HANDLE_NOTES, made);
  return made;
}
const handleOf = (context: ConformContext, value: unknown): number => (typeof value === 'number' ? value : (handleMap(context).get(String(value)) ?? UNMADE_HANDLE));

type Request = Readonly<Record<string, unknown>>;
const requests = (op: ScriptOp): readonly Request[] => op['req'] as readonly Request[];

/** A batch of structures of one size, each made by `fill`; `answer` reads each back. */
function batch(context: ConformContext, op: ScriptOp, command: number, sizeBytes: number, statusAt: number, fill: (struct: Struct, at: number, request: Request) => void, answer: (struct: Struct, at: number) => unknown): PreparedCall {
  const list = requests(op);
  const struct = new Struct(context, Math.max(1, list.length) * sizeBytes);
  list.forEach((request, index) => {
    fill(struct, index * sizeBytes, request);
    struct.u16(index * sizeBytes + statusAt, UNTOUCHED);
  });
  return { number: HYPERCALL.grant_table_op, args: [command, struct.vaddr, list.length], finish: (rc) => [rc, list.map((_, index) => answer(struct, index * sizeBytes))] };
}

const gmap: ConformCall = (context, op) =>
  batch(context, op, GNTTABOP.map_grant_ref, 32, 18, (struct, at, request) => {
    struct.word(at, place(context, text(request, 'at')));
    struct.u32(at + 8, hex(request, 'flags'));
    struct.u32(at + 12, num(request, 'ref'));
    struct.u16(at + 16, context.domId(text(request, 'dom')));
  }, (struct, at) => {
    const status = struct.status(at + 18);
    if (status !== 0) return status === null ? null : [status];
    const handles = handleMap(context);
    const name = `h${handles.size}`;
    handles.set(name, struct.getU32(at + 20));
    const bus = { lo: struct.getU32(at + 24), hi: struct.getU32(at + 28) };
    return [0, name, bus.lo === 0 && bus.hi === 0 ? '0' : withFlags(context.text(bus))];
  });
/** `f3` with no flags is written `f3:0`. */
const withFlags = (word: string): string => (word.includes(':') ? word : `${word}:0`);

const unmapping = (command: number, second: (context: ConformContext, request: Request) => Word): ConformCall => (context, op) =>
  batch(context, op, command, 24, 20, (struct, at, request) => {
    struct.word(at, place(context, text(request, 'at')));
    struct.word(at + 8, second(context, request));
    struct.u32(at + 16, handleOf(context, request['h']));
  }, (struct, at) => struct.status(at + 20));

const BEYOND_REFERENCES = 0x1_0000;
const gcopy: ConformCall = (context, op) => {
  const half = context.wide ? 16 : 8;
  const side = (struct: Struct, at: number, value: Request, isGref: boolean): void => {
    // The recorder's frame numbers were beyond every reference; this machine's are not.
    if (value['ref'] === undefined) struct.long(at, context.frame(text(value, 'frame')) + (isGref ? BEYOND_REFERENCES : 0));
    else struct.u32(at, num(value, 'ref'));
    struct.u16(at + half / 2, context.domId(text(value, 'dom')));
    struct.u16(at + half / 2 + 2, num(value, 'off'));
  };
  return batch(context, op, GNTTABOP.copy, context.wide ? 40 : 24, 2 * half + 4, (struct, at, request) => {
    const src = request['src'] as Request;
    const dst = request['dst'] as Request;
    const flags = request['flags'] === undefined ? (src['ref'] === undefined ? 0 : 1) | (dst['ref'] === undefined ? 0 : 2) : num(request, 'flags');
    side(struct, at, src, (flags & 1) !== 0);
    side(struct, at + half, dst, (flags & 2) !== 0);
    struct.u16(at + 2 * half, num(request, 'len'));
    struct.u16(at + 2 * half + 2, flags);
  }, (struct, at) => struct.status(at + 2 * half + 4));
};

/** One structure; the answer is read from it. */
function single(context: ConformContext, command: number, count: number, sizeBytes: number, fill: (struct: Struct) => void, answer: (rc: number, struct: Struct) => unknown): PreparedCall {
  const struct = new Struct(context, sizeBytes);
  fill(struct);
  return { number: HYPERCALL.grant_table_op, args: [command, struct.vaddr, count], finish: (rc) => answer(rc, struct) };
}

const gxfer: ConformCall = (context, op) => {
  const word = context.wide ? 8 : 4;
  const statusAt = word * 2;
  return single(context, GNTTABOP.transfer, 1, word * 3, (struct) => {
    struct.long(0, context.frame(text(op, 'frame')));
    struct.u16(word, context.domId(text(op, 'dom')));
    struct.u32(word + 4, num(op, 'ref'));
    struct.u16(context.wide ? 16 : 12, UNTOUCHED);
  }, (rc, struct) => [rc, struct.status(context.wide ? statusAt : 12)]);
};

/** Room for the frame list: more is never written. */
const LIST_BYTES = 4096;
const gsetup: ConformCall = (context, op) => {
  const entry = context.wide ? 8 : 4;
  const list = context.scratch(LIST_BYTES);
  return single(context, GNTTABOP.setup_table, op['count'] === undefined ? 1 : num(op, 'count'), 24, (struct) => {
    struct.u16(0, context.domId(text(op, 'dom')));
    struct.u32(4, num(op, 'nr'));
    struct.u16(8, UNTOUCHED);
    struct.long(context.wide ? 16 : 12, list);
  }, (rc, struct) => {
    let listed = 0;
    for (let at = 0; at < LIST_BYTES; at += entry) if (context.hv.machine.readU32(context.scratchMaddr(list + at)) !== 0) listed++;
    return [rc, struct.status(8), listed];
  });
};

const gqsize: ConformCall = (context, op) =>
  single(context, GNTTABOP.query_size, 1, 16, (struct) => {
    struct.u16(0, context.domId(text(op, 'dom')));
    struct.u16(12, UNTOUCHED);
  }, (rc, struct) => {
    const status = struct.status(12);
    return status === 0 ? [rc, status, struct.getU32(4), struct.getU32(8)] : [rc, status];
  });

const gsetver: ConformCall = (context, op) => single(context, GNTTABOP.set_version, 1, 4, (struct) => struct.u32(0, num(op, 'v')), (rc, struct) => [rc, struct.getU32(0)]);

const ggetver: ConformCall = (context, op) =>
  single(context, GNTTABOP.get_version, 1, 8, (struct) => {
    struct.u16(0, context.domId(text(op, 'dom')));
    struct.u32(4, UNTOUCHED_U32);
  }, (rc, struct) => (rc === 0 ? [rc, struct.getU32(4)] : [rc]));

const gswap: ConformCall = (context, op) =>
  single(context, GNTTABOP.swap_grant_ref, 1, 12, (struct) => {
    struct.u32(0, num(op, 'a'));
    struct.u32(4, num(op, 'b'));
    struct.u16(8, UNTOUCHED);
  }, (rc, struct) => [rc, struct.status(8)]);

const gstatusf: ConformCall = (context, op) => {
  const list = context.scratch(LIST_BYTES);
  return single(context, GNTTABOP.get_status_frames, 1, 16, (struct) => {
    struct.u32(0, num(op, 'nr'));
    struct.u16(4, context.domId(text(op, 'dom')));
    struct.u16(6, UNTOUCHED);
    struct.long(8, list);
  }, (rc, struct) => [rc, struct.status(6)]);
};

const gbad: ConformCall = (context, op) => single(context, num(op, 'cmd'), op['count'] === undefined ? 1 : num(op, 'count'), 64, () => undefined, (rc) => rc);

// ---- the guest's own table --------------------------------------------------------------------------

/** Machine address of a version 1 entry of d1's, as the guest reaches it through `gt`. */
const ownEntry = (context: ConformContext, op: ScriptOp): number => (context.mfns.get('gnttab') as number) * 4096 + num(op, 'ref') * 8;

const gset: ConformOp = (context, op) => {
  const at = ownEntry(context, op);
  context.hv.machine.writeU16(at, hex(op, 'flags'));
  context.hv.machine.writeU16(at + 2, context.domId(text(op, 'dom')));
  context.hv.machine.writeU32(at + 4, context.frame(text(op, 'frame')));
  return 'ok';
};
const gflag: ConformOp = (context, op) => {
  context.hv.machine.writeU16(ownEntry(context, op), hex(op, 'flags'));
  return 'ok';
};
const gget: ConformOp = (context, op) => {
  const at = ownEntry(context, op);
  const { machine } = context.hv;
  const mfn = machine.readU32(at + 4);
  return [machine.readU16(at).toString(16), machine.readU16(at + 2), mfn === 0 ? '0' : (context.names.get(mfn) ?? mfn)];
};

/** d2's offers, references 8 to 15. */
const PEER_OFFERS: readonly (readonly [gref: number, flags: number, domId: number, frame: string])[] = [
  [8, GTF.permit_access, 1, 'foreign'], [9, GTF.permit_access | GTF.readonly, 1, 'foreign1'], [10, GTF.permit_access, 3, 'foreign'], [11, GTF.accept_transfer, 1, 'foreign2'],
  [12, GTF.invalid, 1, 'foreign'], [13, GTF.permit_access, 1, 'foreign2'], [14, GTF.permit_access, 1, 'f0'], [15, GTF.permit_access, 1, 'hole'],
];

function setup(context: ConformContext): void {
  for (const [gref, flags, domId, frame] of PEER_OFFERS) {
    const at = entryMaddr(context.d2.grants, gref);
    context.hv.machine.writeU16(at, flags);
    context.hv.machine.writeU16(at + 2, domId);
    context.hv.machine.writeU32(at + 4, context.frame(frame));
  }
}

export const GNTTAB_FAMILY: ConformFamily = {
  calls: {
    gmap, gcopy, gxfer, gsetup, gqsize, gsetver, ggetver, gswap, gstatusf, gbad,
    gunmap: unmapping(GNTTABOP.unmap_grant_ref, (context, request) => (request['dev'] === undefined ? { lo: 0, hi: 0 } : context.word(text(request, 'dev')))),
    greplace: unmapping(GNTTABOP.unmap_and_replace, (context, request) => (request['new'] === undefined ? { lo: 0, hi: 0 } : place(context, text(request, 'new')))),
  },
  ops: { gset, gflag, gget },
  setup,
};
