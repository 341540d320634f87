// One vCPU's processor state in linear memory: a table of slots that the evaluator, the translator,
// checkpoints and digests all read. Slots are 8 bytes. 32-bit code uses the low halves; high halves of
// GPRs are zero in 32-bit mode. Addresses as numbers: address.ts.

export const GPR_NAMES = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const;
/** Segment registers in the encoding order of x86. */
export const SEG = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5 } as const;
export const SEG_NAMES = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;

/** Byte offsets from the vCPU's state base. */
export const STATE = {
  gpr: 0, // 16 slots
  rip: 128,
  /** System and direction bits of rflags; the six status bits live in flagOp/flagA/flagB/flagR (flags.ts). */
  eflagsRest: 136,
  flagOp: 144,
  flagA: 152,
  flagB: 160,
  flagR: 168,
  /** 6 x { selector u64, base u64, limit u64 (bytes, inclusive), access u64 (descriptor bits 40..55 as in VMX access rights; 0x10000 = unusable) } */
  seg: 176,
  ldtr: 368, // the same 32-byte shape
  tr: 400,
  gdtrBase: 432, gdtrLimit: 440,
  idtrBase: 448, idtrLimit: 456,
  cr0: 464, cr2: 472, cr3: 480, cr4: 488, efer: 496,
  dr: 504, // 8 slots
  /** PAE page-directory-pointer entries as loaded by the last CR3 load (4 x u64). */
  pdpte: 568,
  cpl: 600,
  /** Key of everything translated code is specialised for (mode.ts); recomputed when its inputs change. */
  mode: 608,
  /** Current fetch page: linear page number (vaddr >>> 12) or -1, and its machine address. See tlb.ts. */
  fetchVpn: 616, fetchMaddr: 624,
  /** Instructions retired since the vCPU was made (u64; a double would do: < 2^53). */
  retired: 632,
  /** Remaining budget of the current run, i32 (<= 2^31-1 per run). */
  budget: 640,
  /** TSC value = tscBase + retired * tscPerInsn (u64 arithmetic); the owner of time sets tscBase. */
  tscBase: 648, tscPerInsn: 656,
  /** Interrupt shadow of STI / MOV SS: 1 until the next instruction has retired. */
  shadow: 664,
  sysenterCs: 672, sysenterEsp: 680, sysenterEip: 688,
  /** x87 control and status word, u32 each. */
  fpuControl: 696, fpuStatus: 700,
  /** x87 registers by number (not by place in the stack), 16 bytes each: significand u64, sign and exponent u32. */
  fpuReg: 704,
  /** Bit n: register n is not empty; what a tag word says beyond that is read off the register. */
  fpuFull: 832,
  /** Of the last instruction that was not of control: 11 bits of opcode, its own address, its memory operand's. u32 each. */
  fpuOpcode: 836, fpuIp: 840, fpuCs: 844, fpuDp: 848, fpuDs: 852,
  /** Control and status of SSE (u32), and the vector registers XMM0 to XMM15, 16 bytes each. MMX registers are those of the x87. */
  mxcsr: 856,
  xmm: 864,
  /** Upper halves of fpuIp and fpuDp, in 64-bit mode. */
  fpuIpHigh: 1120, fpuDpHigh: 1124,
  /** Long mode's own registers. `tables`: 1 while the processor runs on the second set of translations (Cpu.switchTables). */
  kernelGsBase: 1128, star: 1136, lstar: 1144, cstar: 1152, fmask: 1160, tscAux: 1168, cr8: 1176, tables: 1184,
} as const;
/** STATE.shadow: what holds back external interrupts (both) and single-step traps (SS only) until the next instruction has retired. `new`: set by the current one. */
export const SHADOW = { none: 0, sti: 1, ss: 2, newSti: 3, newSs: 4 } as const;
export const SEG_SLOT_BYTES = 32;
export const STATE_BYTES = 1216;
/** Bytes [0, ARCH_STATE_BYTES) are architectural and go into digests and checkpoints. */
export const ARCH_STATE_BYTES = 1192;
export const XMM_NAMES = Array.from({ length: 16 }, (_, i) => `xmm${i}`);
export const MXCSR_RESET = 0x1f80;
export const FPU_CONTROL_RESET = 0x37f;
