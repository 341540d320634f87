// Console output through Xen, physical devices as a domU may not use them, and the privileged
// interfaces: one row each, with the refusal that an unprivileged domain gets from Xen.
// Sources: xen/drivers/char/console.c, xen/arch/x86/physdev.c, xen/include/xsm/dummy.h.
import { ERRNO, type ErrnoName } from '../../abi/errno.ts';
import { EVENT } from '../../abi/events.ts';
import { HYPERCALL, type HypercallName } from '../../abi/hypercall-numbers.ts';
import { layout, type Field, type Layout } from '../../base/layout.ts';
import type { HypercallRows } from '../dispatch.ts';
import type { Vcpu } from '../domain.ts';
import { holdWritableFrame } from '../frame-hold.ts';
import { readStruct, writeStruct } from '../guest-struct.ts';
import { done, type ArgKind, type HypercallArgs, type HypercallOutcome } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';

const OK = done(0);
const EFAULT = done(-ERRNO.EFAULT);
const refused = (errno: ErrnoName): HypercallOutcome => done(-ERRNO[errno]);

// ---- console_io --------------------------------------------------------------------------------

const CONSOLEIO = { write: 0, read: 1 } as const;
/** Bytes of one event; between two of them the call may be preempted. */
const CONSOLE_CHUNK = 4096;

/**
 * Output of any domain is taken (Xen does so in debug builds and for domains with the console
 * permission); the serial line has no input.
 */
function consoleIo(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const count = args.u32(1);
  if (args.u32(0) === CONSOLEIO.read) return count > 0x7fff_ffff ? refused('E2BIG') : OK;
  if (args.u32(0) !== CONSOLEIO.write) return refused('ENOSYS');
  let at = args.addr(2);
  for (let left = count; left > 0; ) {
    const chunk = Math.min(left, CONSOLE_CHUNK);
    const bytes = hv.access.copyFromGuest(vcpu, at, chunk);
    if (bytes === undefined) return EFAULT;
    hv.world.emit(EVENT.xenConsole, vcpu.domain.domId, vcpu.vcpuId, [], bytes);
    left -= chunk;
    at += chunk;
    if (left > 0 && hv.world.preempt(chunk)) return { kind: 'continuation', args: [CONSOLEIO.write, left, at] };
  }
  return OK;
}

// ---- physdev_op --------------------------------------------------------------------------------

const source = 'xen/include/public/physdev.h';
const IRQ = layout({ sizeBytes: 8, source, fields: { irq: { at: 0, type: 'u32' }, flags: { at: 4, type: 'u32' } } });
const IOPL = layout({ sizeBytes: 4, source, fields: { iopl: { at: 0, type: 'u32' } } });
const IOBITMAP_32: Layout<{ nr_ports: Field }> = layout({ sizeBytes: 8, source, fields: { nr_ports: { at: 4, type: 'u32' } } });
const IOBITMAP_64: Layout<{ nr_ports: Field }> = layout({ sizeBytes: 16, source, fields: { nr_ports: { at: 8, type: 'u32' } } });
const NR_PIRQS = 56;
const XENIRQSTAT_needs_eoi = 1;
const MAX_PORTS = 65536;

type PhysdevHandler = (hv: Hypervisor, vcpu: Vcpu, vaddr: number) => HypercallOutcome;

/** Copies the argument (EFAULT), then refuses. */
const refusing = (sizeBytes: number, errno: ErrnoName): PhysdevHandler => (hv, vcpu, vaddr) =>
  hv.access.copyFromGuest(vcpu, vaddr, sizeBytes) === undefined ? EFAULT : refused(errno);

const irqStatus: PhysdevHandler = (hv, vcpu, vaddr) => {
  const arg = readStruct(hv, vcpu, vaddr, IRQ);
  if (arg === undefined) return EFAULT;
  if (arg.values.irq >= NR_PIRQS) return refused('EINVAL');
  return writeStruct(hv, vcpu, arg, { flags: XENIRQSTAT_needs_eoi }) ? OK : EFAULT;
};
const setIopl: PhysdevHandler = (hv, vcpu, vaddr) => {
  const arg = readStruct(hv, vcpu, vaddr, IOPL);
  if (arg === undefined) return EFAULT;
  if (arg.values.iopl > 3) return refused('EINVAL');
  vcpu.iopl = arg.values.iopl;
  return OK;
};
const setIobitmap: PhysdevHandler = (hv, vcpu, vaddr) => {
  const arg = readStruct(hv, vcpu, vaddr, vcpu.domain.abi.wordBits === 64 ? IOBITMAP_64 : IOBITMAP_32);
  const bitmap = hv.access.readWord(vcpu, vaddr);
  if (arg === undefined || bitmap === undefined) return EFAULT;
  if (arg.values.nr_ports > MAX_PORTS) return refused('EINVAL');
  vcpu.ioBitmapVaddr = bitmap;
  vcpu.ioBitmapPorts = arg.values.nr_ports;
  return OK;
};
/** A page in which Xen would show which interrupts need an end-of-interrupt: taken once, never written. */
const pirqEoiFrame: PhysdevHandler = (hv, vcpu, vaddr) => {
  const { domain } = vcpu;
  const mfn = hv.access.readWord(vcpu, vaddr);
  if (mfn === undefined) return EFAULT;
  if (domain.pirqEoiMfn !== undefined) return hv.frames.has(mfn) && hv.frames.owner[mfn] === domain.domId ? refused('EBUSY') : refused('EINVAL');
  if (!holdWritableFrame(hv, domain, mfn)) return refused('EINVAL');
  domain.pirqEoiMfn = mfn;
  return OK;
};

/** By PHYSDEVOP_*. Everything that touches real interrupts or PCI devices is refused to a domU. */
const PHYSDEV: Readonly<Record<number, { readonly name: string; readonly run: PhysdevHandler }>> = {
  4: { name: 'irq_unmask_notify', run: () => OK },
  5: { name: 'irq_status_query', run: irqStatus },
  6: { name: 'set_iopl', run: setIopl },
  7: { name: 'set_iobitmap', run: setIobitmap },
  8: { name: 'apic_read', run: refusing(16, 'EPERM') },
  9: { name: 'apic_write', run: refusing(16, 'EPERM') },
  10: { name: 'alloc_irq_vector', run: refusing(8, 'EPERM') },
  12: { name: 'eoi', run: refusing(4, 'EINVAL') },
  13: { name: 'map_pirq', run: refusing(32, 'EPERM') },
  14: { name: 'unmap_pirq', run: refusing(8, 'EPERM') },
  15: { name: 'manage_pci_add', run: refusing(2, 'EPERM') },
  16: { name: 'manage_pci_remove', run: refusing(2, 'EPERM') },
  17: { name: 'pirq_eoi_gmfn_v1', run: pirqEoiFrame },
  19: { name: 'restore_msi', run: refusing(2, 'EPERM') },
  20: { name: 'manage_pci_add_ext', run: refusing(12, 'EPERM') },
  21: { name: 'setup_gsi', run: refusing(8, 'EPERM') },
  23: { name: 'get_free_pirq', run: refusing(8, 'EINVAL') },
  24: { name: 'pci_mmcfg_reserved', run: refusing(24, 'EPERM') },
  25: { name: 'pci_device_add', run: refusing(12, 'EPERM') },
  26: { name: 'pci_device_remove', run: refusing(4, 'EPERM') },
  27: { name: 'restore_msi_ext', run: refusing(4, 'EPERM') },
  28: { name: 'pirq_eoi_gmfn_v2', run: pirqEoiFrame },
  29: { name: 'dbgp_op', run: () => refused('ENOSYS') },
  30: { name: 'prepare_msix', run: refusing(4, 'EPERM') },
  31: { name: 'release_msix', run: refusing(4, 'EPERM') },
};
/** The old form: command and arguments in one structure of 16 bytes, the union at 8. */
const COMPAT_ARG_AT = 8;
const COMPAT_BYTES = 24;
const LAST_COMPAT = 10;

const physdevOp = (hv: Hypervisor, vcpu: Vcpu, command: number, vaddr: number): HypercallOutcome => PHYSDEV[command]?.run(hv, vcpu, vaddr) ?? refused('ENOSYS');

function physdevOpCompat(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const at = args.addr(0);
  const command = hv.access.readU32(vcpu, at);
  if (command === undefined || hv.access.copyFromGuest(vcpu, at, COMPAT_BYTES) === undefined) return EFAULT;
  return command > LAST_COMPAT || command < 4 ? refused('ENOSYS') : physdevOp(hv, vcpu, command, at + COMPAT_ARG_AT);
}

// ---- what is not for a domU --------------------------------------------------------------------

interface RefusalRow {
  readonly name: HypercallName;
  readonly args: readonly { readonly name: string; readonly kind: ArgKind }[];
  /** Bytes of the argument that are copied before anything is decided, and which argument points to them. */
  readonly copies?: { readonly arg: number; readonly sizeBytes: number };
  readonly errno: ErrnoName;
  /** The interface version in the first word must be this one, else EACCES. */
  readonly version?: number;
}
const CMD_ARG = [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'handle' }] as const;
const ONE_HANDLE = [{ name: 'uop', kind: 'handle' }] as const;
/** XEN_SYSCTL_, XEN_DOMCTL_ and XENPF_INTERFACE_VERSION of the Xen whose rules are followed. */
const SYSCTL_VERSION = 0x16;
const DOMCTL_VERSION = 0x18;
const XENPF_VERSION = 0x0300_0001;

const REFUSALS: readonly RefusalRow[] = [
  { name: 'platform_op', args: ONE_HANDLE, copies: { arg: 0, sizeBytes: 136 }, version: XENPF_VERSION, errno: 'EPERM' },
  { name: 'xsm_op', args: ONE_HANDLE, errno: 'ENOSYS' },
  { name: 'xenoprof_op', args: CMD_ARG, errno: 'ENOSYS' },
  { name: 'hvm_op', args: CMD_ARG, errno: 'ENOSYS' },
  { name: 'sysctl', args: ONE_HANDLE, copies: { arg: 0, sizeBytes: 136 }, version: SYSCTL_VERSION, errno: 'EPERM' },
  { name: 'domctl', args: ONE_HANDLE, copies: { arg: 0, sizeBytes: 144 }, version: DOMCTL_VERSION, errno: 'EPERM' },
  { name: 'kexec_op', args: CMD_ARG, errno: 'EPERM' },
  { name: 'tmem_op', args: ONE_HANDLE, errno: 'ENOSYS' },
  // Not built in by default (CONFIG_ARGO).
  { name: 'argo_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg1', kind: 'handle' }, { name: 'arg2', kind: 'handle' }, { name: 'raw_arg3', kind: 'u32' }, { name: 'raw_arg4', kind: 'u32' }], errno: 'ENOSYS' },
  { name: 'xenpmu_op', args: CMD_ARG, errno: 'EOPNOTSUPP' },
  { name: 'dm_op', args: [{ name: 'domid', kind: 'domid' }, { name: 'nr_bufs', kind: 'count' }, { name: 'bufs', kind: 'handle' }], errno: 'EPERM' },
  { name: 'hypfs_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg1', kind: 'handle' }, { name: 'arg2', kind: 'u32' }, { name: 'arg3', kind: 'handle' }, { name: 'arg4', kind: 'u32' }], errno: 'EPERM' },
];

function refuse(row: RefusalRow, hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  if (row.copies !== undefined) {
    const bytes = hv.access.copyFromGuest(vcpu, args.addr(row.copies.arg), row.copies.sizeBytes);
    if (bytes === undefined) return EFAULT;
    // Command first, then the interface version.
    if (row.version !== undefined && new DataView(bytes.buffer).getUint32(4, true) !== row.version) return refused('EACCES');
  }
  return refused(row.errno);
}

export const MISC_ROWS: HypercallRows = {
  [HYPERCALL.console_io]: {
    name: 'console_io', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'count', kind: 'count' }, { name: 'buffer', kind: 'handle' }], commands: { 0: 'write', 1: 'read' }, handle: consoleIo,
  },
  [HYPERCALL.physdev_op]: {
    name: 'physdev_op', args: CMD_ARG, commands: Object.fromEntries(Object.entries(PHYSDEV).map(([nr, { name }]) => [nr, name])),
    handle: (hv, vcpu, args) => physdevOp(hv, vcpu, args.u32(0), args.addr(1)),
  },
  [HYPERCALL.physdev_op_compat]: { name: 'physdev_op_compat', args: ONE_HANDLE, handle: physdevOpCompat },
  ...Object.fromEntries(REFUSALS.map((row) => [HYPERCALL[row.name], { name: row.name, args: row.args, handle: (hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs) => refuse(row, hv, vcpu, args) }])),
};
