// Near transfers; and the instructions that are performed in TypeScript (system/), by name.
import { and1, cond, constant, flag, isZero, nonZero, not1, reg, sub, trunc } from '../expr.ts';
import type { Lowering, Row } from '../lower.ts';
import type { Expr, Width } from '../ir.ts';
import { X87_NAMES } from '../x87/names.ts';
import { quickOf } from '../x87/quick.ts';

const CONDITIONS: Readonly<Record<string, number>> = { Jo: 0, Jno: 1, Jb: 2, Jae: 3, Je: 4, Jne: 5, Jbe: 6, Ja: 7, Js: 8, Jns: 9, Jp: 10, Jnp: 11, Jl: 12, Jge: 13, Jle: 14, Jg: 15 };

const target = (l: Lowering): number => l.nearTarget() ?? 0;

/** Operand size of a near transfer: pushes and targets have it. */
const nearWidth = (l: Lowering): Width => {
  const { code } = l.insn;
  if (code === 'Retnw' || code === 'Retnw_imm16' || code === 'Call_rel16' || code === 'Call_rm16') return 16;
  return l.bits === 64 ? 64 : 32;
};

const call: Row = (l) => {
  const width = nearWidth(l);
  const direct = l.insn.operands[0]?.kind === 'near';
  const to: Expr = direct ? constant(width, target(l)) : l.let(l.read(0));
  l.push(trunc(width, l.nextRip(l.bits === 64 ? 64 : 32)), width);
  l.jump(to, 'call');
};
const ret: Row = (l) => {
  const width = nearWidth(l);
  const to = l.top(width);
  const operand = l.insn.operands[0];
  l.moveSp(width / 8 + (operand?.kind === 'imm' ? Number(operand.value) : 0));
  l.jump(to, 'ret');
};

/** LOOP, LOOPE, LOOPNE, JCXZ: the count register has the address size. */
const JCXZ_WIDTHS: Readonly<Record<string, Width>> = { Jcxz: 16, Jecxz: 32, Jrcxz: 64 };
const countWidth = (l: Lowering): Width => JCXZ_WIDTHS[l.insn.mnemonic] ?? (l.insn.code.endsWith('_RCX') ? 64 : l.insn.code.endsWith('_ECX') ? 32 : 16);
const loop = (also: Expr | undefined): Row => (l) => {
  const width = countWidth(l);
  const count = l.let(sub(reg(width, 1), constant(width, 1)));
  const taken = l.let(also === undefined ? nonZero(count) : and1(nonZero(count), also));
  l.setReg(width, 1, count);
  l.branch(taken, target(l));
};
const jcxz: Row = (l) => l.branch(isZero(reg(countWidth(l), 1)), target(l));

const system = (...names: readonly string[]): Record<string, Row> => Object.fromEntries(names.map((name) => [name, (l: Lowering) => l.system(name)]));

export const CONTROL_ROWS: Readonly<Record<string, Row>> = {
  Jmp: (l) => {
    const operand = l.insn.operands[0];
    if (operand?.kind === 'near') return l.jump(constant(l.bits === 64 ? 64 : 32, target(l)), 'direct');
    if (operand?.kind === 'far' || l.insn.code.startsWith('Jmp_m')) return l.system('jmpFar');
    l.jump(l.read(0), 'indirect');
  },
  Call: (l) => {
    if (l.insn.operands[0]?.kind === 'far' || l.insn.code.startsWith('Call_m')) return l.system('callFar');
    call(l);
  },
  Ret: ret,
  Retf: (l) => l.system('retFar'),
  Iret: (l) => l.system('iret'),
  Iretd: (l) => l.system('iret'),
  Iretq: (l) => l.system('iret'),
  ...Object.fromEntries(Object.entries(CONDITIONS).map(([name, cc]): [string, Row] => [name, (l) => l.branch(cond(cc), target(l))])),
  Loop: loop(undefined),
  Loope: loop(flag('zf')),
  Loopne: loop(not1(flag('zf'))),
  Jcxz: jcxz,
  Jecxz: jcxz,
  Jrcxz: jcxz,
  Enter: (l) => l.system('enter'),
  ...system(
    'Int', 'Int1', 'Int3', 'Into', 'Ud0', 'Ud1', 'Ud2', 'Hlt', 'Cli', 'Sti', 'In', 'Out', 'Insb', 'Insw', 'Insd', 'Outsb', 'Outsw', 'Outsd', 'Cpuid', 'Rdtsc', 'Rdtscp', 'Rdmsr', 'Wrmsr', 'Rdpmc', 'Clts', 'Lmsw', 'Smsw',
    'Lgdt', 'Lidt', 'Sgdt', 'Sidt', 'Lldt', 'Sldt', 'Ltr', 'Str', 'Lar', 'Lsl', 'Verr', 'Verw', 'Arpl', 'Lds', 'Les', 'Lfs', 'Lgs', 'Lss', 'Invlpg', 'Wbinvd', 'Invd', 'Sysenter', 'Sysexit', 'Sysexitq', 'Sysret', 'Sysretq', 'Swapgs',
    'Rsm', 'Syscall', 'Vmcall', 'Vmmcall', 'Xgetbv',
  ),
  ...Object.fromEntries(X87_NAMES.map((name): [string, Row] => [name, (l) => l.system(name, quickOf(l.insn, (at) => l.ref(at)))])),
};
