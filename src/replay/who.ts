// Who changed something last, from the events of a recording: a frame, a port, a grant, a xenstore key.
//
// Not here: what guests write to memory by themselves (grant entries, event masks, page tables before they
// are pinned) and what back ends write into xenstore: no event shows these.
import { EVENT, XENSTORE_OP, eventRow, valueIndex, type EventName } from '../abi/events.ts';
import type { PositionedEvent } from '../log/reader.ts';

export type Subject = 'mfn' | 'port' | 'gref' | 'path';
export const SUBJECTS: readonly Subject[] = ['mfn', 'port', 'gref', 'path'];

/** Events in which a field names the thing itself. */
const NAMING: Readonly<Record<'mfn' | 'port' | 'gref', readonly EventName[]>> = {
  mfn: ['pageType', 'pin', 'unpin', 'm2pUpdate', 'frameGiven', 'frameTaken', 'baseSwitch', 'grantMap', 'grantUnmap', 'grantTransfer'],
  port: ['evtchnBind', 'evtchnClose', 'evtchnUnmask', 'evtchnBindVcpu', 'evtchnSend', 'evtchnPending'],
  gref: ['grantMap', 'grantUnmap', 'grantTransfer'],
};
const CHANGING_OPS = (['WRITE', 'MKDIR', 'RM', 'SET_PERMS'] as const).map((op) => valueIndex(XENSTORE_OP, op));

export interface Question {
  readonly subject: Subject;
  /** mfn, port or gref; or an absolute path. */
  readonly what: number | string;
  /** Whose port or grant it is, and who asks xenstore by relative paths. */
  readonly domId: number;
}

/** A field's value by its name; the low half of a wide one. */
function fieldOf(event: PositionedEvent, name: string): number | undefined {
  let at = 0;
  for (const field of eventRow(event.kind)?.fields ?? []) {
    if (field.name === name) return event.values[at];
    at += field.type === 'u64' || field.type === 's64' ? 2 : 1;
  }
  return undefined;
}

/** Does the event change what is asked for? */
export function concerns(event: PositionedEvent, { subject, what, domId }: Question): boolean {
  const name = eventRow(event.kind)?.name as EventName | undefined;
  if (name === undefined) return false;
  if (subject === 'path') return event.kind === EVENT.xenstoreRequest && CHANGING_OPS.includes(event.values[0] as number) && pathMatches(event, what as string);
  if (subject === 'mfn' && event.kind === EVENT.ptUpdate) return Math.floor((fieldOf(event, 'pteMaddr') as number) / 4096) === what || frameOf(event, 3) === what || frameOf(event, 5) === what;
  if (!NAMING[subject].includes(name) || fieldOf(event, subject) !== what) return false;
  return subject === 'mfn' || (fieldOf(event, 'granterDomId') ?? event.domId) === domId;
}

/** The frame of a present entry whose halves are at `at`; -1 for others. */
function frameOf(event: PositionedEvent, at: number): number {
  const [lo = 0, hi = 0] = event.values.slice(at, at + 2);
  return (lo & 1) === 0 ? -1 : (hi & 0xfffff) * 0x10_0000 + (lo >>> 12);
}

/** The request's own path, or for a removal one above. */
function pathMatches(event: PositionedEvent, wanted: string): boolean {
  const text = new TextDecoder('latin1').decode(event.bytes ?? new Uint8Array(0)).split('\0')[0] as string;
  const path = text.startsWith('/') ? text : `/local/domain/${event.domId}/${text}`;
  return path === wanted || (event.values[0] === CHANGING_OPS[2] && wanted.startsWith(`${path}/`));
}

/** The last `most` events before `before` that concern it, oldest first. */
export function whoChanged(events: Iterable<PositionedEvent>, question: Question, most: number): { readonly last: readonly PositionedEvent[]; readonly count: number } {
  const last: PositionedEvent[] = [];
  let count = 0;
  for (const event of events) {
    if (!concerns(event, question)) continue;
    count++;
    last.push(event);
    if (last.length > most) last.shift();
  }
  return { last, count };
}
