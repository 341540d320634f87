// Whether MMX and SSE may be used now, and how MMX lives in the x87's registers.
// Sources: SDM vol. 3, tables 2-1, 13-1 and 12-1 to 12-3; vol. 1, 9.5.
import { CR0, CR4, type Core } from '../core.ts';
import { type Exception, VECTOR } from '../exit.ts';
import type { SimdUnit } from '../ir.ts';
import { STATE } from '../state-layout.ts';
import { isPending, setTop } from '../x87/unit.ts';

/** CPUID.1 EDX. */
export const CPUID_EDX = { clfsh: 1 << 19, mmx: 1 << 23, fxsr: 1 << 24, sse: 1 << 25, sse2: 1 << 26 } as const;
/** By iced's names. */
export const SIMD_FEATURES: Readonly<Record<string, number>> = { CLFSH: CPUID_EDX.clfsh, MMX: CPUID_EDX.mmx, FXSR: CPUID_EDX.fxsr, SSE: CPUID_EDX.sse, SSE2: CPUID_EDX.sse2 };

const UD: Exception = { vector: VECTOR.UD };
const NM: Exception = { vector: VECTOR.NM };
const MF: Exception = { vector: VECTOR.MF };

export function unitRefused(core: Core, unit: SimdUnit): Exception | undefined {
  const cr0 = core.get32(STATE.cr0);
  if ((cr0 & CR0.EM) !== 0 || (unit === 'sse' && (core.get32(STATE.cr4) & CR4.OSFXSR) === 0)) return UD;
  if ((cr0 & CR0.TS) !== 0) return NM;
  // Without CR0.NE it is FERR#, which this machine has not (system/x87-memory.ts).
  return unit === 'mmx' && isPending(core) && (cr0 & CR0.NE) !== 0 ? MF : undefined;
}

export function enterMmx(core: Core): void {
  setTop(core, 0);
  core.set32(STATE.fpuFull, 0xff);
}
