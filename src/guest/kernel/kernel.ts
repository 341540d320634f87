// A small kernel that knows no hypervisor: whatever differs between them is behind ParavirtOps. It
// starts, runs processes (user-program.ts) and kernel threads, and stops when there is nothing left.
//
//   start      memory map, direct map, descriptor tables, interrupts, time, first process
//   entries    system calls, page faults, interrupts: kernel/traps.ts
//   scheduler  kernel/scheduler.ts
import type { PlantedBug } from '../../abi/planted.ts';
import { entryVaddr, type EntryName } from '../entries.ts';
import type { GuestCode } from '../guest-code.ts';
import { OP, REG, type MachinePort, type Operation, type Task } from '../operations.ts';
import type { ConsolePort, ParavirtOps } from '../paravirt-ops/index.ts';
import type { Gate, KernelServices, Mm } from '../paravirt-ops/types.ts';
import { PTE, SHAPES, type Paging, type TableShape } from '../pte.ts';
import { compileProgram, INSTRUCTION_BYTES, SYSCALL, USER_TEXT, type UserStep } from '../user-program.ts';
import { AddressSpace } from './address-space.ts';
import { FrameAllocator } from './frames.ts';
import { KERNEL_PAGES } from './layout.ts';
import { Memory } from './memory.ts';
import { PageTables, pfnToVaddr, vaddrToPfn } from './page-tables.ts';
import { Process } from './process.ts';
import { Scheduler } from './scheduler.ts';
import { flatDescriptors, GDT_ENTRIES } from './segments.ts';
import { Traps } from './traps.ts';

export interface KernelOptions {
  readonly paging: Paging;
  /** The first process. */
  readonly program: readonly UserStep[];
  /** A mistake to be found. */
  readonly planted?: PlantedBug | undefined;
}

/** What a back end gives a kernel. */
export interface Platform {
  readonly ops: ParavirtOps;
  readonly console: ConsolePort;
  /** Threads of drivers, started before the first process. */
  drivers?(kernel: Kernel): Task;
}

/** Exceptions with their vectors. All switch interrupts off on entry. */
const EXCEPTIONS: readonly (readonly [number, EntryName])[] = [
  [0, 'divide'], [1, 'debug'], [2, 'nmi'], [3, 'breakpoint'], [4, 'overflow'], [5, 'bounds'], [6, 'invalidOpcode'], [7, 'deviceNotAvailable'], [8, 'doubleFault'],
  [10, 'invalidTss'], [11, 'segmentNotPresent'], [12, 'stackSegment'], [13, 'generalProtection'], [14, 'pageFault'],
];
const SYSCALL_VECTOR = 0x80;
const DIRECT_MAP_FLAGS = PTE.present | PTE.rw | PTE.accessed | PTE.dirty;

export class Kernel implements GuestCode, KernelServices {
  readonly m: MachinePort;
  readonly ops: ParavirtOps;
  readonly options: KernelOptions;
  readonly platform: Platform;
  readonly shape: TableShape;
  hypervisorStart = 2 ** 32;
  initMm!: Mm;
  frames!: FrameAllocator;
  tables!: PageTables;
  memory!: Memory;
  scheduler!: Scheduler;
  readonly traps: Traps;
  /** Why the kernel gave up, if it did. */
  panicked: string | undefined;
  /** Frames that were free before the first process began. */
  framesAtStart = 0;
  #totalPages = 0;

  constructor(m: MachinePort, platform: Platform, options: KernelOptions) {
    this.m = m;
    this.platform = platform;
    this.ops = platform.ops;
    this.options = options;
    this.shape = SHAPES[options.paging];
    this.traps = new Traps(this);
  }

  // -- what back ends may ask -----------------------------------------------------------------------

  activeMm(): Mm {
    return this.memory?.active ?? this.initMm;
  }
  allMms(): readonly Mm[] {
    return this.memory?.live ?? [];
  }
  pfnToVaddr = pfnToVaddr;
  vaddrToPfn = vaddrToPfn;
  *lowmemEntry(vaddr: number): Task<number> {
    return yield* this.tables.findL1(this.initMm, vaddr);
  }
  *print(text: string): Task {
    yield* this.platform.console.write(Uint8Array.from(`${text}\r\n`, (char) => char.charCodeAt(0) & 0x7f));
  }

  // -- start ----------------------------------------------------------------------------------------

  enter(entry: EntryName): Task {
    return entry === 'start' ? this.#start() : this.traps.enter(entry);
  }

  *#start(): Task {
    const { init, irq, time, mmu } = this.ops;
    init.patch(0);
    init.attach(this);
    yield* this.#setUpMemory();
    yield* this.#setUpDescriptors();
    yield* init.arch_setup();
    yield* irq.init_IRQ();
    yield* time.time_init();
    yield* init.post_allocator_init();
    yield* this.print(init.banner());
    this.memory = new Memory(this.tables, this.initMm, vaddrToPfn(KERNEL_PAGES.zero));
    this.scheduler = new Scheduler(this);
    yield* mmu.flush_tlb_kernel();
    if (this.platform.drivers !== undefined) yield* this.platform.drivers(this);
    this.framesAtStart = this.frames.freeCount;
    const first = yield* this.newProcess(undefined);
    if (first === undefined) return yield* this.panic('no memory for the first process');
    yield* this.scheduler.run();
  }

  *#setUpMemory(): Task {
    const { init, mmu } = this.ops;
    const { ranges, pgdVaddr } = yield* init.memory_setup();
    this.#totalPages = Math.max(...ranges.map((range) => range.toPfn));
    this.frames = new FrameAllocator(this.#totalPages);
    for (const range of [...ranges].reverse()) if (range.free) this.frames.add(range.fromPfn, range.toPfn);
    this.initMm = new AddressSpace(0, pgdVaddr, vaddrToPfn(pgdVaddr));
    this.tables = new PageTables(this.m, this.ops, this.shape, this.frames, () => this.hypervisorStart);
    yield* mmu.pagetable_setup_start(this.initMm);
    if (!(yield* this.tables.mapDirect(this.initMm, 0, this.#totalPages, DIRECT_MAP_FLAGS))) yield* this.panic('no memory for the direct map');
    yield* mmu.pagetable_setup_done(this.initMm);
  }

  *#setUpDescriptors(): Task {
    const { cpu, info } = this.ops;
    for (const [index, entry] of flatDescriptors(info.kernel_rpl)) yield* cpu.write_gdt_entry(KERNEL_PAGES.gdt, index, entry);
    yield* cpu.load_gdt({ base: KERNEL_PAGES.gdt, sizeBytes: GDT_ENTRIES * 8 });
    yield* cpu.load_tr_desc();
    for (const [vector, entry] of EXCEPTIONS) yield* this.#gate({ vector, handler: entryVaddr(entry), dpl: vector === 3 || vector === 4 ? 3 : 0, masks: true });
    yield* this.#gate({ vector: SYSCALL_VECTOR, handler: entryVaddr('syscall'), dpl: 3, masks: true });
    yield* cpu.load_idt({ base: KERNEL_PAGES.idt, sizeBytes: 256 * 8 });
    yield* cpu.set_ldt(0, 0);
  }
  *#gate(gate: Gate): Task {
    yield* this.ops.cpu.write_idt_entry(KERNEL_PAGES.idt, gate);
  }

  /** Gives up: says why, and stops as a crash. */
  *panic(why: string): Task {
    this.panicked ??= why;
    yield* this.ops.irq.irq_disable();
    yield* this.print(`kernel panic: ${why}`);
    yield* this.ops.init.shutdown('crash');
  }

  // -- processes ------------------------------------------------------------------------------------

  /** The first process, or a child whose address space the caller sets up. */
  *newProcess(parent: Process | undefined): Task<Process | undefined> {
    const stack = yield* this.tables.zeroedFrame();
    if (stack === undefined) return undefined;
    const path = parent === undefined ? '0' : `${parent.path}.${parent.forks++}`;
    const text = parent?.text ?? compileProgram(this.options.program);
    const process = new Process(this.scheduler.nextPid(), path, parent, text, stack, pfnToVaddr(stack));
    if (parent === undefined) {
      process.mm = yield* this.memory.create();
      if (process.mm === undefined) return undefined;
      yield* this.traps.startFrame(process, USER_TEXT);
      this.scheduler.add(process);
    }
    return process;
  }

  // -- user code ------------------------------------------------------------------------------------

  fetchUser(eip: number, op: Operation): boolean {
    const instruction = this.scheduler.current?.text.instructions[(eip - USER_TEXT) / INSTRUCTION_BYTES];
    if (instruction === undefined) return false;
    switch (instruction.kind) {
      case 'store':
        op.kind = OP.store32;
        op.a = instruction.at;
        op.b = instruction.value;
        return true;
      case 'load':
        op.kind = OP.load32;
        op.a = instruction.at;
        return true;
      case 'syscall':
        op.kind = OP.hypercall;
        op.a = SYSCALL_VECTOR;
        return true;
      case 'compute':
        op.kind = OP.compute;
        op.cost = instruction.insns;
        return true;
      case 'jump':
        op.kind = OP.compute;
        return true;
    }
  }

  retireUser(eip: number, op: Operation, answer: number): number {
    const { registers } = this.m;
    const process = this.scheduler.current as Process;
    const instruction = process.text.instructions[(eip - USER_TEXT) / INSTRUCTION_BYTES];
    if (instruction?.kind === 'load') process.saw(`load ${hex(op.a)} = ${hex(answer)}`);
    else if (instruction?.kind === 'syscall') {
      const { args } = instruction;
      registers.setReg(REG.eax, SYSCALL[instruction.name]);
      registers.setReg(REG.ebx, args[0] ?? 0);
      registers.setReg(REG.ecx, args[1] ?? 0);
      registers.setReg(REG.edx, args[2] ?? 0);
    } else if (instruction?.kind === 'jump' && (!instruction.ifZero || registers.reg(REG.eax) === 0)) return USER_TEXT + instruction.to * INSTRUCTION_BYTES;
    return eip + INSTRUCTION_BYTES;
  }
}

const hex = (value: number): string => `0x${(value >>> 0).toString(16)}`;
