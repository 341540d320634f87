// A vCPU's state at its first instruction: what the toolstack's SETVCPUCONTEXT gives vCPU 0 of a new
// PV domain, and what Xen adds to it. Sources: vcpu_x86_32() and vcpu_x86_64() in
// tools/libs/guest/xg_dom_x86.c, arch_set_info_guest() in xen/arch/x86/domain.c.
import { assert } from '../../base/assert.ts';
import type { Vcpu } from '../domain.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { loadGdt, reservedDescriptor } from '../per-domain.ts';
import { SEG } from '../../x86/state-layout.ts';
import { GPR, setVaddr } from '../guest-registers.ts';
import { segmentFromDescriptor } from '../return-segments.ts';

/** FLAT_KERNEL_CS, _DS and _SS of xen-x86_32.h and xen-x86_64.h. */
const FLAT = { 32: { cs: 0xe019, ds: 0xe021, ss: 0xe021 }, 64: { cs: 0xe033, ds: 0, ss: 0xe02b } } as const;
const EFLAGS_IF_FIXED = 0x202;
/** PG, AM, WP, NE, ET, MP, PE. */
const CR0 = 0x8005_0033;
/** PSE, PGE, OSFXSR, OSXMMEXCPT; PAE with three or four levels. */
const CR4 = 0x690;
const CR4_PAE = 0x20;
/** What STR shows on 64-bit Xen (TSS_SELECTOR), and a present busy 32-bit TSS of ring 0. */
const TSS_SELECTOR = 0xe040;
const BUSY_TSS = 0x8b;
const UNUSABLE = 0x1_0000;
/** NXE, and for 64-bit guests LME, LMA and SCE. */
const EFER = { 32: 0x800, 64: 0xd01 } as const;

export interface InitialContext {
  readonly entry: number;
  readonly stackVaddr: number;
  readonly startInfoVaddr: number;
}

/** The base table is the vCPU's already (guestTableMfn). Without a processor only Xen's side is set. */
export function loadInitialContext(hv: Hypervisor, vcpu: Vcpu, context: InitialContext): void {
  const { abi } = vcpu.domain;
  const flat = FLAT[abi.wordBits];
  assert(vcpu.guestTableMfn !== 0, `d${vcpu.domain.domId}v${vcpu.vcpuId} has no base table`);
  vcpu.kernelSs = flat.ss;
  vcpu.kernelSp = context.stackVaddr;
  const cpu = vcpu.cpu;
  if (cpu === undefined) return;
  cpu.setEfer(EFER[abi.wordBits]);
  cpu.setCr(4, CR4 | (abi.levels > 2 ? CR4_PAE : 0));
  cpu.setCr(3, vcpu.guestTableMfn * 4096);
  cpu.setCr(0, CR0);
  loadGdt(hv, vcpu);
  // No I/O bitmap: ports are Xen's, whatever lies where a task state segment would be.
  cpu.setTr({ selector: TSS_SELECTOR, base: 0, limit: 0, access: BUSY_TSS });
  cpu.setLdtr({ selector: 0, base: 0, limit: 0, access: UNUSABLE });
  setVaddr(cpu, GPR.esi, context.startInfoVaddr);
  setVaddr(cpu, GPR.esp, context.stackVaddr);
  cpu.setRip(context.entry);
  cpu.setEflags(EFLAGS_IF_FIXED);
  for (const [index, selector] of [[SEG.cs, flat.cs], [SEG.ss, flat.ss], [SEG.ds, flat.ds], [SEG.es, flat.ds], [SEG.fs, flat.ds], [SEG.gs, flat.ds]] as const) {
    const descriptor = reservedDescriptor(abi.name, selector);
    cpu.setSegment(index, descriptor === undefined ? { selector: 0, base: 0, limit: 0, access: UNUSABLE } : segmentFromDescriptor(selector, descriptor));
  }
}
