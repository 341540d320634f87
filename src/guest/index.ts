// The model guest as data, and the making of it.
import type { PlantedBug } from '../abi/planted.ts';
import type { DriverPlan } from './drivers/plan.ts';
import type { GuestCode } from './guest-code.ts';
import { Kernel, type Platform } from './kernel/kernel.ts';
import { nativePlatform } from './native/index.ts';
import type { MachinePort } from './operations.ts';
import type { Paging } from './pte.ts';
import { shadowPlatform } from './shadow/index.ts';
import type { UserStep } from './user-program.ts';
import { xenPlatform } from './xen/index.ts';
import type { PinDiscipline, PinningBug } from './xen/state.ts';

/**
 * xen: direct tables, in a world with Xen. lguest, vmi, kvm: shadow tables, in a world of their own.
 * native: bare tables, on a machine without (sim/model/bare-machine.ts).
 */
export type BackendName = 'xen' | 'native' | 'lguest' | 'vmi' | 'kvm';

/** Everything that decides what the guest does. A recording carries it. */
export interface ModelGuest {
  readonly guest: 'paravirt';
  /** On what the kernel runs. */
  readonly backend: BackendName;
  readonly paging: Paging;
  /** When page tables are pinned; default late. */
  readonly pinning?: PinDiscipline;
  /** A mistake to be found. */
  readonly bug?: PinningBug;
  /** What the first process does. */
  readonly program: readonly UserStep[];
  /** What its drivers do, on Xen; without one it has none. */
  readonly drivers?: DriverPlan;
}

/** `planted`: a mistake of its world's. */
export function createModelGuest(spec: ModelGuest, m: MachinePort, planted?: PlantedBug): GuestCode & { readonly kernel: Kernel } {
  const platform = platformOf(spec, m, planted);
  const kernel = new Kernel(m, platform, { paging: spec.paging, program: spec.program, planted });
  return Object.assign(kernel, { kernel });
}

function platformOf({ backend, paging, pinning, bug, drivers }: ModelGuest, m: MachinePort, planted: PlantedBug | undefined): Platform {
  switch (backend) {
    case 'native':
      return nativePlatform(m, paging);
    case 'xen':
      return xenPlatform(m, paging, { discipline: pinning ?? 'late', bug, planted }, drivers);
    default:
      return shadowPlatform(m, paging, backend);
  }
}
