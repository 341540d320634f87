// HYPERVISOR_xen_version: who Xen is and what it can do. Version 4.x for guests of 64-bit Xen; 3.x for
// the personalities of 32-bit Xen 3.
// Source: do_xen_version() in xen/common/kernel.c, xen/include/public/version.h, features.h.
import { ERRNO } from '../../abi/errno.ts';
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';
import { layout } from '../../base/layout.ts';
import type { HypercallRows } from '../dispatch.ts';
import type { Domain, Vcpu } from '../domain.ts';
import { readStruct, writeStruct } from '../guest-struct.ts';
import { done, type HypercallArgs, type HypercallOutcome } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { XEN3_VERSION, XEN_CHANGESET, XEN_COMPILE, XEN_VERSION } from '../xen-identity.ts';

export const XENVER = {
  version: 0, extraversion: 1, compile_info: 2, capabilities: 3, changeset: 4, platform_parameters: 5, get_features: 6, pagesize: 7, guest_handle: 8,
  commandline: 9, build_id: 10, extraversion2: 11, capabilities2: 12, changeset2: 13, commandline2: 14,
} as const;
const FEATURE_INFO = layout({ sizeBytes: 8, source: 'xen/include/public/version.h', fields: { submap_idx: { at: 0, type: 'u32' }, submap: { at: 4, type: 'u32' } } });

/** XENFEAT_* bits, xen/include/public/features.h. */
export const XENFEAT = {
  writable_page_tables: 0, writable_descriptor_tables: 1, auto_translated_physmap: 2, supervisor_mode_kernel: 3, pae_pgdir_above_4gb: 4,
  mmu_pt_update_preserve_ad: 5, highmem_assist: 6, gnttab_map_avail_bits: 7, dom0: 11, memory_op_vnode_supported: 13, direct_mapped: 17,
  runstate_phys_area: 18, vcpu_time_phys_area: 19, dm_msix_all_writes: 20,
} as const;
const VMASST_pae_extended_cr3 = 3;
const bits = (...features: readonly number[]): number => features.reduce((sum, bit) => sum | (1 << bit), 0);

/** Submap 0 of a PV domU. The two phys-area features are announced by Xen although the calls are -ENOSYS. */
export function featureSubmap(domain: Domain): number {
  const always = domain.abi.onXen3
    ? bits(XENFEAT.mmu_pt_update_preserve_ad, XENFEAT.highmem_assist)
    : bits(XENFEAT.memory_op_vnode_supported, XENFEAT.mmu_pt_update_preserve_ad, XENFEAT.highmem_assist, XENFEAT.gnttab_map_avail_bits, XENFEAT.dm_msix_all_writes, XENFEAT.direct_mapped, XENFEAT.runstate_phys_area, XENFEAT.vcpu_time_phys_area);
  const extendedCr3 = (domain.vmAssist & (1 << VMASST_pae_extended_cr3)) !== 0 ? bits(XENFEAT.pae_pgdir_above_4gb) : 0;
  return (always | extendedCr3 | (domain.privileged ? bits(XENFEAT.dom0) : 0)) >>> 0;
}

const versionOf = (domain: Domain): typeof XEN_VERSION | typeof XEN3_VERSION => (domain.abi.onXen3 ? XEN3_VERSION : XEN_VERSION);

/** A NUL-padded string of that size; longer text is cut, the last byte stays NUL. */
function fixedText(sizeBytes: number, text: string): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  for (let i = 0; i < Math.min(text.length, sizeBytes - 1); i++) bytes[i] = text.charCodeAt(i) & 0x7f;
  return bytes;
}
const join = (...parts: readonly Uint8Array[]): Uint8Array => {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};

const CAPABILITIES_BYTES = 1024;
const capabilities = (domain: Domain): string =>
  domain.abi.onXen3 ? (domain.abi.levels === 3 ? 'xen-3.0-x86_32p ' : 'xen-3.0-x86_32 ') : 'xen-3.0-x86_64 xen-3.0-x86_32p ';

/** What the sub-command copies to the guest, whole. */
const COPIED_OUT: Readonly<Record<number, (domain: Domain) => Uint8Array>> = {
  [XENVER.extraversion]: (domain) => fixedText(16, versionOf(domain).extra),
  [XENVER.compile_info]: () => join(fixedText(64, XEN_COMPILE.compiler), fixedText(16, XEN_COMPILE.by), fixedText(32, XEN_COMPILE.domain), fixedText(32, XEN_COMPILE.date)),
  [XENVER.capabilities]: (domain) => fixedText(CAPABILITIES_BYTES, capabilities(domain)),
  [XENVER.changeset]: () => fixedText(64, XEN_CHANGESET),
  [XENVER.platform_parameters]: platformParameters,
  [XENVER.guest_handle]: (domain) => domain.handle,
  // Refused to an unprivileged domain by a text, not by an error.
  [XENVER.commandline]: () => fixedText('<denied>'.length + 1, '<denied>'),
};

/** Start of Xen's range; a debug build tells 64-bit guests 0. */
function platformParameters(domain: Domain): Uint8Array {
  const wide = domain.abi.wordBits === 64;
  const bytes = new Uint8Array(wide ? 8 : 4);
  const view = new DataView(bytes.buffer);
  if (!wide) view.setUint32(0, domain.abi.hypervisorVirtStart, true);
  else if (domain.build.name === 'release') view.setBigInt64(0, BigInt(domain.abi.hypervisorVirtStart), true);
  return bytes;
}

/** struct xen_varbuf { u32 len; char buf[] }: the length alone when no buffer is given. */
const VARBUF: Readonly<Record<number, (domain: Domain) => string>> = {
  [XENVER.extraversion2]: (domain) => versionOf(domain).extra,
  [XENVER.capabilities2]: capabilities,
  [XENVER.changeset2]: () => XEN_CHANGESET,
};
function varbuf(hv: Hypervisor, vcpu: Vcpu, vaddr: number, text: string): number {
  if (vaddr === 0) return text.length;
  const room = hv.access.readU32(vcpu, vaddr);
  if (room === undefined) return -ERRNO.EFAULT;
  if (text.length > room) return -ERRNO.ENOBUFS;
  return hv.access.copyToGuest(vcpu, vaddr + 4, fixedText(text.length + 1, text).subarray(0, text.length)) ? text.length : -ERRNO.EFAULT;
}

function xenVersion(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const command = args.u32(0);
  const vaddr = args.addr(1);
  const { domain } = vcpu;
  const make = COPIED_OUT[command];
  if (make !== undefined) return done(hv.access.copyToGuest(vcpu, vaddr, make(domain)) ? 0 : -ERRNO.EFAULT);
  const text = VARBUF[command];
  if (text !== undefined && !domain.abi.onXen3) return done(varbuf(hv, vcpu, vaddr, text(domain)));
  switch (command) {
    case XENVER.version: {
      const { major, minor } = versionOf(domain);
      return done(major * 0x1_0000 + minor);
    }
    case XENVER.get_features: {
      const info = readStruct(hv, vcpu, vaddr, FEATURE_INFO);
      if (info === undefined) return done(-ERRNO.EFAULT);
      if (info.values.submap_idx !== 0) return done(-ERRNO.EINVAL);
      return done(writeStruct(hv, vcpu, info, { submap: featureSubmap(domain) }) ? 0 : -ERRNO.EFAULT);
    }
    case XENVER.pagesize:
      return done(vaddr === 0 ? 4096 : -ERRNO.EINVAL);
    // The build id and the command line are for privileged domains.
    case XENVER.build_id:
    case XENVER.commandline2:
      return done(domain.abi.onXen3 ? -ERRNO.ENOSYS : -ERRNO.EPERM);
    default:
      return done(-ERRNO.ENOSYS);
  }
}

export const VERSION_ROWS: HypercallRows = {
  [HYPERCALL.xen_version]: {
    name: 'xen_version', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'handle' }],
    commands: Object.fromEntries(Object.entries(XENVER).map(([name, nr]) => [nr, name])), handle: xenVersion,
  },
};
