// The native back end: bare hardware. Every hook is the instruction or the store that it stands for.
// The machine is as plain as can be: a text port, a one-shot timer with an interrupt line of its own,
// a port that ends it; the loader has mapped the kernel at PAGE_OFFSET and says in a page at ESI how
// much memory there is.
import { entryVaddr } from '../entries.ts';
import type { Kernel, Platform } from '../kernel/kernel.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import { GDT_ENTRY, kernelCs, kernelDs } from '../kernel/segments.ts';
import { nothing, OP, REG, type MachinePort, type Operation, type Task } from '../operations.ts';
import type { ConsolePort, PvCpu, PvInit, PvIrq, PvTime } from '../paravirt-ops/index.ts';
import type { Descriptor, TableRegister } from '../paravirt-ops/types.ts';
import { SHAPES, type Paging } from '../pte.ts';
import { gateWords } from './gates.ts';
import { noApic, sharedCpu } from './instructions.ts';
import { nativeMmu } from './mmu.ts';

/** Ports of the bare machine. */
export const BARE_PORT = { text: 0xe9, end: 0xf4, timerLow: 0x40, timerHigh: 0x44 } as const;
/** Words of the loader's page: frames of memory, address of the root, first frame that is free. */
export const BOOT_WORDS = { pages: 0, pgdVaddr: 4, firstFreePfn: 8 } as const;
export const TIMER_VECTOR = 0x20;
export const END_REASON = { poweroff: 0, reboot: 1, suspend: 2, crash: 3 } as const;
const TIMER_IRQ = 0;
const RPL = 0;
const IF = 0x200;
const TSS_BYTES = 0x68;
const TSS = { esp0: 4, ss0: 8 } as const;
/** Where TLS descriptors begin in the GDT. */
const TLS_AT = GDT_ENTRY.tls * 8;

function out(m: MachinePort, kind: number, port: number, value: number): Operation {
  const op = m.op(kind, 0, value >>> 0);
  op.d = port;
  return op;
}

export function nativeCpu(m: MachinePort): PvCpu {
  const pseudoDescriptor = function* ({ base, sizeBytes }: TableRegister): Task<number> {
    yield m.writeBytes(KERNEL_PAGES.scratch, Uint8Array.of((sizeBytes - 1) & 0xff, (sizeBytes - 1) >>> 8, base & 0xff, (base >>> 8) & 0xff, (base >>> 16) & 0xff, base >>> 24));
    return KERNEL_PAGES.scratch;
  };
  const readTable = function* (kind: number): Task<TableRegister> {
    yield m.op(kind, KERNEL_PAGES.scratch);
    const words = yield m.load64(KERNEL_PAGES.scratch);
    return { base: ((words >>> 16) | (m.hi << 16)) >>> 0, sizeBytes: (words & 0xffff) + 1 };
  };
  const storeDescriptor = function* (table: number, index: number, { lo, hi }: Descriptor): Task {
    yield m.store32(table + index * 8, lo);
    yield m.store32(table + index * 8 + 4, hi);
  };
  return {
    ...sharedCpu(m),
    *get_debugreg() { return yield m.op(OP.readDr); },
    *set_debugreg(_index, value) { yield m.op(OP.writeDr, 0, value); },
    *clts() { yield m.op(OP.clts); },
    *write_cr0(value) { yield m.op(OP.writeCr0, 0, value); },
    *write_cr4(value) { yield m.op(OP.writeCr4, 0, value); },
    *load_tr_desc() {
      const base = KERNEL_PAGES.tss;
      yield* storeDescriptor(KERNEL_PAGES.gdt, GDT_ENTRY.tss, { lo: (((base & 0xffff) << 16) | (TSS_BYTES - 1)) >>> 0, hi: ((base & 0xff00_0000) | 0x8900 | ((base >>> 16) & 0xff)) >>> 0 });
      yield m.store32(base + TSS.ss0, kernelDs(RPL));
      yield m.op(OP.ltr, 0, GDT_ENTRY.tss * 8);
    },
    *load_gdt(table) { yield m.op(OP.lgdt, yield* pseudoDescriptor(table)); },
    *load_idt(table) { yield m.op(OP.lidt, yield* pseudoDescriptor(table)); },
    *store_gdt() { return yield* readTable(OP.sgdt); },
    *store_idt() { return yield* readTable(OP.sidt); },
    // The kernel has no LDT: LLDT with a null selector.
    *set_ldt() { yield m.op(OP.lldt, 0, 0); },
    *store_tr() { return yield m.op(OP.str); },
    *load_tls({ tls }) { for (let i = 0; i < 3; i++) yield* storeDescriptor(KERNEL_PAGES.gdt + TLS_AT, i, tls[i] as Descriptor); },
    write_ldt_entry: storeDescriptor,
    write_gdt_entry: storeDescriptor,
    *write_idt_entry(table, gate) { yield* storeDescriptor(table, gate.vector, gateWords(gate, kernelCs(RPL))); },
    *load_esp0({ esp0 }) { yield m.store32(KERNEL_PAGES.tss + TSS.esp0, esp0); },
    set_iopl_mask: nothing,
    *iret() { yield m.op(OP.iret); },
    lazy_mode: { enter: nothing, leave: nothing },
  };
}

export function nativeIrq(m: MachinePort): PvIrq {
  const enable = function* (): Task { yield m.op(OP.sti); };
  const disable = function* (): Task { yield m.op(OP.cli); };
  const halt = function* (): Task { yield m.op(OP.hlt); };
  return {
    init_IRQ: nothing,
    *save_fl() { return (yield m.op(OP.readFlags)) & IF; },
    *restore_fl(flags) { yield* (flags & IF) !== 0 ? enable() : disable(); },
    irq_disable: disable, irq_enable: enable,
    // STI holds interrupts back until the instruction behind it has begun.
    *safe_halt() {
      yield* enable();
      yield* halt();
    },
    halt,
    *pending_irqs() { return [TIMER_IRQ]; },
    unmask_irq: nothing, mask_irq: nothing,
  };
}

export function nativeTime(m: MachinePort, cpu: PvCpu): PvTime {
  return {
    *time_init() { yield* cpu.write_idt_entry(KERNEL_PAGES.idt, { vector: TIMER_VECTOR, handler: entryVaddr('timer'), dpl: 0, masks: true }); },
    *get_wallclock() { return 0; },
    *set_wallclock() { return 0; },
    // The bare machine's counter runs at 1 GHz.
    *sched_clock() { return yield* cpu.read_tsc(); },
    *get_cpu_khz() { return 1_000_000; },
    *set_next_event(deadlineNs) {
      yield out(m, OP.out32, BARE_PORT.timerLow, deadlineNs);
      yield out(m, OP.out32, BARE_PORT.timerHigh, Math.floor(deadlineNs / 0x1_0000_0000));
    },
  };
}

class TextPort implements ConsolePort {
  readonly #m: MachinePort;
  constructor(m: MachinePort) {
    this.#m = m;
  }
  *write(bytes: Uint8Array): Task {
    for (const byte of bytes) yield out(this.#m, OP.out8, BARE_PORT.text, byte);
  }
}

function nativeInit(m: MachinePort): PvInit {
  let bootWords = 0;
  return {
    patch: () => 0,
    attach() { bootWords = m.registers.reg(REG.esi); },
    banner: () => 'Booting on bare hardware',
    arch_setup: nothing,
    *memory_setup() {
      const pages = yield m.load32(bootWords + BOOT_WORDS.pages);
      const pgdVaddr = yield m.load32(bootWords + BOOT_WORDS.pgdVaddr);
      const firstFreePfn = yield m.load32(bootWords + BOOT_WORDS.firstFreePfn);
      return { pgdVaddr, ranges: [{ fromPfn: 0, toPfn: firstFreePfn, free: false }, { fromPfn: firstFreePfn, toPfn: pages, free: true }] };
    },
    post_allocator_init: nothing,
    *shutdown(reason) { yield out(m, OP.out8, BARE_PORT.end, END_REASON[reason]); },
  };
}

export function nativePlatform(m: MachinePort, paging: Paging): Platform {
  const cpu = nativeCpu(m);
  return {
    ops: {
      info: { name: 'native', paravirt_enabled: false, kernel_rpl: RPL, shared_kernel_pmd: true },
      init: nativeInit(m), time: nativeTime(m, cpu), cpu, irq: nativeIrq(m), apic: noApic, mmu: nativeMmu(m, SHAPES[paging]),
    },
    console: new TextPort(m),
    *drivers(kernel: Kernel) {
      kernel.traps.onIrq(TIMER_IRQ, () => kernel.scheduler.tick());
      yield m.compute(1);
    },
  };
}
