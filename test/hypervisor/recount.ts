// Counts references and types of a domain's frames from scratch, from nothing but the tables' content,
// the pins and what the vCPUs hold, and compares with the frame table. Shares no rule with the
// hypervisor: entries are read as the processor reads them.
import type { Domain } from '../../src/hypervisor/domain.ts';
import type { Hypervisor } from '../../src/hypervisor/hypervisor.ts';

const FLAG = { validated: 1, partial: 2, pinned: 4, paeXenL2: 8, allocated: 16, xenHeap: 32 } as const;
const WRITABLE = 6;
const IO_OWNER = 0x7ff1;

/** A use of a frame that no table shows: `typed` is 'rw' for a writable one. */
export interface ExtraHold {
  readonly mfn: number;
  readonly typed: 'rw' | undefined;
}

/** One line for each frame whose counts are wrong; empty if all is well. */
export function recount(hv: Hypervisor, domain: Domain, extra: readonly ExtraHold[] = []): string[] {
  const { frames, machine } = hv;
  const wrong: string[] = [];
  const refs = new Map<number, number>();
  const types = new Map<number, number>();
  const users = new Map<number, Set<string>>();
  const hold = (mfn: number, typed: string | undefined): void => {
    refs.set(mfn, (refs.get(mfn) ?? 0) + 1);
    if (typed === undefined) return;
    types.set(mfn, (types.get(mfn) ?? 0) + 1);
    if (!users.has(mfn)) users.set(mfn, new Set());
    users.get(mfn)?.add(typed);
  };
  const own: number[] = [];
  for (let mfn = 0; mfn < frames.frameCount; mfn++) if (frames.owner[mfn] === domain.domId) own.push(mfn);

  for (const mfn of own) {
    const flags = frames.flags[mfn] as number;
    const type = frames.type[mfn] as number;
    if ((flags & FLAG.allocated) !== 0) hold(mfn, undefined);
    if ((flags & FLAG.pinned) !== 0) hold(mfn, `l${type}`);
    if ((flags & FLAG.xenHeap) !== 0) types.set(mfn, (types.get(mfn) ?? 0) + 1);
    // A guest may give up in the middle of a preempted call: the state itself holds a type and a reference.
    const partial = (flags & FLAG.partial) !== 0;
    if (partial) hold(mfn, `l${type}`);
    if (type < 1 || type > 4 || frames.typeCount[mfn] === 0) continue;
    const bytes = domain.abi.pteBytes;
    const entries = type === 3 && domain.abi.levels === 3 ? 4 : 4096 / bytes;
    const begun = partial && ((frames.partialFlags[mfn] as number) & 1) !== 0 ? (frames.validEntries[mfn] as number) : -1;
    const end = partial ? (frames.validEntries[mfn] as number) + (begun >= 0 ? 1 : 0) : entries;
    for (let i = 0; i < end; i++) {
      if (type === 4 && i >= 256 && i < 272) continue;
      if (type === 2 && domain.abi.levels === 3 && (flags & FLAG.paeXenL2) !== 0 && i >= 428) continue;
      if (type === 2 && domain.abi.levels === 2 && i >= 0x3f0) continue;
      const lo = machine.readU32(mfn * 4096 + i * bytes);
      if ((lo & 1) === 0) continue;
      const target = (bytes === 8 ? (machine.readU32(mfn * 4096 + i * 8 + 4) & 0xf_ffff) * 0x10_0000 : 0) + (lo >>> 12);
      if (type === 1) {
        if (target >= frames.frameCount || frames.owner[target] === IO_OWNER) wrong.push(`L1 ${mfn.toString(16)}[${i}] maps no RAM of the domain's`);
        else hold(target, (lo & 2) !== 0 ? 'rw' : undefined);
      } else if (i === begun) {
        // That entry's table is half-way itself, and holds its own type.
        hold(target, undefined);
      } else if (target !== mfn) {
        const linear = frames.type[target] === type;
        if (linear && (lo & 2) !== 0) wrong.push(`writable linear entry ${mfn.toString(16)}[${i}]`);
        hold(target, linear ? `l${type}` : `l${type - 1}`);
      } else if ((lo & 2) !== 0) wrong.push(`writable self reference ${mfn.toString(16)}[${i}]`);
    }
  }
  const root = `l${domain.abi.levels}`;
  for (const vcpu of domain.vcpus) {
    for (const base of [vcpu.guestTableMfn, vcpu.userTableMfn]) if (base !== 0) hold(base, root);
    for (const mfn of [...vcpu.gdtFrames, ...vcpu.ldtFrames]) if (mfn !== 0) hold(mfn, 'desc');
    if (vcpu.oldTable !== undefined) wrong.push(`vCPU ${vcpu.vcpuId} left table ${vcpu.oldTable.mfn.toString(16)} half-way`);
  }
  for (const mfn of domain.leakedTables) hold(mfn, 'l2');
  for (const { mfn, typed } of extra) hold(mfn, typed);

  for (const mfn of own) {
    const kinds = [...(users.get(mfn) ?? [])];
    if (kinds.length > 1) wrong.push(`${frames.describe(mfn)} is used as ${kinds.join(' and ')}`);
    if (kinds[0] === 'rw' && frames.type[mfn] !== WRITABLE) wrong.push(`mapped writable: ${frames.describe(mfn)}`);
    if (frames.refCount[mfn] !== (refs.get(mfn) ?? 0)) wrong.push(`${refs.get(mfn) ?? 0} references found: ${frames.describe(mfn)}`);
    if (frames.typeCount[mfn] !== (types.get(mfn) ?? 0)) wrong.push(`${types.get(mfn) ?? 0} types found: ${frames.describe(mfn)}`);
  }
  return wrong;
}
