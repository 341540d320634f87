// Laws about one step and its answer: Xen said yes, so it must have been allowed to, and it must have
// happened. Judged from d2's offers, the state and the memory alone.
//
//   copies       what was copied may be read there and written here, and arrived
//   flushed      where a flush was asked for or is due, no translation of the window is left
//   delivered    a port that became pending is seen: its bit, the selector and the upcall, or its queue
//   written      an entry that Xen wrote leads where the guest said, with the rights that it said
//   loaded       the processor walks the tables that the vCPU is counted for
//   others       whoever names d2 as the one meant is refused
//   reset        no port is left, and no page of the FIFO ABI
//   shown        d2's shared entries show reading and writing while somebody does, and no longer
import { FRAME, FRAME_TYPE } from '../hypervisor/frame-table.ts';
import { entryMaddr } from '../hypervisor/grant-table.ts';
import type { Domain } from '../hypervisor/domain.ts';
import type { ConformContext, ScriptOp } from '../replay/conform-op.ts';
import { SCRATCH_VADDR } from '../replay/conform-world.ts';
import { ScriptCpu } from '../replay/script-cpu.ts';
import { peerEntry, PEER_ENDED, SUB_PAGE_OFFERS, TRANSITIVE } from './steps.ts';

export type Report = (law: string, text: string) => void;
/** Reference of d2's, may d1 write? As the world is set up (laws.ts). */
export type Offers = readonly (readonly [gref: number, frame: string, writable: boolean])[];

const PENDING_AT = 2048;
const WATCHED_PORTS = 128;
/** Bits of an event word of the FIFO ABI, xen/include/public/event_channel.h. */
const WORD = { pending: 0x8000_0000, masked: 0x4000_0000, linked: 0x2000_0000 } as const;
const PORTS_PER_PAGE = 1024;
/** GTF_*: the low bits of a shared entry. */
const GTF = { permitAccess: 1, typeMask: 3, readOnly: 4, reading: 8, writing: 16 } as const;
/** d2's entries that wait for a frame: there the bits mean something else. */
const ACCEPTING: ReadonlySet<number> = new Set([11, 18]);
const V1_ENTRY_BYTES = 8;
const WATCHED_GREFS = 24;
/** d2's entry for a frame that was d1's at the start: an offer once it has been transferred. */
export const OWN_FRAME_GREF = 14;
const INVLPG = 2;
const TLB_FLUSH = 1;
const ALL_VCPUS = 4;
const PRESENT_AND_RW = 3;
const ACCESSED_DIRTY = 0x60;

/** Operations whose `dom` or `fd` is the domain that is acted for, by how they answer. */
const SUBJECTS: ReadonlySet<string> = new Set(['mmu', 'ext', 'uvm', 'mem', 'evt']);
const SUBJECT_EVENTS: ReadonlySet<string> = new Set(['status', 'alloc_unbound', 'reset']);
const COUNTING: ReadonlySet<string> = new Set(['increase', 'decrease']);
const ANSWERED_INSIDE: ReadonlySet<string> = new Set(['gsetup', 'gqsize', 'gstatusf']);

type Fields = Readonly<Record<string, unknown>>;
const list = (step: ScriptOp): readonly Fields[] => step['req'] as readonly Fields[];

export class AnswerLaws {
  readonly #context: ConformContext;
  readonly #offers: Offers;
  readonly #report: Report;
  /** The base of the start; a program may give its name to another frame. */
  readonly #firstRootMfn: number;
  #pendingBefore: Uint8Array;

  constructor(context: ConformContext, offers: Offers, report: Report) {
    this.#context = context;
    this.#offers = offers;
    this.#report = report;
    this.#firstRootMfn = context.vcpu.guestTableMfn;
    this.#pendingBefore = this.#pending(context.d1);
  }

  heard(step: ScriptOp, answer: unknown): void {
    if (step.op === 'gcopy') this.#copied(list(step), answer as readonly [number, readonly (number | null)[]]);
    else if (step.op === 'uvm' && answer === 0) this.#updated(step);
    else if (step.op === 'mmu') this.#wrote(step, answer as readonly [number, number | null]);
    else if (step.op === 'ext') this.#extended(step, answer as readonly [number, number | null]);
    this.#ofOthers(step, answer);
    this.#afterReset(step, answer);
    this.#delivered(step, answer);
    this.#loaded();
    this.#shown();
    this.#pendingBefore = this.#pending(this.#context.d1);
  }

  // -- grants -------------------------------------------------------------------------------------

  #copied(elements: readonly Fields[], [, statuses]: readonly [number, readonly (number | null)[]]): void {
    elements.forEach((element, i) => {
      const sizeBytes = Number(element['len']);
      if (statuses[i] !== 0 || sizeBytes === 0) return;
      const source = element['src'] as Fields;
      const dest = element['dst'] as Fields;
      for (const [side, writes] of [[source, false], [dest, true]] as const) {
        const why = this.#mayCopy(side, writes, sizeBytes);
        if (why !== undefined) this.#report('copies', `${sizeBytes} bytes were copied ${writes ? 'to' : 'from'} ${JSON.stringify(side)}, which ${why}`);
      }
      const [from, to] = [this.#place(source), this.#place(dest)];
      if (elements.length > 1 || from === undefined || to === undefined) return;
      const { machine } = this.#context.hv;
      const before = machine.readBytes(from, sizeBytes);
      // Source and destination may overlap in one frame.
      if (Math.abs(from - to) >= sizeBytes && machine.readBytes(to, sizeBytes).some((byte, at) => byte !== before[at])) this.#report('copies', `what was copied to ${JSON.stringify(dest)} is not what ${JSON.stringify(source)} holds`);
    });
  }

  /** The entry's part of its page, if d2 granted no more. */
  #partOf(side: Fields, sizeBytes: number): boolean {
    const part = SUB_PAGE_OFFERS.find(({ gref }) => gref === side['ref']);
    const from = Number(side['off']);
    return part === undefined || (from >= part.start && from + sizeBytes <= part.start + part.length);
  }
  #offer(side: Fields): Offers[number] | undefined {
    const part = SUB_PAGE_OFFERS.find(({ gref }) => gref === side['ref']);
    if (part !== undefined && this.#context.d2.grants.version === 2) return [part.gref, part.frame, part.writable];
    return this.#offers.find(([gref]) => gref === side['ref']);
  }
  #mayCopy(side: Fields, writes: boolean, sizeBytes: number): string | undefined {
    if (Number(side['off']) + sizeBytes > 4096) return 'goes past the end of the page';
    if (side['ref'] === undefined) return side['dom'] === 'self' ? undefined : "is a frame of another's named by number";
    if (side['dom'] !== 'd2') return undefined;
    const offer = this.#offer(side);
    if (offer === undefined && side['ref'] === OWN_FRAME_GREF && this.#isPeers(OWN_FRAME_GREF)) return undefined;
    if (side['ref'] === TRANSITIVE.gref && this.#context.d2.grants.version === 2) return this.#mayPassOn(writes) ? undefined : 'd1 never offered to d2';
    return offer === undefined ? 'd2 never offered' : writes && !offer[2] ? 'd2 offered for reading' : this.#partOf(side, sizeBytes) ? undefined : 'is more than d2 offered of that page';
  }
  /** What d2 has from d1, d1 may have back: as far as d1 offers it, or d2 is using it. */
  #mayPassOn(writes: boolean): boolean {
    const { hv, d1, d2 } = this.#context;
    const at = entryMaddr(d1.grants, TRANSITIVE.sourceGref);
    const flags = hv.machine.readU16(at);
    const offered = (flags & GTF.typeMask) === GTF.permitAccess && hv.machine.readU16(at + 2) === d2.domId && !(writes && (flags & GTF.readOnly) !== 0);
    return offered || d1.grants.active[TRANSITIVE.sourceGref] !== undefined;
  }
  /** Does the frame that the entry names belong to d2? */
  #isPeers(gref: number): boolean {
    const { hv, d2 } = this.#context;
    return hv.frames.owner[peerEntry(hv, d2, gref).frame] === d2.domId;
  }
  // -- others ---------------------------------------------------------------------------------------

  /** d1 controls nobody. What it may do with d2 it does by grants and ports, which name d2 elsewhere. */
  #ofOthers(step: ScriptOp, answer: unknown): void {
    const subject = step.op === 'mmu' || step.op === 'ext' ? step['fd'] : step['dom'];
    const command = String(step['cmd'] ?? '');
    if (subject !== 'd2' || (step.op === 'evt' && !SUBJECT_EVENTS.has(command))) return;
    const first: unknown = Array.isArray(answer) ? answer[0] : typeof answer === 'object' ? (answer as { rc: unknown }).rc : answer;
    // Reservations tell how many extents were done; grant operations answer in the structure.
    const isDone = ANSWERED_INSIDE.has(step.op) ? (answer as readonly unknown[])[1] === 0 : step.op === 'mem' && COUNTING.has(command) ? first !== 0 : SUBJECTS.has(step.op) && Number(first) >= 0;
    if (isDone) this.#report('others', `${step.op} ${command} for d2 was done: ${JSON.stringify(answer)}`);
  }

  #afterReset(step: ScriptOp, answer: unknown): void {
    if (step.op !== 'evt' || step['cmd'] !== 'reset' || (answer as { rc: number }).rc !== 0) return;
    const { events } = this.#context.d1;
    const left = events.ports.findIndex(({ binding }, port) => port > 0 && binding.kind !== 'free');
    if (left > 0 || events.fifo !== undefined) this.#report('reset', left > 0 ? `port ${left} is still ${events.ports[left]?.binding.kind}` : 'the FIFO ABI is still on');
  }

  /** Machine address of a side, where d2's setup or the guest's own name says it. */
  #place(side: Fields): number | undefined {
    const name = side['ref'] === undefined ? String(side['frame']) : side['dom'] === 'd2' ? this.#offer(side)?.[1] : undefined;
    const mfn = name === undefined ? undefined : this.#context.mfns.get(name);
    return mfn === undefined || !this.#context.hv.frames.has(mfn) ? undefined : mfn * 4096 + Number(side['off']);
  }

  /** Only Xen writes these bits: d2 touches no entry but to take its offer back. */
  #shown(): void {
    const { hv, d2, notes } = this.#context;
    if (notes.has(PEER_ENDED) || d2.grants.version !== 1) return;
    const table = (d2.grants.sharedMfns[0] as number) * 4096;
    for (let gref = 0; gref < WATCHED_GREFS; gref++) {
      if (ACCEPTING.has(gref)) continue;
      const flags = hv.machine.readU16(table + gref * V1_ENTRY_BYTES);
      const pin = d2.grants.active[gref]?.pin;
      const writes = pin !== undefined && pin.hostWrite + pin.devWrite > 0;
      const reads = pin !== undefined && pin.hostRead + pin.devRead > 0;
      if (((flags & GTF.writing) !== 0) !== writes || ((flags & GTF.reading) !== 0) !== (reads || writes)) this.#report('shown', `d2's entry ${gref} says ${flags.toString(16)}; it is ${writes ? 'written' : reads ? 'read' : 'not used'}`);
    }
  }

  // -- tables and translations ----------------------------------------------------------------------

  /** Translations of v0.. and w0..; Xen itself uses others of the kernel's while it answers. */
  *#window(): Generator<number> {
    const { cpu } = this.#context.vcpu;
    if (!(cpu instanceof ScriptCpu)) return;
    for (const { page } of cpu.cached()) if (page >= SCRATCH_VADDR / 4096 && page < SCRATCH_VADDR / 4096 + 512) yield page;
  }
  #expectFlushed(why: string, only?: number): void {
    for (const page of this.#window()) if (only === undefined || only === page) return this.#report('flushed', `page ${page.toString(16)} is still cached ${why}`);
  }

  #updated(step: ScriptOp): void {
    const flags = Number(step['fl']);
    // Another number is the address of a bitmap of vCPUs, which may name none.
    if (flags - (flags & 3) !== 0 && flags - (flags & 3) !== ALL_VCPUS) return;
    const page = Math.floor(this.#context.vaddr(String(step['va'])) / 4096);
    if ((flags & 3) === INVLPG) this.#expectFlushed('behind an update that asked for it to go', page);
    if ((flags & 3) === TLB_FLUSH) this.#expectFlushed('behind an update that asked for a flush');
  }

  #wrote(step: ScriptOp, [rc]: readonly [number, number | null]): void {
    const requests = step['req'] as readonly (readonly [string, string, string])[];
    if (rc !== 0) return;
    const { hv, d1 } = this.#context;
    const places = requests.filter(([command]) => command !== 'm').map(([, at, value]) => ({ ...this.#context.maddr(at), value }));
    const wide = d1.abi.pteBytes === 8;
    for (const { lo, hi, value } of places) {
      const mfn = hi * 0x10_0000 + (lo >>> 12);
      const { frames } = hv;
      if (!frames.has(mfn)) continue;
      const type = frames.type[mfn] as number;
      const inUse = frames.typeCount[mfn] !== 0 && ((frames.flags[mfn] as number) & FRAME.validated) !== 0;
      if (inUse && type >= FRAME_TYPE.l2 && type <= FRAME_TYPE.l4) this.#expectFlushed('behind a change of an upper table');
      if (requests.length > 1) continue;
      const wanted = this.#context.word(value);
      const now = hv.machine.readU32(mfn * 4096 + (lo & (wide ? 0xff8 : 0xffc)));
      // A PAE root gains the write bit; the frame's number and the rest of the rights are the guest's.
      const rights = d1.abi.levels === 3 && type === FRAME_TYPE.l3 ? 1 : PRESENT_AND_RW;
      const differs = ((now ^ wanted.lo) & (0xffff_f000 | ((wanted.lo & 1) !== 0 ? rights : 1))) !== 0;
      // 32-bit guests' entries of the lower levels are stored as they are.
      const exact = d1.abi.levels === 4 || type > FRAME_TYPE.l2 || ((now ^ wanted.lo) & ~ACCESSED_DIRTY) === 0;
      if (differs || !exact) this.#report('written', `${value} was written to ${step.op} ${String(requests[0]?.[1])} and reads ${now.toString(16)}`);
    }
  }

  #extended(step: ScriptOp, [rc, done]: readonly [number, number | null]): void {
    const elements = step['req'] as readonly (readonly [string, ...string[]])[];
    const [name, first, second] = elements.at(-1) ?? [''];
    // The translation layer may leave the last element out and say nothing of it.
    if (rc !== 0 || done !== elements.length) return;
    if (name === 'tlb_flush_local' || name === 'tlb_flush_all' || name === 'new_baseptr') this.#expectFlushed(`behind ${name}`);
    const { vcpu } = this.#context;
    if (name === 'new_baseptr' && vcpu.guestTableMfn !== this.#context.frame(String(first))) this.#report('loaded', `${String(first)} was to be the base and is not`);
    if (name === 'new_user_baseptr' && vcpu.userTableMfn !== this.#context.frame(String(first))) this.#report('loaded', `${String(first)} was to be the user base and is not`);
    if (name !== 'clear_page' && name !== 'copy_page') return;
    const { machine, frames } = this.#context.hv;
    const [to, from] = [this.#context.frame(String(first)), this.#context.frame(String(second))];
    if (!frames.has(to) || (name === 'copy_page' && !frames.has(from))) return this.#report('written', `${name} was done on no RAM`);
    const now = machine.readBytes(to * 4096, 4096);
    const wanted = name === 'copy_page' ? machine.readBytes(from * 4096, 4096) : undefined;
    if (now.some((byte, at) => byte !== (wanted?.[at] ?? 0))) this.#report('written', `${name} ${String(first)} left something else there`);
  }

  /** The processor's CR3 and the vCPU's base pointer are one; zero: still the tables of the start. */
  #loaded(): void {
    const { vcpu } = this.#context;
    const cr3 = vcpu.cpu?.cr(3) ?? 0;
    if (!(cr3 === 0 && vcpu.guestTableMfn === this.#firstRootMfn) && cr3 !== vcpu.guestTableMfn * 4096) this.#report('loaded', `the processor walks ${cr3.toString(16)}; the vCPU is counted for mfn ${vcpu.guestTableMfn.toString(16)}`);
  }

  // -- events -------------------------------------------------------------------------------------

  #pending({ sharedInfoMfn }: Domain): Uint8Array {
    return this.#context.hv.machine.readBytes(sharedInfoMfn * 4096 + PENDING_AT, WATCHED_PORTS / 8).slice();
  }

  #delivered(step: ScriptOp, answer: unknown): void {
    const { d1, d2, notes } = this.#context;
    const sent = step.op === 'evt' && step['cmd'] === 'send' && (answer as { rc: number }).rc === 0;
    const notified = step.op === 'peer' && step['do'] === 'notify' && answer === 'ok';
    if (!sent && !notified) return;
    const port = Number(step['port']);
    const binding = (sent ? d1 : d2).events.ports[port]?.binding;
    if (binding?.kind === 'ipi' && sent) return this.#expectPending(d1, port);
    if (binding?.kind !== 'interdomain') return;
    if (binding.remoteDomId === d1.domId) this.#expectPending(d1, binding.remotePort);
    else if (binding.remoteDomId === d2.domId && !notes.has(PEER_ENDED)) this.#expectPending(d2, binding.remotePort);
  }

  #expectPending(domain: Domain, port: number): void {
    const { machine } = this.#context.hv;
    const lost = (what: string): void => this.#report('delivered', `d${domain.domId} port ${port} was sent to, and ${what}`);
    if (domain.events.fifo !== undefined) return this.#expectQueued(domain, port, lost);
    const has = (bits: Uint8Array, bit: number): boolean => ((bits[bit >>> 3] ?? 0) & (1 << (bit & 7))) !== 0;
    if (port >= WATCHED_PORTS) return;
    if (!has(this.#pending(domain), port)) return lost('is not pending');
    // Whoever was pending before is not announced again; and the guest may hide it from itself.
    if (domain !== this.#context.d1 || has(this.#pendingBefore, port)) return;
    const mask = machine.readBytes(domain.sharedInfoMfn * 4096 + PENDING_AT + domain.abi.wordBits ** 2 / 8, WATCHED_PORTS / 8);
    const info = this.#context.vcpu.vcpuInfoMaddr;
    const selector = machine.readBytes(info + domain.abi.wordBits / 8, domain.abi.wordBits / 8);
    if (!has(mask, port) && (!has(selector, Math.floor(port / domain.abi.wordBits)) || machine.readU8(info) === 0)) lost('nobody is told');
  }

  #expectQueued(domain: Domain, port: number, lost: (what: string) => void): void {
    const { machine } = this.#context.hv;
    const { fifo } = domain.events;
    const array = fifo?.arrayMfns[Math.floor(port / PORTS_PER_PAGE)];
    const control = fifo?.vcpus[domain.events.ports[port]?.notifyVcpuId ?? 0]?.controlMaddr ?? 0;
    if (fifo === undefined || array === undefined || control === 0) return;
    const word = machine.readU32(array * 4096 + (port % PORTS_PER_PAGE) * 4);
    if ((word & WORD.pending) === 0) return lost('its word is not pending');
    if ((word & WORD.masked) === 0 && (word & WORD.linked) === 0) return lost('is in no queue');
  }
}
