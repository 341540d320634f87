// multicall: a list of hypercalls in guest memory, each with its own result; may not nest.
// Source: do_multicall(), xen/common/multicall.c.
import { ERRNO } from '../../abi/errno.ts';
import type { Vcpu } from '../domain.ts';
import { guestAddressOk } from '../guest-access.ts';
import { dispatchHypercall } from '../dispatch.ts';
import { done, HypercallArgs, type HypercallOutcome, type HypercallRow } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { emitMulticallEntry } from '../mm-events.ts';
import { preemptCheck } from '../page-types.ts';

const IRET = 23;
/** Arguments of an element that handlers can see; the sixth is never passed on. */
const ARGS = 5;
/** The element at hand: multicalls do not nest. */
const ELEMENT_BYTES = 64;
const element = new Uint8Array(ELEMENT_BYTES);
const elementView = new DataView(element.buffer);
const callArgs = new HypercallArgs();

function multicall(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  if (vcpu.inMulticall) return done(-ERRNO.EINVAL);
  vcpu.inMulticall = true;
  const outcome = runList(hv, vcpu, args.addr(0), vcpu.domain.abi.wordBits === 64 ? args.u64(1) : args.u32(1));
  vcpu.inMulticall = false;
  return outcome;
}

function runList(hv: Hypervisor, vcpu: Vcpu, list: number, count: number): HypercallOutcome {
  const wide = vcpu.domain.abi.wordBits === 64;
  const word = wide ? 8 : 4;
  const size = 8 * word;
  if (!guestAddressOk(vcpu.domain.abi, list)) return done(-ERRNO.EFAULT);
  for (let i = 0; i < count; i++) {
    const at = list + i * size;
    if (i > 0 && preemptCheck(hv)) return { kind: 'continuation', args: [at, count - i] };
    if (!hv.access.read(vcpu, at, size)) return done(-ERRNO.EFAULT);
    element.set(hv.access.bytes.subarray(0, size));
    const view = elementView;
    const number = view.getUint32(0, true) + (wide ? view.getUint32(4, true) * 0x1_0000_0000 : 0);
    callArgs.lo.fill(0);
    callArgs.hi.fill(0);
    for (let arg = 0; arg < ARGS; arg++) {
      callArgs.lo[arg] = view.getUint32((2 + arg) * word, true);
      if (wide) callArgs.hi[arg] = view.getUint32((2 + arg) * word + 4, true);
    }
    const outcome = dispatchHypercall(hv, vcpu, number, callArgs);
    emitMulticallEntry(hv, vcpu, i, number, callArgs, outcome);
    // Debug builds spoil the element, so that guests depend on nothing but the result.
    if (hv.build.clobbersArguments) hv.access.write(vcpu, at, new Uint8Array(size).fill(0xaa));
    if (outcome.kind === 'continuation') {
      // The element becomes the rest of its own call, and the multicall starts again with it.
      outcome.args.forEach((value, arg) => setWord(view, 2 + arg, word, value));
      setWord(view, 1, word, number);
      return hv.access.write(vcpu, at, element.slice(0, size)) ? { kind: 'continuation', args: [at, count - i] } : done(-ERRNO.EFAULT);
    }
    if (outcome.kind === 'fault') return outcome;
    if (outcome.kind === 'noReturn') return outcome;
    if (!(wide ? hv.access.writeU64(vcpu, at + word, outcome.rc) : hv.access.writeU32(vcpu, at + word, outcome.rc >>> 0)) && number !== IRET) return done(-ERRNO.EFAULT);
    if (vcpu.domain.life.kind !== 'running') return { kind: 'noReturn' };
  }
  return done(0);
}

function setWord(view: DataView, index: number, word: number, value: number): void {
  view.setUint32(index * word, value >>> 0, true);
  if (word === 8) view.setUint32(index * word + 4, Math.floor(value / 0x1_0000_0000) >>> 0, true);
}

export const multicallRows: Record<number, HypercallRow> = {
  13: { name: 'multicall', handle: multicall, args: [{ name: 'calls', kind: 'handle' }, { name: 'count', kind: 'count' }] },
};
