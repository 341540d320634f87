// How vCPUs and domains stop and go: block, wake, shut down, crash. The only place that tells the
// world about it. Sources: vcpu_block/vcpu_unblock, domain_shutdown, __domain_crash in Xen.
import { EVENT } from '../abi/events.ts';
import type { Domain, Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';
import { changeRunstate, RUNSTATE } from './time.ts';

/** SHUTDOWN_* of xen/include/public/sched.h. */
export const SHUTDOWN = { poweroff: 0, reboot: 1, suspend: 2, crash: 3, watchdog: 4, soft_reset: 5 } as const;
export const shutdownReasonName = (reason: number): string => Object.entries(SHUTDOWN).find(([, value]) => value === reason)?.[0] ?? `reason ${reason}`;

/** May this vCPU be given a turn? */
export const isRunnable = (vcpu: Vcpu): boolean => vcpu.online && !vcpu.blocked && !vcpu.domain.paused && vcpu.domain.life.kind === 'running';

/** The vCPU waits for an event (SCHEDOP_block), or for one of `ports` (SCHEDOP_poll). */
export function blockVcpu(hv: Hypervisor, vcpu: Vcpu, ports: readonly number[] | undefined): void {
  const { domId } = vcpu.domain;
  vcpu.blocked = true;
  vcpu.polling = ports === undefined ? undefined : { ports };
  changeRunstate(hv, vcpu, RUNSTATE.blocked);
  hv.world.emit(EVENT.vcpuBlocked, domId, vcpu.vcpuId, [ports === undefined ? 0 : 1]);
  hv.world.vcpuRunnable(domId, vcpu.vcpuId, false);
}

/** vcpu_unblock(): ends a block or a poll; nothing happens to one that is not blocked. */
export function wakeVcpu(hv: Hypervisor, vcpu: Vcpu): void {
  if (!vcpu.blocked) return;
  const { domId } = vcpu.domain;
  vcpu.blocked = false;
  if (vcpu.polling !== undefined && vcpu.timers.pollNs !== undefined) {
    vcpu.timers.pollNs = undefined;
    hv.world.setTimer(domId, vcpu.vcpuId, 'poll', undefined);
  }
  vcpu.polling = undefined;
  changeRunstate(hv, vcpu, RUNSTATE.runnable);
  if (!isRunnable(vcpu)) return;
  hv.world.emit(EVENT.vcpuRunnable, domId, vcpu.vcpuId, []);
  hv.world.vcpuRunnable(domId, vcpu.vcpuId, true);
}

/** SCHEDOP_yield: the turn goes to somebody else. */
export function yieldVcpu(hv: Hypervisor, vcpu: Vcpu): void {
  changeRunstate(hv, vcpu, RUNSTATE.runnable);
  hv.world.emit(EVENT.vcpuYielded, vcpu.domain.domId, vcpu.vcpuId, []);
  hv.world.yielded(vcpu.domain.domId, vcpu.vcpuId);
}

/** VCPUOP_up and _down. */
export function setVcpuOnline(hv: Hypervisor, vcpu: Vcpu, online: boolean): void {
  if (vcpu.online === online) return;
  const { domId } = vcpu.domain;
  vcpu.online = online;
  changeRunstate(hv, vcpu, online ? RUNSTATE.runnable : RUNSTATE.offline);
  hv.world.emit(online ? EVENT.vcpuUp : EVENT.vcpuDown, domId, vcpu.vcpuId, online ? [vcpu.cpu?.rip() ?? 0] : []);
  hv.world.vcpuRunnable(domId, vcpu.vcpuId, isRunnable(vcpu));
}

/** The domain stops for good (a suspend included: resuming is the toolstack's business). */
export function shutdownDomain(hv: Hypervisor, domain: Domain, reason: number, text = ''): void {
  if (domain.life.kind !== 'running') return;
  const shown = domain.shutdownCode ?? reason;
  domain.life = { kind: 'shutdown', reason: shown };
  const line = text === '' ? `domain ${domain.name} shut down: ${shutdownReasonName(shown)}` : `domain ${domain.name} shut down: ${text}`;
  hv.world.emit(EVENT.domainShutdown, domain.domId, 0, [shown], encodeText(line));
  stopVcpus(hv, domain);
  hv.world.domainShutdown(domain.domId, shown, line);
}

/** Xen kills the domain. `why` is one sentence that a user can act on. */
export function crashDomain(hv: Hypervisor, domain: Domain, why: string, vcpu?: Vcpu): void {
  if (domain.life.kind !== 'running') return;
  domain.life = { kind: 'crashed', why };
  hv.world.emit(EVENT.domainCrashed, domain.domId, vcpu?.vcpuId ?? 0, [vcpu?.cpu?.rip() ?? 0], encodeText(why));
  stopVcpus(hv, domain);
  hv.world.domainShutdown(domain.domId, SHUTDOWN.crash, why);
}

/**
 * A suspended domain goes on where it stopped: its SCHEDOP_shutdown returns 1, "cancelled", as a
 * checkpoint in the same domain does (xc_domain_resume with fast resume). False: it is not suspended.
 */
export function resumeDomain(hv: Hypervisor, domain: Domain): boolean {
  if (domain.life.kind !== 'shutdown' || domain.life.reason !== SHUTDOWN.suspend) return false;
  domain.life = { kind: 'running' };
  domain.shutdownCode = undefined;
  for (const vcpu of domain.vcpus) {
    vcpu.cpu?.setReg(ACCUMULATOR, 1);
    hv.world.vcpuRunnable(domain.domId, vcpu.vcpuId, isRunnable(vcpu));
  }
  return true;
}
const ACCUMULATOR = 0;

/** The toolstack stops the domain's vCPUs, or lets them go on. */
export function pauseDomain(hv: Hypervisor, domain: Domain, paused: boolean): void {
  if (domain.paused === paused) return;
  domain.paused = paused;
  hv.world.emit(EVENT.domainPaused, domain.domId, 0, [paused ? 1 : 0]);
  for (const vcpu of domain.vcpus) hv.world.vcpuRunnable(domain.domId, vcpu.vcpuId, isRunnable(vcpu));
}

function stopVcpus(hv: Hypervisor, domain: Domain): void {
  for (const vcpu of domain.vcpus) hv.world.vcpuRunnable(domain.domId, vcpu.vcpuId, false);
}

/** UTF-8 without TextEncoder (the core rooms use no host APIs); these sentences are ASCII. */
function encodeText(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => Math.min(char.charCodeAt(0), 0x7f));
}
