// XENMEM_exchange: frames of the domain are swapped for fresh ones, chunk by chunk; a chunk that
// fails leaves the earlier ones exchanged. Source: memory_exchange(), xen/common/memory.c.
import { ERRNO } from '../../abi/errno.ts';
import { EVENT } from '../../abi/events.ts';
import type { Vcpu } from '../domain.ts';
import { domainByAnyId, mayControl } from '../foreign-domain.ts';
import { adoptFrame, freeRun, stealFrame, takeFreeRun } from '../frame-ownership.ts';
import { done, type HypercallOutcome } from '../hypercall.ts';
import { emitMm } from '../mm-events.ts';
import { releaseFrame, type Hypervisor } from '../hypervisor.ts';
import { MAX_ORDER, parseReservation, reservationBytes } from './memory.ts';

export function memoryExchange(hv: Hypervisor, vcpu: Vcpu, arg: number): HypercallOutcome {
  const { access } = hv;
  const word = vcpu.domain.abi.wordBits / 8;
  const size = reservationBytes(vcpu);
  if (!access.read(vcpu, arg, size * 2 + word)) return done(-ERRNO.EFAULT);
  const input = parseReservation(hv, vcpu, 0);
  const output = parseReservation(hv, vcpu, size);
  const already = access.view.getUint32(size * 2, true) + (word === 8 ? access.view.getUint32(size * 2 + 4, true) * 0x1_0000_0000 : 0);
  let exchanged = already;
  const fail = (rc: number): HypercallOutcome => done(access.writeWord(vcpu, arg + size * 2, exchanged) ? rc : -ERRNO.EFAULT);

  if (Math.max(input.order, output.order) > MAX_ORDER) return fail(-ERRNO.EPERM);
  if (already > input.count || input.domId !== output.domId || input.count * 2 ** input.order !== output.count * 2 ** output.order) return fail(-ERRNO.EINVAL);
  if (already === input.count) return done(0);
  const domain = domainByAnyId(hv, vcpu.domain, input.domId);
  if (domain === undefined) return fail(-ERRNO.ESRCH);
  if (!mayControl(vcpu.domain, domain.domId)) return fail(-ERRNO.EPERM);

  // A chunk is the larger extent of the two: so many on the other side.
  const inPerChunk = 2 ** Math.max(output.order - input.order, 0);
  const outPerChunk = 2 ** Math.max(input.order - output.order, 0);
  for (let chunk = Math.floor(already / inPerChunk); chunk < input.count / inPerChunk; chunk++) {
    const stolen: number[] = [];
    const fresh: number[] = [];
    let rc = 0;
    for (let j = 0; j < inPerChunk && rc === 0; j++) {
      const first = access.readWord(vcpu, input.extents + (chunk * inPerChunk + j) * word);
      if (first === undefined) rc = -ERRNO.EFAULT;
      for (let k = 0; k < 2 ** input.order && rc === 0; k++) {
        rc = stealFrame(hv, domain, (first as number) + k, false, hv.rules.exchangeNeedsSoleReference);
        if (rc === 0) stolen.push((first as number) + k);
      }
    }
    for (let j = 0; j < outPerChunk && rc === 0; j++) {
      const first = takeFreeRun(hv, output.order);
      if (first === undefined) rc = -ERRNO.ENOMEM;
      else fresh.push(first);
    }
    if (rc !== 0) {
      for (const mfn of stolen) adoptFrame(hv, domain, mfn, false);
      for (const first of fresh) freeRun(hv, first, output.order);
      exchanged = chunk * inPerChunk;
      return fail(rc);
    }
    for (const mfn of stolen) {
      releaseFrame(hv, mfn);
      emitMm(hv, EVENT.frameTaken, mfn);
    }
    fresh.forEach((first, j) => {
      for (let k = 0; k < 2 ** output.order; k++) adoptFrame(hv, domain, first + k, false);
      const at = output.extents + (chunk * outPerChunk + j) * word;
      const pfn = access.readWord(vcpu, at);
      if (pfn === undefined) rc = -ERRNO.EFAULT;
      else {
        for (let k = 0; k < 2 ** output.order; k++) {
          hv.frames.setM2p(first + k, (pfn + k) >>> 0, Math.floor((pfn + k) / 0x1_0000_0000) >>> 0);
          emitMm(hv, EVENT.frameGiven, first + k, (pfn + k) >>> 0);
        }
        if (!access.writeWord(vcpu, at, first)) rc = -ERRNO.EFAULT;
      }
    });
    if (rc !== 0) {
      exchanged = chunk * inPerChunk;
      return fail(rc);
    }
  }
  exchanged = input.count;
  return done(access.writeWord(vcpu, arg + size * 2, exchanged) ? 0 : -ERRNO.EFAULT);
}
