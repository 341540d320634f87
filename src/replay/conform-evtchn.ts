// Conformance operations of family evtchn (FORMAT section 8): event_channel_op, and what the guest
// itself reads and writes in its shared page.
import { HYPERCALL } from '../abi/hypercall-numbers.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import { allocUnboundPort, bindPort, newEventChannels, takeFreePort } from '../hypervisor/event-channels.ts';
import { EVTCHNOP } from '../hypervisor/hypercalls/event-channel.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import { assignEventBit, setUpcallMask, type EventBitmap } from '../hypervisor/shared-info.ts';
import { commandOf, type ConformCall, type ConformContext, type ConformFamily, type ConformOp, type ScriptOp } from './conform-op.ts';

const STATUS_NAMES = ['closed', 'unbound', 'interdomain', 'pirq', 'virq', 'ipi'] as const;
const BAD_COMMAND = 99;
const SHOWN_PORTS = 128;
const D2_SHOWN_PORTS = 64;

const num = (op: ScriptOp, field: string): number => Number(op[field] ?? 0);

/** A field of an argument structure: name in the script, offset, bytes. */
type ArgField = readonly [name: string, at: number, bytes: 2 | 4 | 8, kind?: 'dom' | 'frame'];
interface CommandRow {
  readonly nr: number;
  readonly sizeBytes: number;
  readonly in: readonly ArgField[];
  /** Offset of the allocated port, for commands that give one. */
  readonly portAt?: number;
}
const COMMANDS: Readonly<Record<string, CommandRow>> = {
  alloc_unbound: { nr: EVTCHNOP.alloc_unbound, sizeBytes: 8, in: [['dom', 0, 2, 'dom'], ['remote', 2, 2, 'dom']], portAt: 4 },
  bind_interdomain: { nr: EVTCHNOP.bind_interdomain, sizeBytes: 12, in: [['remote', 0, 2, 'dom'], ['rport', 4, 4]], portAt: 8 },
  bind_virq: { nr: EVTCHNOP.bind_virq, sizeBytes: 12, in: [['virq', 0, 4], ['vcpu', 4, 4]], portAt: 8 },
  bind_pirq: { nr: EVTCHNOP.bind_pirq, sizeBytes: 12, in: [['pirq', 0, 4]], portAt: 8 },
  bind_ipi: { nr: EVTCHNOP.bind_ipi, sizeBytes: 8, in: [['vcpu', 0, 4]], portAt: 4 },
  close: { nr: EVTCHNOP.close, sizeBytes: 4, in: [['port', 0, 4]] },
  send: { nr: EVTCHNOP.send, sizeBytes: 4, in: [['port', 0, 4]] },
  status: { nr: EVTCHNOP.status, sizeBytes: 24, in: [['dom', 0, 2, 'dom'], ['port', 4, 4]] },
  unmask: { nr: EVTCHNOP.unmask, sizeBytes: 4, in: [['port', 0, 4]] },
  bind_vcpu: { nr: EVTCHNOP.bind_vcpu, sizeBytes: 8, in: [['port', 0, 4], ['vcpu', 4, 4]] },
  reset: { nr: EVTCHNOP.reset, sizeBytes: 2, in: [['dom', 0, 2, 'dom']] },
  init_control: { nr: EVTCHNOP.init_control, sizeBytes: 24, in: [['frame', 0, 8, 'frame'], ['offset', 8, 4], ['vcpu', 12, 4]] },
  expand_array: { nr: EVTCHNOP.expand_array, sizeBytes: 8, in: [['frame', 0, 8, 'frame']] },
  set_priority: { nr: EVTCHNOP.set_priority, sizeBytes: 8, in: [['port', 0, 4], ['prio', 4, 4]] },
  bad: { nr: BAD_COMMAND, sizeBytes: 8, in: [] },
};

function fieldValue(context: ConformContext, op: ScriptOp, [name, , , kind]: ArgField): number {
  if (kind === 'dom') return context.domId(String(op[name]));
  if (kind === 'frame') return context.frame(String(op[name]));
  return num(op, name);
}

/** Bits from `maddr` on as a hexadecimal number, lowest port in the lowest bit. */
function bitmapHex(hv: Hypervisor, maddr: number, ports: number): string {
  let sum = 0n;
  for (let at = ports / 8 - 1; at >= 0; at--) sum = (sum << 8n) | BigInt(hv.machine.readU8(maddr + at));
  return sum.toString(16);
}
const bitmapMaddr = (domain: Domain, map: EventBitmap): number =>
  domain.sharedInfoMfn * 4096 + 2048 + (map === 'evtchn_pending' ? 0 : domain.abi.wordBits === 64 ? 512 : 128);

function shownState({ hv, d1, vcpu, wide }: ConformContext): Record<string, unknown> {
  const info = vcpu.vcpuInfoMaddr;
  return {
    up: hv.machine.readU8(info), um: hv.machine.readU8(info + 1), sel: bitmapHex(hv, info + (wide ? 8 : 4), wide ? 64 : 32),
    pend: bitmapHex(hv, bitmapMaddr(d1, 'evtchn_pending'), SHOWN_PORTS), mask: bitmapHex(hv, bitmapMaddr(d1, 'evtchn_mask'), SHOWN_PORTS),
  };
}

/** dom and port, the VIRQ's number, ... as the status structure's union holds them. */
function statusFields(hv: Hypervisor, arg: number): Record<string, unknown> {
  const st = STATUS_NAMES[hv.machine.readU32(arg + 8)] as string;
  const shown: Record<string, unknown> = { st, vcpu: hv.machine.readU32(arg + 12) };
  if (st === 'unbound') shown['dom'] = hv.machine.readU16(arg + 16);
  if (st === 'interdomain') Object.assign(shown, { dom: hv.machine.readU16(arg + 16), port: hv.machine.readU32(arg + 20) });
  if (st === 'virq' || st === 'pirq') shown['n'] = hv.machine.readU32(arg + 16);
  return shown;
}

const evt: ConformCall = (context, op) => {
  const { hv } = context;
  const row = commandOf(COMMANDS, op.cmd);
  const arg = context.scratch(row.sizeBytes);
  const maddr = context.scratchMaddr(arg);
  for (const field of row.in) {
    const value = fieldValue(context, op, field);
    const [, at, bytes] = field;
    if (bytes === 2) hv.machine.writeU16(maddr + at, value);
    else hv.machine.writeU32(maddr + at, value >>> 0);
    if (bytes === 8) hv.machine.writeU32(maddr + at + 4, Math.floor(value / 0x1_0000_0000) >>> 0);
  }
  const finish = (rc: number): unknown => {
    const answer: Record<string, unknown> = { rc };
    if (rc === 0 && row.portAt !== undefined) answer['port'] = hv.machine.readU32(maddr + row.portAt);
    if (rc === 0 && op.cmd === 'status') Object.assign(answer, statusFields(hv, maddr));
    return Object.assign(answer, shownState(context));
  };
  return { number: HYPERCALL.event_channel_op, args: [row.nr, arg], finish };
};

/** The guest writes its shared page: plain stores. */
const shset: ConformOp = ({ hv, d1, vcpu }, op) => {
  const value = num(op, 'val');
  if (op.field === 'upcall_mask') setUpcallMask(hv, vcpu, value);
  else if (op.field === 'upcall_pending') hv.machine.writeU8(vcpu.vcpuInfoMaddr, value);
  else assignEventBit(hv, d1, op.field === 'mask' ? 'evtchn_mask' : 'evtchn_pending', num(op, 'port'), value !== 0);
  return 'ok';
};

/** d1: store and console ports waiting for dom0. d2: the same, four for d1, two for a domain that is not. */
function setup({ hv, d1, d2, vcpu }: ConformContext): void {
  for (const domain of [d1, d2]) {
    domain.events = newEventChannels();
    allocUnboundPort(hv, domain, 0);
    allocUnboundPort(hv, domain, 0);
  }
  for (let port = 3; port <= 8; port++) bindPort(d2, takeFreePort(hv, d2) as number, { kind: 'unbound', remoteDomId: port <= 6 ? d1.domId : 3 });
  placeInfo(d1, vcpu);
  for (const other of d2.vcpus) placeInfo(d2, other);
  setUpcallMask(hv, vcpu, 1);
}
function placeInfo(domain: Domain, vcpu: Vcpu): void {
  vcpu.vcpuInfoMaddr = domain.sharedInfoMfn * 4096 + vcpu.vcpuId * 64;
}

export const EVTCHN_FAMILY: ConformFamily = {
  calls: { evt },
  ops: { shset, shinfo: (context) => shownState(context) },
  setup,
  final: ({ hv, d2 }, final) => {
    const pending = bitmapHex(hv, bitmapMaddr(d2, 'evtchn_pending'), D2_SHOWN_PORTS);
    if (pending !== '0') final['d2_pend'] = pending;
  },
};
