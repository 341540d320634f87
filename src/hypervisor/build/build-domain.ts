// Builds a PV domain from a kernel file, as a toolstack does: frames, kernel, ramdisk, p2m list,
// start_info, rings, page tables, shared page, first vCPU. The page tables go through the same
// references and checks as a guest's (page-types.ts): nothing is typed or pinned behind Xen's back.
//
//   1. plan (domain-layout.ts) and check that everything fits
//   2. domain, shared page, windows, ports, frames
//   3. content: kernel, ramdisk, p2m, page tables, start_info, hypercall page
//   4. pin the base table, give it to vCPU 0, load its registers (initial-context.ts)
//
// Not here: making the vCPU runnable and connecting the back ends, which is the world's business.
// Sources: tools/libs/guest/xg_dom_core.c, xg_dom_boot.c, xg_dom_x86.c.
import { assert } from '../../base/assert.ts';
import { EVENT } from '../../abi/events.ts';
import { CONSOLE_CONNECTION, CONSOLE_RING } from '../../abi/console-ring.ts';
import { SIF, startInfoBytes } from '../../abi/start-info.ts';
import type { Cpu } from '../../x86/cpu.ts';
import type { Domain, Vcpu } from '../domain.ts';
import { allocUnboundPort, newEventChannels } from '../event-channels.ts';
import { FRAME, FRAME_TYPE } from '../frame-table.ts';
import { growGrantTable, newGrantTable, seedGrant } from '../grant-table.ts';
import { allocSharedFrame, createDomain, createVcpu, type Hypervisor } from '../hypervisor.ts';
import { fillM2pSlot, VMASST } from '../page-tables.ts';
import { getPage, getType } from '../page-types.ts';
import { PTE } from '../page-walk.ts';
import { createPerDomain } from '../per-domain.ts';
import { ABIS, type Abi, type AbiName } from '../personality.ts';
import { setUpcallMask, writeWallClock } from '../shared-info.ts';
import { updateTimeRecord } from '../time.ts';
import { loadInitialContext } from './initial-context.ts';
import { planDomain, plannedEntries, type DomainPlan, type PlannedSegment } from './domain-layout.ts';
import { hypercallPage } from './hypercall-page.ts';
import type { KernelImage, KernelProblem } from './kernel-image.ts';
import { placeFrames } from './place-frames.ts';
import { symtabBytes } from './symtab-copy.ts';

export interface BuildOptions {
  readonly domId: number;
  readonly name: string;
  readonly image: KernelImage;
  /** Default: what fits the image. */
  readonly abi?: AbiName;
  readonly memoryMib: number;
  /** Up to which it may ask for more; default: memoryMib. */
  readonly maxMemoryMib?: number;
  /** The last port of event channels; default as libxl's. */
  readonly maxEventChannels?: number;
  readonly cmdline: string;
  readonly ramdisk?: Uint8Array;
  /** Processors of the vCPUs by number, at least one; undefined for tests without one. */
  readonly cpus?: readonly (Cpu | undefined)[];
}

export interface BuiltDomain {
  readonly domain: Domain;
  readonly vcpu: Vcpu;
  readonly plan: DomainPlan;
  /** mfns by pfn at the start. */
  readonly p2m: readonly number[];
  readonly storeMfn: number;
  readonly storePort: number;
  readonly consoleMfn: number;
  readonly consolePort: number;
}

/** The magic of start_info by personality. */
const GUEST_TYPE: Record<AbiName, string> = { pv64: 'xen-3.0-x86_64', pv32pae: 'xen-3.0-x86_32p', 'xen3-pae': 'xen-3.0-x86_32p', 'xen3-nopae': 'xen-3.0-x86_32' };
/** Legacy vCPUs, whose vcpu_info is in the shared page. */
const LEGACY_VCPUS = 32;
/** The domain that runs xenstored and the console. */
const BACKEND_DOMID = 0;
/** Grant references through which the toolstack offers the rings, xen/include/public/grant_table.h. */
const GNTTAB_RESERVED = { console: 0, xenstore: 1 } as const;
/** Frames that Xen needs for a domain besides its memory. */
const XEN_FRAMES = 8;

const ROOT_TYPE = { 2: FRAME_TYPE.l2, 3: FRAME_TYPE.l3, 4: FRAME_TYPE.l4 } as const;

/** The domain with a vCPU 0 that is ready to run, or what stands in its way, as a clause after the kernel's name. */
export function buildDomain(hv: Hypervisor, options: BuildOptions): BuiltDomain | KernelProblem {
  const { image } = options;
  const abi = ABIS[options.abi ?? image.abi];
  const misfit = checkFit(image, abi);
  if (misfit !== undefined) return misfit;
  const totalPages = options.memoryMib * 256;
  const plan = planDomain(image, abi, totalPages, options.ramdisk?.length ?? 0);
  if ('problem' in plan) return plan;
  const mapped = plan.mappings[0];
  if (abi.wordBits === 32 && mapped !== undefined && mapped.to >= abi.hypervisorVirtStart) return { problem: `needs addresses up to 0x${mapped.to.toString(16)} at its start, but Xen's begin at 0x${abi.hypervisorVirtStart.toString(16)}` };
  if (hv.frames.freeCount < totalPages + XEN_FRAMES) return { problem: `cannot have ${options.memoryMib} MiB: the machine has ${Math.floor(hv.frames.freeCount / 256)} MiB left` };

  const domain = createDomain(hv, { domId: options.domId, name: options.name, abi, privileged: false, maxPages: (options.maxMemoryMib ?? options.memoryMib) * 256, events: newEventChannels(options.maxEventChannels), grants: newGrantTable() });
  // libxl gives every PV domain a map of its maxmem (xc_domain_set_memmap_limit() in libxl__build_pre()). Here only those that
  // may grow need one; the others are as Xen builds them itself, which was traced, and take their size from start_info.
  if (options.maxMemoryMib !== undefined) domain.memoryMapPages = domain.maxPages;
  if (image.pae === 'extended-cr3' || image.pae === 'bimodal') domain.vmAssist |= 1 << VMASST.paeExtendedCr3;
  domain.sharedInfoMfn = mustHave(allocSharedFrame(hv, domain), 'a frame for shared_info');
  domain.perDomain = mustHave(createPerDomain(hv, domain), 'frames for the descriptor windows');
  const cpus = options.cpus ?? [undefined];
  for (const cpu of cpus) createVcpu(domain).cpu = cpu;
  const vcpu = domain.vcpus[0] as Vcpu;
  mustHave(growGrantTable(hv, domain, 1) || undefined, 'a frame for the grant table');
  const storePort = mustHave(allocUnboundPort(hv, domain, BACKEND_DOMID), 'a port for xenstore');
  const consolePort = mustHave(allocUnboundPort(hv, domain, BACKEND_DOMID), 'a port for the console');
  const p2m = placeFrames(hv, domain, totalPages);

  const memory = new PseudoMemory(hv, p2m);
  loadKernel(memory, image);
  if (options.ramdisk !== undefined && plan.ramdisk !== undefined) memory.write(plan.ramdisk.pfn * 4096, options.ramdisk);
  memory.write(plan.p2m.pfn * 4096, p2mBytes(abi, p2m));
  writePageTables(hv, abi, plan, p2m);
  const storeMfn = p2m[plan.store.pfn] as number;
  const consoleMfn = p2m[plan.console.pfn] as number;
  seedGrant(hv, domain, GNTTAB_RESERVED.console, BACKEND_DOMID, consoleMfn);
  seedGrant(hv, domain, GNTTAB_RESERVED.xenstore, BACKEND_DOMID, storeMfn);
  // Nobody reads the console yet: its back end says so when it does.
  memory.write(plan.console.pfn * 4096 + CONSOLE_RING.fields.connection.at, Uint8Array.of(CONSOLE_CONNECTION.disconnected));
  memory.write(plan.startInfo.pfn * 4096, startInfoOf(options, abi, plan, { domain, storeMfn, storePort, consoleMfn, consolePort }));
  if (image.hypercallVaddr !== undefined) memory.write(image.hypercallVaddr - image.virtBase, hypercallPage(abi.wordBits));

  for (let vcpuId = 0; vcpuId < LEGACY_VCPUS; vcpuId++) hv.machine.writeU8(domain.sharedInfoMfn * 4096 + vcpuId * 64 + 1, 1);
  setUpcallMask(hv, vcpu, 1);
  writeWallClock(hv, domain);
  adoptBaseTable(hv, vcpu, p2m[plan.pageTables.pfn] as number);
  loadInitialContext(hv, vcpu, { entry: image.entry, stackVaddr: vaddrOf(plan.bootStack) + 4096, startInfoVaddr: vaddrOf(plan.startInfo) });
  updateTimeRecord(hv, vcpu);
  vcpu.initialised = true;
  vcpu.online = true;
  hv.world.emit(EVENT.domainCreated, domain.domId, 0, [totalPages, cpus.length, abi.levels], Uint8Array.from(options.name, (char) => char.charCodeAt(0) & 0x7f));
  return { domain, vcpu, plan, p2m, storeMfn, storePort, consoleMfn, consolePort };
}

/** Does the image run under this personality at all? */
function checkFit(image: KernelImage, abi: Abi): KernelProblem | undefined {
  if (abi.wordBits !== image.wordBits) return { problem: `is a ${image.wordBits}-bit kernel and cannot run as ${abi.name}` };
  if (abi.levels === 2 && image.pae !== 'no' && image.pae !== 'bimodal') return { problem: `needs PAE page tables and cannot run as ${abi.name}` };
  if (abi.levels === 3 && image.pae === 'no') return { problem: `has no PAE page tables (PAE_MODE) and cannot run as ${abi.name}` };
  if (image.hvStartLow !== undefined && abi.wordBits === 32 && image.hvStartLow > abi.hypervisorVirtStart) return { problem: `wants addresses up to 0x${image.hvStartLow.toString(16)} for itself, but Xen's begin at 0x${abi.hypervisorVirtStart.toString(16)}` };
  const { hypercallVaddr } = image;
  if (hypercallVaddr !== undefined && (hypercallVaddr % 4096 !== 0 || hypercallVaddr < image.virtStart || hypercallVaddr + 4096 > Math.ceil(image.virtEnd / 4096) * 4096)) return { problem: `has its hypercall page at 0x${(hypercallVaddr >>> 0).toString(16)}, outside the pages it loads` };
  return undefined;
}

/** Free frames and ports were counted before: not having one is our own bug. */
function mustHave<T>(value: T | undefined, what: string): T {
  assert(value !== undefined, `no ${what}`);
  return value;
}

const vaddrOf = (segment: PlannedSegment): number => mustHave(segment.vaddr, 'address for a mapped segment');

/** A domain's memory by pseudo-physical address. */
class PseudoMemory {
  readonly #hv: Hypervisor;
  readonly #p2m: readonly number[];
  constructor(hv: Hypervisor, p2m: readonly number[]) {
    this.#hv = hv;
    this.#p2m = p2m;
  }

  write(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const offset = (at + done) % 4096;
      const chunk = Math.min(bytes.length - done, 4096 - offset);
      this.#hv.machine.writeBytes((this.#p2m[Math.floor((at + done) / 4096)] as number) * 4096 + offset, bytes.subarray(done, done + chunk));
      done += chunk;
    }
  }
}

/** Segments in file order; the rest of each is zeroed, since a later one may overlap an earlier one. */
function loadKernel(memory: PseudoMemory, image: KernelImage): void {
  for (const segment of image.segments) {
    memory.write(segment.vaddr - image.virtBase, image.bytes.subarray(segment.offset, segment.offset + segment.fileBytes));
    if (segment.memBytes > segment.fileBytes) memory.write(segment.vaddr - image.virtBase + segment.fileBytes, new Uint8Array(segment.memBytes - segment.fileBytes));
  }
  if (image.bsdSymtab !== undefined) memory.write(image.bsdSymtab.vaddr - image.virtBase, symtabBytes(image, image.bsdSymtab));
}

/** The list of frames in the guest's words. */
function p2mBytes(abi: Abi, p2m: readonly number[]): Uint8Array {
  const wordBytes = abi.wordBits / 8;
  const bytes = new Uint8Array(p2m.length * wordBytes);
  const view = new DataView(bytes.buffer);
  p2m.forEach((mfn, pfn) => view.setUint32(pfn * wordBytes, mfn, true));
  return bytes;
}

/** Writes the planned entries. 32-bit Xen 3.x has real PAE roots, whose entries carry no rights. */
function writePageTables(hv: Hypervisor, abi: Abi, plan: DomainPlan, p2m: readonly number[]): void {
  const { machine } = hv;
  const upper = PTE.present | PTE.rw | PTE.user | PTE.accessed | PTE.dirty;
  const leaf = PTE.present | PTE.accessed;
  for (const entry of plannedEntries(abi, plan)) {
    const flags = entry.level === 1 ? leaf | (entry.writable ? PTE.rw : 0) : entry.level === 3 && abi.name === 'xen3-pae' ? PTE.present : upper;
    const mfn = p2m[entry.pfn] as number;
    const maddr = (p2m[entry.tablePfn] as number) * 4096 + entry.index * abi.pteBytes;
    machine.writeU32(maddr, ((mfn << 12) | flags) >>> 0);
    if (abi.pteBytes === 8) machine.writeU32(maddr + 4, mfn >>> 20);
  }
}

/** Pins the base table, as the toolstack does, and gives the vCPU a reference of its own (MMUEXT_PIN_TABLE, SETVCPUCONTEXT). */
function adoptBaseTable(hv: Hypervisor, vcpu: Vcpu, mfn: number): void {
  const { domain } = vcpu;
  const type = ROOT_TYPE[domain.abi.levels];
  for (const holder of ['pin', 'vCPU'] as const) {
    assert(getPage(hv, mfn, domain.domId), `the ${holder} gets no reference: ${hv.frames.describe(mfn)}`);
    const rc = getType(hv, mfn, type, true);
    assert(rc === 0, `the ${holder} gets no type (${rc}): ${hv.frames.describe(mfn)}`);
  }
  hv.frames.flags[mfn] = (hv.frames.flags[mfn] as number) | FRAME.pinned;
  // The root is loaded now, so it shows the machine-to-phys table.
  if (domain.abi.levels === 4) fillM2pSlot(hv, mfn);
  vcpu.guestTableMfn = mfn;
}

interface Ends {
  readonly domain: Domain;
  readonly storeMfn: number;
  readonly storePort: number;
  readonly consoleMfn: number;
  readonly consolePort: number;
}

function startInfoOf(options: BuildOptions, abi: Abi, plan: DomainPlan, ends: Ends): Uint8Array {
  const { image, ramdisk } = options;
  const separateP2m = plan.mappings.length > 1;
  const ramdiskByPfn = plan.ramdisk !== undefined && plan.ramdisk.vaddr === undefined;
  return startInfoBytes(abi.wordBits, {
    magic: GUEST_TYPE[abi.name],
    nr_pages: plan.totalPages,
    shared_info: ends.domain.sharedInfoMfn * 4096,
    flags: (abi.onXen3 ? 0 : SIF.virt_p2m_4tools) | (ramdiskByPfn ? SIF.mod_start_pfn : 0),
    store_mfn: ends.storeMfn, store_evtchn: ends.storePort, console_mfn: ends.consoleMfn, console_evtchn: ends.consolePort,
    pt_base: vaddrOf(plan.pageTables),
    nr_pt_frames: plan.mappings[0]?.tablePages ?? 0,
    mfn_list: separateP2m ? (image.initP2m as number) : vaddrOf(plan.p2m),
    mod_start: plan.ramdisk === undefined ? 0 : (plan.ramdisk.vaddr ?? plan.ramdisk.pfn),
    mod_len: plan.ramdisk === undefined ? 0 : ramdiskByPfn ? plan.ramdisk.pages * 4096 : (ramdisk?.length ?? 0),
    cmd_line: options.cmdline,
    first_p2m_pfn: separateP2m ? plan.p2m.pfn : 0,
    nr_p2m_frames: separateP2m ? plan.p2m.pages : 0,
  });
}
