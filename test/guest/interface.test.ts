// The interface is whole: every hook of the 2007 series is filled by every back end, and the machine
// code that stands for an operation is one instruction of that meaning.
import { describe, expect, test } from 'vitest';
import { entryAt, ENTRY_NAMES, entryVaddr, kernelTextPage, KERNEL_TEXT, stubVaddr } from '../../src/guest/entries.ts';
import { nativePlatform } from '../../src/guest/native/index.ts';
import { MachinePort, OPERATION_NAMES, OPERATION_ROWS } from '../../src/guest/operations.ts';
import type { ParavirtOps } from '../../src/guest/paravirt-ops/index.ts';
import { shadowPlatform } from '../../src/guest/shadow/index.ts';
import { xenPlatform } from '../../src/guest/xen/index.ts';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';

/** Hooks by group, as Linux 2.6.20 to 2.6.24 name them. */
const HOOKS: Record<keyof ParavirtOps, string> = {
  info: 'name paravirt_enabled kernel_rpl shared_kernel_pmd',
  init: 'patch banner arch_setup memory_setup post_allocator_init',
  time: 'time_init get_wallclock set_wallclock sched_clock get_cpu_khz',
  cpu: 'get_debugreg set_debugreg clts read_cr0 write_cr0 read_cr4 read_cr4_safe write_cr4 load_tr_desc load_gdt load_idt store_gdt store_idt set_ldt store_tr load_tls write_ldt_entry write_gdt_entry write_idt_entry load_esp0 set_iopl_mask wbinvd io_delay cpuid read_msr write_msr read_tsc read_pmc irq_enable_sysexit iret lazy_mode',
  irq: 'init_IRQ save_fl restore_fl irq_disable irq_enable safe_halt halt',
  apic: 'apic_write apic_read setup_boot_clock setup_secondary_clock startup_ipi_hook',
  mmu: 'pagetable_setup_start pagetable_setup_done read_cr2 write_cr2 read_cr3 write_cr3 activate_mm dup_mmap exit_mmap flush_tlb_user flush_tlb_kernel flush_tlb_single flush_tlb_others alloc_pt alloc_pd alloc_pd_clone release_pt release_pd set_pte set_pte_at set_pmd set_pud set_pgd pte_update pte_update_defer set_pte_atomic set_pte_present pte_clear pmd_clear pte_val make_pte pmd_val make_pmd pgd_val make_pgd kmap_atomic_pte lazy_mode',
};
const port = (): MachinePort => new MachinePort({ reg: () => 0, setReg: () => {} });

describe.each([
  ['native', nativePlatform(port(), 'pae').ops],
  ['xen', xenPlatform(port(), 'nopae', { discipline: 'late' }).ops],
  ['lguest', shadowPlatform(port(), 'pae', 'lguest').ops],
  ['vmi', shadowPlatform(port(), 'nopae', 'vmi').ops],
  ['kvm', shadowPlatform(port(), 'pae', 'kvm').ops],
] as const)('%s', (name, ops) => {
  test('fills every hook of every group', () => {
    expect(ops.info.name).toBe(name);
    const missing = Object.entries(HOOKS).flatMap(([group, hooks]) => hooks.split(' ').filter((hook) => !(hook in ops[group as keyof ParavirtOps])).map((hook) => `${group}.${hook}`));
    expect(missing).toEqual([]);
  });
});

test('each operation is one instruction, which fills its code to the byte', () => {
  const machine = new MachineMemory({ frameCount: 16, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0] });
  machine.writeBytes(0x1000, kernelTextPage());
  const texts = OPERATION_NAMES.map((name, kind) => {
    const [insn] = cpu.disassemble(0x1000 + (stubVaddr(kind) - KERNEL_TEXT), 1);
    expect((insn?.bytes.replaceAll(' ', '').length ?? 0) / 2, name).toBe((OPERATION_ROWS[kind]?.code as readonly number[]).length);
    return `${name}: ${insn?.text ?? ''}`;
  });
  for (const line of ['store32: mov [edi],eax', 'store64: lock cmpxchg8b [edi]', 'hypercall: int 82h', 'writeCr3: mov cr3,eax', 'invlpg: invlpg [edi]', 'lldt: lldt ax', 'iret: iret']) expect(texts).toContain(line);
});

test('entries have addresses of their own', () => {
  for (const name of ENTRY_NAMES) expect(entryAt(entryVaddr(name))).toBe(name);
  expect(entryAt(stubVaddr(0))).toBeUndefined();
  expect(stubVaddr(OPERATION_NAMES.length)).toBeLessThan(entryVaddr('start'));
});
