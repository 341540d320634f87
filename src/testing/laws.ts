// The model: laws that the checkers (src/checkers/) cannot see, because they speak of time, of content
// or of what the processor does with the tables. It knows what d2 owns, what d2 offered to whom, and
// what was in memory before; it uses no rule of the hypervisor, only its state.
//
//   contents     memory that d1 may not write has not changed (d2's, Xen's, free frames are zero)
//   secrets      what d2 never offered is in no frame of d1's
//   reach        a walk as the processor does it, from the loaded roots: what d1 can write or read
//   translations the same for what the processor has cached
//   owners       frames change hands only through Xen's pool or a transfer, and forget what they were
//   machphys     machine-to-phys entries of others stay (DOMID_IO's are anybody's)
//   answers      Xen tells d1 of d1's frames only
//   events       d2's ports and pending bits change only where d1 is the other end; a closed port is not pending
//   progress     a hypercall that is asked to stop does so before it has (un)checked many tables
//   chains       linear tables are not stacked
//
// Laws about a step and its answer are in answer-laws.ts.
import { EVENT } from '../abi/events.ts';
import { DOMID } from '../abi/domid.ts';
import type { Domain } from '../hypervisor/domain.ts';
import { FRAME, FRAME_TYPE, FREE_OWNER } from '../hypervisor/frame-table.ts';
import { allocFrames, type Hypervisor } from '../hypervisor/hypervisor.ts';
import type { ConformContext, ScriptOp } from '../replay/conform-op.ts';
import { ScriptCpu } from '../replay/script-cpu.ts';
import { AnswerLaws, OWN_FRAME_GREF } from './answer-laws.ts';
import { offerBaits, peerEntry, PEER_ENDED, PEER_FRAMES, revoked } from './steps.ts';

export interface Broken {
  readonly law: string;
  readonly text: string;
}

/** Half of a word that stands in d2's private frames and nowhere else. */
const SECRET = 0x5ec2_e7a5;
const SECRET_FRAMES = 2;
const PTE = { present: 1, rw: 2, pse: 0x80 } as const;
/** What one call may still (un)check after it was last asked to stop. */
const MAX_UNASKED_TABLES = 4;

/** What d2's setup offers d1 (replay/conform-gnttab.ts): reference, frame, may d1 write? */
const OFFERS: readonly (readonly [gref: number, frame: string, writable: boolean])[] = [[8, 'foreign', true], [9, 'foreign1', false], [13, 'foreign2', true]];

/** The one entry that accepts a transfer, and its flags when one is done (GTF_accept_transfer, committed, completed). */
const ACCEPTING_GREF = 11;
const ACCEPTED = 0xe;

const name = (mfn: number): string => `mfn ${mfn.toString(16)}`;

/** Counts (un)checked tables between two questions whether to stop. Wired to the world's events and preempt(). */
export class ProgressMeter {
  tables = 0;
  worst = 0;
  event(kind: number): void {
    if (kind === EVENT.pageType && ++this.tables > this.worst) this.worst = this.tables;
  }
  asked(): void {
    this.tables = 0;
  }
  reset(): void {
    this.tables = this.worst = 0;
  }
}

export class Laws {
  readonly #context: ConformContext;
  readonly #hv: Hypervisor;
  readonly #progress: ProgressMeter;
  readonly #owner: Uint16Array | Uint32Array | Int32Array;
  readonly #m2p: Uint32Array;
  readonly #constant = new Map<number, Uint32Array>();
  readonly #secrets: readonly number[];
  readonly #offered = new Map<number, { writable: boolean }>();
  readonly #peerPorts: string[];
  readonly #base: number;
  readonly #answers: AnswerLaws;
  #broken: Broken[] = [];

  /** Takes the state at the start of a program; d2 gets its private frames. */
  constructor(context: ConformContext, progress: ProgressMeter) {
    const { hv, d2 } = context;
    this.#context = context;
    this.#hv = hv;
    this.#progress = progress;
    progress.reset();
    this.#base = hv.machine.ramBase / 4;
    this.#secrets = allocFrames(hv, d2, SECRET_FRAMES) as number[];
    for (const mfn of this.#secrets) for (let at = 0; at < 4096; at += 4) hv.machine.writeU32(mfn * 4096 + at, SECRET);
    for (const mfn of this.#secrets) hv.frames.setM2p(mfn, mfn);
    this.#owner = hv.frames.owner.slice();
    this.#m2p = this.#m2pNow();
    for (const mfn of this.#secrets) this.#keep(mfn);
    this.#keep(context.mfns.get('foreign1') as number);
    for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) {
      const isM2p = (mfn >= hv.frames.m2p32Mfn && mfn < hv.frames.m2p32Mfn + hv.frames.m2pFrames(4)) || (mfn >= hv.frames.m2p64Mfn && mfn < hv.frames.m2p64Mfn + hv.frames.m2pFrames(8));
      if (hv.frames.owner[mfn] === DOMID.XEN && !isM2p) this.#keep(mfn);
    }
    for (const [gref, frame, writable] of OFFERS) {
      const mfn = context.mfns.get(frame) as number;
      if (gref !== undefined) this.#offered.set(mfn, { writable });
    }
    this.#peerPorts = this.#ports(d2);
    offerBaits(context, this.secretMfn);
    this.#answers = new AnswerLaws(context, OFFERS, (law, text) => this.#heard.push({ law, text }));
  }

  #keep(mfn: number): void {
    this.#constant.set(mfn, this.#words(mfn).slice());
  }
  #words(mfn: number): Uint32Array {
    const at = this.#base + mfn * 1024;
    return this.#hv.machine.u32.subarray(at, at + 1024);
  }
  #m2pNow(): Uint32Array {
    const { frames } = this.#hv;
    const both = new Uint32Array(frames.frameCount * 2);
    const [at32, at64] = [this.#base + frames.m2p32Mfn * 1024, this.#base + frames.m2p64Mfn * 1024];
    for (let mfn = 0; mfn < frames.frameCount; mfn++) {
      both[mfn * 2] = this.#hv.machine.u32[at32 + mfn] as number;
      both[mfn * 2 + 1] = this.#hv.machine.u32[at64 + mfn * 2] as number;
    }
    return both;
  }

  #report(law: string, text: string): void {
    if (this.#broken.length < 20) this.#broken.push({ law, text });
  }

  readonly #heard: Broken[] = [];
  /** What Xen answered, before check(): it may tell d1 of its own frames only. */
  heard(step: ScriptOp, answer: unknown): void {
    const told = Array.isArray(answer) && answer[0] === 0 && answer[1] === 0 ? Number(step['nr'] ?? 0) : 0;
    const { statusMfns } = this.#context.d1.grants;
    if (step.op === 'evt' && step['cmd'] === 'close' && (answer as { rc: number }).rc === 0) this.#heardOfClosed(Number(step['port']));
    this.#noteStale();
    if (step.op === 'gstatusf' && told > statusMfns.length) this.#heard.push({ law: 'answers', text: `d1 was told ${told} status frames; it has ${statusMfns.length}` });
    this.#answers.heard(step, answer);
  }

  /** The next user of the port is not to hear of the last one's events. With the FIFO ABI the bit is in a page of the guest's, wherever that went. */
  #heardOfClosed(port: number): void {
    const { d1 } = this.#context;
    const pending = (this.#hv.machine.readU8(d1.sharedInfoMfn * 4096 + 2048 + (port >>> 3)) & (1 << (port & 7))) !== 0;
    if (d1.events.fifo === undefined && pending) this.#heard.push({ law: 'events', text: `d1 port ${port} was closed and is still pending` });
  }

  /** After each step: what does not hold. */
  check(): readonly Broken[] {
    this.#broken = this.#heard.splice(0);
    this.#checkMachphys();
    this.#checkOwners();
    this.#checkContents();
    this.#checkReach();
    this.#checkTranslations();
    this.#checkPeerPorts();
    this.#checkChains();
    if (this.#progress.worst > MAX_UNASKED_TABLES) this.#report('progress', `${this.#progress.worst} tables were checked or let go without a look at the clock`);
    return this.#broken;
  }

  // -- memory -------------------------------------------------------------------------------------

  #checkContents(): void {
    const { machine, frames } = this.#hv;
    for (const [mfn, before] of this.#constant) {
      if (frames.owner[mfn] === FREE_OWNER) {
        this.#constant.delete(mfn);
        continue;
      }
      const at = this.#base + mfn * 1024;
      for (let i = 0; i < 1024; i++) {
        if (machine.u32[at + i] !== before[i]) {
          this.#report('contents', `byte ${i * 4} of ${name(mfn)} (d${frames.owner[mfn]}) changed from ${before[i]?.toString(16)} to ${machine.u32[at + i]?.toString(16)}; d1 may not write there`);
          break;
        }
      }
    }
    for (const mfn of machine.dirtyFrames()) {
      if (frames.owner[mfn] === FREE_OWNER) {
        // A guest that gave a frame away without a flush may still store through its stale translation.
        if (this.#words(mfn).some((word) => word !== 0) && !this.#stale.has(mfn)) this.#report('contents', `${name(mfn)} is free and not empty`);
      } else if (frames.owner[mfn] === 1) {
        const words = this.#words(mfn);
        for (let i = 0; i < 1024; i++) {
          if (words[i] === SECRET) {
            this.#report('secrets', `d1's ${name(mfn)} holds what d2 never offered`);
            break;
          }
        }
      }
    }
  }

  readonly #stale = new Set<number>();
  /** After every step, also where judgement comes at the end: the flush may come before it. */
  #noteStale(): void {
    const { cpu } = this.#context.vcpu;
    if (!(cpu instanceof ScriptCpu)) return;
    for (const { mfn, writable } of cpu.cached()) if (writable && this.#hv.frames.owner[mfn] === FREE_OWNER) this.#stale.add(mfn);
  }

  #checkMachphys(): void {
    const { frames } = this.#hv;
    const now = this.#m2pNow();
    for (let mfn = 0; mfn < frames.frameCount; mfn++) {
      const owner = frames.owner[mfn];
      // Whoever names DOMID_IO may set the entries of its frames: Xen asks for no right there.
      const mayChange = owner === 1 || owner === DOMID.IO || owner === FREE_OWNER || owner !== this.#owner[mfn];
      if (!mayChange && (now[mfn * 2] !== this.#m2p[mfn * 2] || now[mfn * 2 + 1] !== this.#m2p[mfn * 2 + 1])) this.#report('machphys', `the machine-to-phys entry of ${name(mfn)}, a frame of d${owner}, was changed by d1`);
    }
    this.#m2p.set(now);
  }

  #checkOwners(): void {
    const { frames } = this.#hv;
    const ended = this.#context.notes.has(PEER_ENDED);
    for (let mfn = 0; mfn < frames.frameCount; mfn++) {
      const before = this.#owner[mfn] as number;
      const now = frames.owner[mfn] as number;
      if (before === now) continue;
      const given = before === 1 && now === 2;
      if (given) this.#checkTransfer(mfn);
      const taken = before === FREE_OWNER && (now === 1 || (now === 2 && !ended));
      const freed = now === FREE_OWNER && (before === 1 || (before === 2 && ended));
      if (!given && !taken && !freed) this.#report('owners', `${name(mfn)} went from d${before} to ${now === FREE_OWNER ? 'the pool' : `d${now}`}`);
      if (given && ((frames.flags[mfn] as number) & (FRAME.validated | FRAME.pinned | FRAME.partial)) !== 0) this.#report('owners', `${name(mfn)} is d2's now and still counts as checked for d1: ${frames.describe(mfn)}`);
      this.#owner[mfn] = now;
    }
  }

  /** d2 waits for one frame of d1's, and its entry says which it got. */
  #checkTransfer(mfn: number): void {
    const { hv, d2, notes } = this.#context;
    if (notes.has(PEER_ENDED)) return;
    const { flags, frame } = peerEntry(hv, d2, ACCEPTING_GREF);
    if (flags !== ACCEPTED || frame !== mfn || this.#transferred) this.#report('owners', `d2 was given ${name(mfn)}; where it waits for a frame, it says ${flags.toString(16)} and ${name(frame)}`);
    this.#transferred = true;
    if (peerEntry(hv, d2, OWN_FRAME_GREF).frame === mfn) this.#offered.set(mfn, { writable: true });
  }
  #transferred = false;

  // -- what the processor can reach ---------------------------------------------------------------

  /** undefined: d1 may use it so. */
  #refusal(mfn: number, writable: boolean): string | undefined {
    const { frames, domains } = this.#hv;
    if (!frames.has(mfn)) return 'is no RAM';
    const owner = frames.owner[mfn];
    if (owner === 1) {
      const type = frames.type[mfn] as number;
      return writable && frames.typeCount[mfn] !== 0 && type >= FRAME_TYPE.l1 && type <= FRAME_TYPE.segDesc ? `is a table: ${frames.describe(mfn)}` : undefined;
    }
    if (owner === DOMID.XEN) return writable ? "is Xen's" : undefined;
    if (owner !== 2) return owner === FREE_OWNER ? 'is free' : 'is I/O space';
    const offer = this.#offered.get(mfn);
    if (offer === undefined || (writable && !offer.writable)) return `is d2's, which never offered that`;
    const inUse = Object.values(domains.get(2)?.grants.active ?? {}).some((grant) => grant.mfn === mfn && grant.domId === 1 && (!writable || grant.pin.hostWrite > 0));
    return inUse ? undefined : `is d2's, and d1 has let go of it`;
  }

  #checkReach(): void {
    const { d1, vcpu } = this.#context;
    const seen = new Set<number>();
    for (const root of new Set([vcpu.guestTableMfn, vcpu.userTableMfn])) if (root !== 0) this.#walk(d1, root, d1.abi.levels, true, seen);
  }

  #walk(d1: Domain, mfn: number, level: number, writable: boolean, seen: Set<number>): void {
    const { machine, frames } = this.#hv;
    const key = (mfn * 8 + level) * 2 + (writable ? 1 : 0);
    if (seen.has(key)) return;
    seen.add(key);
    if (!frames.has(mfn)) return this.#report('reach', `a table of level ${level} is ${name(mfn)}, which is no RAM`);
    const step = d1.abi.pteBytes / 4;
    const [first, end] = xenPart(d1, mfn, level, frames.flags[mfn] as number);
    const entries = level === 3 && d1.abi.levels === 3 ? 4 : 1024 / step;
    const at = this.#base + mfn * 1024;
    const { u32 } = machine;
    for (let i = 0; i < entries; i++) {
      if (i === first) {
        i = end - 1;
        continue;
      }
      const lo = u32[at + i * step] as number;
      if ((lo & PTE.present) === 0) continue;
      const hi = step === 2 ? (u32[at + i * 2 + 1] as number) : 0;
      const target = (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);
      // A PAE root's entries have no write bit to the processor of 32-bit Xen.
      const mayWrite = writable && ((lo & PTE.rw) !== 0 || (level === 3 && d1.abi.levels === 3));
      if (level === 1 || (lo & PTE.pse) !== 0) {
        const why = level > 1 && level < 4 ? 'is mapped as a large page' : this.#refusal(target, mayWrite);
        if (why !== undefined) this.#report('reach', `entry ${i} of ${name(mfn)} lets d1 ${mayWrite ? 'write' : 'read'} ${name(target)}, which ${why}`);
      } else this.#walk(d1, target, level - 1, mayWrite, seen);
    }
  }

  #checkTranslations(): void {
    const { cpu } = this.#context.vcpu;
    if (!(cpu instanceof ScriptCpu)) return;
    for (const { page, mfn, writable } of cpu.cached()) {
      // A freed frame may be cached: Xen flushes before it gives it out again. So may what it reads only.
      if (this.#hv.frames.owner[mfn] === FREE_OWNER) continue;
      const why = this.#refusal(mfn, writable);
      if (why !== undefined) this.#report('translations', `the processor still has page ${page.toString(16)} as ${name(mfn)}${writable ? ', writable' : ''}, which ${why}`);
    }
  }

  // -- events, tables -----------------------------------------------------------------------------

  #ports(domain: Domain): string[] {
    return domain.events.ports.map(({ binding }) => (binding.kind === 'interdomain' || binding.kind === 'unbound' ? `${binding.kind} d${binding.remoteDomId}` : binding.kind));
  }

  #checkPeerPorts(): void {
    const { d2, notes } = this.#context;
    if (notes.has(PEER_ENDED)) return;
    this.#ports(d2).forEach((now, port) => {
      const before = this.#peerPorts[port] ?? 'free';
      if (before === now) return;
      const allowed = (/ d1$/.test(before) && / d1$/.test(now)) || now === 'free';
      if (!allowed) this.#report('events', `d2 port ${port} went from ${before} to ${now} without d2's doing`);
      this.#peerPorts[port] = now;
    });
    const at = d2.sharedInfoMfn * 4096 + 2048;
    for (let port = 0; port < 64; port++) {
      const pending = (this.#hv.machine.readU8(at + (port >> 3)) & (1 << (port & 7))) !== 0;
      if (pending && this.#peerPorts[port] !== 'interdomain d1' && this.#peerPorts[port] !== 'unbound d1' && this.#peerPorts[port] !== 'free') this.#report('events', `d2 port ${port} (${this.#peerPorts[port]}) became pending`);
    }
  }

  /** A table that maps one of its own level is not mapped so itself. */
  #checkChains(): void {
    const { frames, machine } = this.#hv;
    const { d1 } = this.#context;
    const step = d1.abi.pteBytes / 4;
    const maps = new Set<number>();
    const mapped = new Set<number>();
    for (let mfn = 0; mfn < frames.frameCount; mfn++) {
      const level = frames.type[mfn] as number;
      if (frames.owner[mfn] !== 1 || frames.typeCount[mfn] === 0 || level < 2 || level > 4 || ((frames.flags[mfn] as number) & FRAME.validated) === 0) continue;
      const [first, end] = xenPart(d1, mfn, level, frames.flags[mfn] as number);
      const entries = level === 3 && d1.abi.levels === 3 ? 4 : 1024 / step;
      for (let i = 0; i < entries; i++) {
        const lo = machine.u32[this.#base + mfn * 1024 + i * step] as number;
        const target = lo >>> 12;
        if ((lo & PTE.present) === 0 || (i >= first && i < end) || target === mfn || target >= frames.frameCount || frames.type[target] !== level) continue;
        maps.add(mfn);
        mapped.add(target);
      }
    }
    for (const mfn of maps) if (mapped.has(mfn)) this.#report('chains', `${name(mfn)} is a linear table and maps one: ${frames.describe(mfn)}`);
  }

  // -- the end ------------------------------------------------------------------------------------

  /** After both domains have ended: everything is back. */
  checkEnd(): readonly Broken[] {
    this.#broken = [];
    const { frames, domains } = this.#hv;
    for (let mfn = 0; mfn < frames.frameCount; mfn++) if (frames.owner[mfn] === 1 || frames.owner[mfn] === 2) this.#report('ends', `left behind: ${frames.describe(mfn)}`);
    for (const domain of domains.values()) for (const gref of Object.keys(domain.grants.active)) this.#report('ends', `grant ${gref} of d${domain.domId} is still in use`);
    this.#checkContents();
    return this.#broken;
  }

  /** A frame of d2's that nobody was offered. */
  get secretMfn(): number {
    return this.#secrets[0] as number;
  }

  /** Has d2 taken the offer back? */
  isRevoked(gref: number): boolean {
    return revoked(this.#context).has(gref);
  }
  static readonly peerFrames = PEER_FRAMES;
}

/** Slots that are Xen's in a table: [first, end). From the layout of xen/include/public/arch-x86/xen-x86_*.h. */
function xenPart({ abi }: Domain, _mfn: number, level: number, flags: number): readonly [number, number] {
  if (abi.levels === 4 && level === 4) return [256, 272];
  if (abi.levels === 3 && level === 2 && (flags & FRAME.paeXenL2) !== 0) return [428, 512];
  if (abi.levels === 2 && level === 2) return [1008, 1024];
  return [4096, 4096];
}
