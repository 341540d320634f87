// The instructions of the x87 that this core performs, by iced's mnemonics: each is a system row.
// Not here: FISTTP, which came with SSE3.
export const X87_NAMES = [
  'Fld', 'Fst', 'Fstp', 'Fstpnce', 'Fild', 'Fist', 'Fistp', 'Fbld', 'Fbstp', 'Fld1', 'Fldz', 'Fldpi', 'Fldl2e', 'Fldln2', 'Fldl2t', 'Fldlg2',
  'Fadd', 'Faddp', 'Fiadd', 'Fsub', 'Fsubp', 'Fisub', 'Fsubr', 'Fsubrp', 'Fisubr', 'Fmul', 'Fmulp', 'Fimul', 'Fdiv', 'Fdivp', 'Fidiv', 'Fdivr', 'Fdivrp', 'Fidivr',
  'Fsqrt', 'Frndint', 'Fscale', 'Fxtract', 'Fprem', 'Fprem1', 'Fabs', 'Fchs', 'Fsin', 'Fcos', 'Fsincos', 'Fptan', 'Fpatan', 'F2xm1', 'Fyl2x', 'Fyl2xp1',
  'Fcom', 'Fcomp', 'Fcompp', 'Fucom', 'Fucomp', 'Fucompp', 'Ficom', 'Ficomp', 'Fcomi', 'Fcomip', 'Fucomi', 'Fucomip', 'Ftst', 'Fxam',
  'Fcmovb', 'Fcmove', 'Fcmovbe', 'Fcmovu', 'Fcmovnb', 'Fcmovne', 'Fcmovnbe', 'Fcmovnu', 'Fxch', 'Ffree', 'Ffreep', 'Fincstp', 'Fdecstp', 'Fnop',
  'Fninit', 'Fnclex', 'Fnstsw', 'Fnstcw', 'Fldcw', 'Fnstenv', 'Fldenv', 'Fnsave', 'Frstor', 'Wait', 'Fndisi', 'Fneni', 'Fnsetpm',
] as const;
