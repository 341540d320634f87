// Guest ABIs and builds of Xen as rows: what differs between a 64-bit guest, a 32-bit PAE guest on
// 64-bit Xen, and 32-bit guests on 32-bit Xen 3.x, and between debug and release builds.
// Source: xen/include/public/arch-x86/xen-x86_{32,64}.h; for 3.x the same headers of that time.

export type AbiName = 'pv64' | 'pv32pae' | 'xen3-pae' | 'xen3-nopae';

export interface Abi {
  readonly name: AbiName;
  /** Bits of a guest register and of a guest pointer. */
  readonly wordBits: 32 | 64;
  /** Levels of the page-table tree: 2, 3 (PAE) or 4. */
  readonly levels: 2 | 3 | 4;
  readonly pteBytes: 4 | 8;
  /** Ring of the guest kernel: 1 on i386; on 64-bit Xen pv64 kernels run in ring 3. */
  readonly kernelRing: 1 | 3;
  /** First address that belongs to Xen (32-bit), or the Xen slots of the root (pv64: 256..271). */
  readonly hypervisorVirtStart: number;
  /** Virtual address of the read-only machine-to-phys table. */
  readonly machphysVirtStart: number;
  readonly machphysEntryBytes: 4 | 8;
  /** Xen 3.x 32-bit: hypercalls by int 0x82 into ring-0 Xen, PDPTEs cached by the processor. */
  readonly onXen3: boolean;
}

export const ABIS: Record<AbiName, Abi> = {
  pv64: { name: 'pv64', wordBits: 64, levels: 4, pteBytes: 8, kernelRing: 3, hypervisorVirtStart: -0x8000_0000_0000, machphysVirtStart: -0x8000_0000_0000, machphysEntryBytes: 8, onXen3: false },
  pv32pae: { name: 'pv32pae', wordBits: 32, levels: 3, pteBytes: 8, kernelRing: 1, hypervisorVirtStart: 0xf5800000, machphysVirtStart: 0xf5800000, machphysEntryBytes: 4, onXen3: false },
  'xen3-pae': { name: 'xen3-pae', wordBits: 32, levels: 3, pteBytes: 8, kernelRing: 1, hypervisorVirtStart: 0xf5800000, machphysVirtStart: 0xf5800000, machphysEntryBytes: 4, onXen3: true },
  'xen3-nopae': { name: 'xen3-nopae', wordBits: 32, levels: 2, pteBytes: 4, kernelRing: 1, hypervisorVirtStart: 0xfc000000, machphysVirtStart: 0xfc000000, machphysEntryBytes: 4, onXen3: true },
};

/** Where the machine-to-phys table ends; on Xen 3.x also the end of every segment that a guest may load (GUEST_SEGMENT_MAX_ADDR). */
export const MACHPHYS_VIRT_END: Record<AbiName, number> = { pv64: -0x7fc0_0000_0000, pv32pae: 0xffe0_0000, 'xen3-pae': 0xf680_0000, 'xen3-nopae': 0xfc40_0000 };

/** Debug and release builds of Xen differ in what guests can see (conformance FORMAT, section 1). */
export interface XenBuild {
  readonly name: 'debug' | 'release';
  /** Marks L1 entries made by the grant interface with bit 62 and refuses it from guests. */
  readonly grantPteMark: boolean;
  /** Overwrites the argument registers that a hypercall used. */
  readonly clobbersArguments: boolean;
  readonly scrubsFreedPages: boolean;
}
export const XEN_BUILDS: Record<XenBuild['name'], XenBuild> = {
  debug: { name: 'debug', grantPteMark: true, clobbersArguments: true, scrubsFreedPages: true },
  release: { name: 'release', grantPteMark: false, clobbersArguments: false, scrubsFreedPages: true },
};
