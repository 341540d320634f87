// What a hypercall's argument registers mean, for those who read a recording: names in order, and
// the names of sub-commands. Sources: xen/include/public/{xen,sched,event_channel,grant_table,
// memory,vcpu,version,callback,physdev}.h. Where the guest's word or its page-table entry is wider
// than a register (i386), arguments are split, and the row has a form for each.
//
// Not here: how a hypercall is carried out, and what it does with its arguments (hypervisor/).
import type { HypercallName } from './hypercall-numbers.ts';

export interface HypercallSignature {
  readonly args: readonly string[];
  /** On i386 without PAE, and with PAE, where those differ. */
  readonly i386?: readonly string[];
  readonly i386pae?: readonly string[];
  /** Names of the first argument's values. */
  readonly commands?: Readonly<Record<number, string>>;
}

const list = (...names: readonly (string | undefined)[]): Readonly<Record<number, string>> => Object.fromEntries(names.flatMap((name, number) => (name === undefined ? [] : [[number, name]])));

export const HYPERCALL_SIGNATURES: Readonly<Partial<Record<HypercallName, HypercallSignature>>> = {
  set_trap_table: { args: ['traps'] },
  mmu_update: { args: ['reqs', 'count', 'done', 'domid'] },
  set_gdt: { args: ['frames', 'entries'] },
  stack_switch: { args: ['ss', 'esp'] },
  set_callbacks: { args: ['event', 'failsafe', 'syscall'], i386: ['event_cs', 'event_eip', 'failsafe_cs', 'failsafe_eip'] },
  fpu_taskswitch: { args: ['set'] },
  platform_op: { args: ['op'] },
  set_debugreg: { args: ['reg', 'value'] },
  get_debugreg: { args: ['reg'] },
  update_descriptor: { args: ['maddr', 'descriptor'], i386: ['maddr_lo', 'maddr_hi', 'descriptor_lo', 'descriptor_hi'] },
  memory_op: {
    args: ['cmd', 'arg'],
    commands: list('increase_reservation', 'decrease_reservation', 'maximum_ram_page', 'current_reservation', 'maximum_reservation', 'machphys_mfn_list', 'populate_physmap', 'add_to_physmap', 'translate_gpfn_list', 'memory_map', 'machine_memory_map', 'exchange', 'machphys_mapping', 'set_memory_map', 'maximum_gpfn', 'remove_from_physmap'),
  },
  multicall: { args: ['calls', 'count'] },
  update_va_mapping: { args: ['vaddr', 'pte', 'flags'], i386pae: ['vaddr', 'pte_lo', 'pte_hi', 'flags'] },
  set_timer_op: { args: ['deadlineNs'], i386: ['deadlineNs_lo', 'deadlineNs_hi'] },
  xen_version: { args: ['cmd', 'arg'], commands: list('version', 'extraversion', 'compile_info', 'capabilities', 'changeset', 'platform_parameters', 'get_features', 'pagesize', 'guest_handle', 'commandline', 'build_id') },
  console_io: { args: ['cmd', 'count', 'buffer'], commands: list('write', 'read') },
  grant_table_op: {
    args: ['cmd', 'ops', 'count'],
    commands: list('map_grant_ref', 'unmap_grant_ref', 'setup_table', 'dump_table', 'transfer', 'copy', 'query_size', 'unmap_and_replace', 'set_version', 'get_status_frames', 'get_version', 'swap_grant_ref', 'cache_flush'),
  },
  vm_assist: { args: ['cmd', 'type'], commands: list('enable', 'disable') },
  update_va_mapping_otherdomain: { args: ['vaddr', 'pte', 'flags', 'domid'], i386pae: ['vaddr', 'pte_lo', 'pte_hi', 'flags', 'domid'] },
  iret: { args: [] },
  vcpu_op: {
    args: ['cmd', 'vcpuid', 'arg'],
    commands: list('initialise', 'up', 'down', 'is_up', 'get_runstate_info', 'register_runstate_memory_area', 'set_periodic_timer', 'stop_periodic_timer', 'set_singleshot_timer', 'stop_singleshot_timer', 'register_vcpu_info', 'send_nmi', 'get_physid', 'register_vcpu_time_memory_area'),
  },
  set_segment_base: { args: ['which', 'base'], commands: list('fs', 'gs_user', 'gs_kernel', 'gs_user_sel') },
  mmuext_op: { args: ['ops', 'count', 'done', 'domid'] },
  sched_op_compat: { args: ['cmd', 'arg'], commands: list('yield', 'block') },
  sched_op: { args: ['cmd', 'arg'], commands: list('yield', 'block', 'shutdown', 'poll', 'remote_shutdown', 'shutdown_code', 'watchdog', 'pin_override') },
  callback_op: { args: ['cmd', 'arg'], commands: list('register', 'unregister') },
  event_channel_op_compat: { args: ['op'] },
  event_channel_op: {
    args: ['cmd', 'arg'],
    commands: list('bind_interdomain', 'bind_virq', 'bind_pirq', 'close', 'send', 'status', 'alloc_unbound', 'bind_ipi', 'bind_vcpu', 'unmask', 'reset', 'init_control', 'expand_array', 'set_priority'),
  },
  physdev_op_compat: { args: ['op'] },
  physdev_op: { args: ['cmd', 'arg'], commands: { 5: 'irq_status_query', 6: 'set_iopl', 7: 'set_iobitmap', 8: 'apic_read', 9: 'apic_write', 12: 'eoi', 13: 'map_pirq', 15: 'manage_pci_add', 24: 'setup_gsi' } },
  hvm_op: { args: ['cmd', 'arg'] },
};
