// vm_assist: switches of the hypervisor's behaviour for a domain. Source: do_vm_assist(),
// xen/common/domain.c; the valid types in xen/arch/x86/include/asm/domain.h.
import { ERRNO } from '../../abi/errno.ts';
import type { Vcpu } from '../domain.ts';
import { done, type HypercallArgs, type HypercallOutcome, type HypercallRow } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { hasAssist, VMASST } from '../page-tables.ts';

const CMD = { enable: 0, disable: 1 } as const;

/** Types 0..5 for everybody (4gb_segments .. runstate_update_flag), m2p_strict for 64-bit guests. */
const validType = (vcpu: Vcpu, type: number): boolean => type <= 5 || (type === VMASST.m2pStrict && vcpu.domain.abi.wordBits === 64);

function vmAssist(_hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const command = args.u32(0);
  const type = args.u32(1);
  if (!validType(vcpu, type)) return done(-ERRNO.EINVAL);
  if (command !== CMD.enable && command !== CMD.disable) return done(-ERRNO.ENOSYS);
  const { domain } = vcpu;
  const on = command === CMD.enable;
  if (hasAssist(domain, type) !== on) domain.vmAssist += on ? 2 ** type : -(2 ** type);
  return done(0);
}

export const vmAssistRows: Record<number, HypercallRow> = {
  21: { name: 'vm_assist', handle: vmAssist, args: [{ name: 'cmd', kind: 'cmd' }, { name: 'type', kind: 'u32' }], commands: { 0: 'enable', 1: 'disable' } },
};
