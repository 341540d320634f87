// Group cpu on Xen: descriptor tables belong to Xen and change by hypercall, the trap table stands for
// the IDT, the stack of kernel entries is Xen's to know. What a context switch loads goes as one batch.
import { KERNEL_PAGES } from '../kernel/layout.ts';
import { kernelCs, kernelDs } from '../kernel/segments.ts';
import { vaddrToPfn } from '../kernel/page-tables.ts';
import { gateWords } from '../native/gates.ts';
import { sharedCpu } from '../native/instructions.ts';
import { nothing, OP, REG, type Task } from '../operations.ts';
import type { PvCpu } from '../paravirt-ops/index.ts';
import type { Descriptor, Gate } from '../paravirt-ops/types.ts';
import { MMUEXT, type Batch } from './batch.ts';
import type { Pinning } from './pinning.ts';
import { HC, wordBytes, type XenState } from './state.ts';

const RPL = 1;
/** TI_GET_IF in a trap table's flags: events are masked on entry. */
const TRAP_MASKS = 4;
const GDT_TLS_AT = 6 * 8;

export function xenCpu(xen: XenState, batch: Batch, pinning: Pinning): PvCpu {
  const { m } = xen;
  const gates = new Map<number, Gate>();
  let gdtLoaded = false;
  function* descriptor(vaddr: number, { lo, hi }: Descriptor): Task {
    const maddr = yield* xen.machineAddress(vaddr);
    yield* batch.add('a segment descriptor', HC.update_descriptor, maddr >>> 0, Math.floor(maddr / 0x1_0000_0000), lo, hi);
    yield* batch.issue();
  }
  const lazy = (mode: 'cpu' | 'none') => function* (): Task {
    xen.lazy = mode;
    if (mode === 'none') yield* batch.flush();
  };
  return {
    ...sharedCpu(m),
    *get_debugreg(index) { return yield* xen.call(HC.get_debugreg, index); },
    *set_debugreg(index, value) { yield* xen.call(HC.set_debugreg, index, value); },
    *clts() {
      yield* batch.add('the FPU for this thread', HC.fpu_taskswitch, 0);
      yield* batch.issue();
    },
    // Only TS means anything, and it goes by a hypercall of its own.
    *write_cr0(value) { yield* xen.call(HC.fpu_taskswitch, (value >>> 3) & 1); },
    write_cr4: nothing,
    load_tr_desc: nothing,
    *load_gdt({ base, sizeBytes }) {
      yield* pinning.setReadOnly(vaddrToPfn(base), true);
      yield* batch.issue();
      yield m.writeBytes(KERNEL_PAGES.scratch, wordBytes([yield* xen.pfnToMfn(vaddrToPfn(base))]));
      yield* xen.must('the GDT', HC.set_gdt, KERNEL_PAGES.scratch, sizeBytes / 8);
      gdtLoaded = true;
    },
    *load_idt() {
      const words: number[] = [];
      for (const gate of gates.values()) words.push(gate.vector | ((gate.dpl | (gate.masks ? TRAP_MASKS : 0)) << 8) | (kernelCs(RPL) << 16), gate.handler);
      yield m.writeBytes(KERNEL_PAGES.scratch, wordBytes([...words, 0, 0]));
      yield* xen.must('the trap table', HC.set_trap_table, KERNEL_PAGES.scratch);
    },
    *store_gdt() { return { base: KERNEL_PAGES.gdt, sizeBytes: 4096 }; },
    *store_idt() { return { base: KERNEL_PAGES.idt, sizeBytes: 2048 }; },
    *set_ldt(vaddr, entries) {
      yield* batch.mmuext('an LDT', MMUEXT.SET_LDT, vaddr, entries);
      yield* batch.issue();
    },
    *store_tr() { return 0; },
    *load_tls({ tls }) {
      for (let i = 0; i < 3; i++) yield* descriptor(KERNEL_PAGES.gdt + GDT_TLS_AT + i * 8, tls[i] as Descriptor);
    },
    *write_ldt_entry(table, index, entry) { yield* descriptor(table + index * 8, entry); },
    *write_gdt_entry(table, index, entry) {
      if (gdtLoaded) return yield* descriptor(table + index * 8, entry);
      yield m.store32(table + index * 8, entry.lo);
      yield m.store32(table + index * 8 + 4, entry.hi);
    },
    *write_idt_entry(table, gate) {
      gates.set(gate.vector, gate);
      const { lo, hi } = gateWords(gate, kernelCs(RPL));
      yield m.store32(table + gate.vector * 8, lo);
      yield m.store32(table + gate.vector * 8 + 4, hi);
    },
    *load_esp0({ esp0 }) {
      yield* batch.add('a kernel stack', HC.stack_switch, kernelDs(RPL), esp0);
      yield* batch.issue();
    },
    *set_iopl_mask(mask) { yield* xen.withStruct('an I/O privilege level', HC.physdev_op, 6, [mask >>> 12]); },
    *iret() {
      // The frame of the hypercall begins with EAX.
      const esp = m.registers.reg(REG.esp) - 4;
      yield* m.write32(esp, m.registers.reg(REG.eax));
      m.registers.setReg(REG.esp, esp);
      xen.counts.hypercalls++;
      yield m.op(OP.iretHypercall, HC.iret);
    },
    lazy_mode: { enter: lazy('cpu'), leave: lazy('none') },
  };
}
