// Arguments that several commands take.
import { Option } from 'commander';
import { UsageError } from '../base/assert.ts';
import { CHECK_MODES, EPOCH_EVENTS } from '../replay/check-watch.ts';

/** A seed is a whole number; it is kept as text, so that no digit is lost. */
export function parseSeed(text: string): string {
  if (!/^[0-9]{1,20}$/.test(text)) throw new UsageError(`--seed ${text}: a seed is a whole number of at most 20 digits`);
  return text.replace(/^0+(?=\d)/, '');
}

/** A place in a recording: so many events, and so many instructions of a vCPU. */
export interface PositionArgument {
  readonly event: number;
  readonly vcpu?: { readonly domId: number; readonly vcpuId: number; readonly retired: number };
}

/** `118` or `118:d1v0:4021`. */
export function parsePosition(text: string, option = '--until'): PositionArgument {
  const match = /^(\d{1,15})(?::d(\d{1,5})v(\d{1,5}):(\d{1,15}))?$/.exec(text);
  if (match === null) throw new UsageError(`${option} ${text}: a position is an event number such as 118, or 118:d1v0:4021 as dump prints it`);
  const [, event, domId, vcpuId, retired] = match.map(Number) as [number, number, number, number, number];
  return { event, ...(match[2] === undefined ? {} : { vcpu: { domId, vcpuId, retired } }) };
}

/** `--check`, for every command that runs a world. */
export const checkOption = (): Option =>
  new Option('--check <when>', `check all invariants of the hypervisor while it runs: after every event, every ${EPOCH_EVENTS} events (epoch), or not`).choices(CHECK_MODES).default('off');
