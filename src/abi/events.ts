// What can happen in a world, as rows: the number, name and fields of every kind of event. The
// encoder, the schema in schemas/rexen.proto, `dump` and the tests derive from these rows.
//
//   emit(EVENT.evtchnSend, domId, vcpuId, [port, remoteDomId, remotePort])
//   emit(EVENT.consoleOut, domId, vcpuId, [], bytes)
//
// Values are numbers in the order of the row's fields; missing ones at the end count as 0. A field
// of type u64 or s64 takes TWO consecutive values, its low and its high 32 bits, so that no bigint
// is made on the hot path. Numbers and names of kinds and fields are for ever: rows and fields are
// only added (fields at the end of their row), or old recordings would change their meaning.
//
// Chance and the outside have roles of their own: see EventRow.role.
//
// Not here: positions (domain, vCPU, retired instructions, time), which every event has, and state
// digests, which are packets of the recording and not events, so that two engine revisions with
// different layouts of state can still be compared event by event.
import { InvariantViolation, assert } from '../base/assert.ts';
import { HYPERCALL } from './hypercall-numbers.ts';
import { SHADOW_CALL_NAMES, SHADOW_FAULT } from './shadow-calls.ts';

/**
 * uint: an integer 0 <= n < 2^53. sint: an integer, exact below 2^53 (results; guest addresses as
 * signed canonical numbers, or unsigned 32-bit ones). u64 and s64: any 64 bits as two values (low,
 * high); s64 is written in zigzag form, which is short for kernel addresses.
 */
export type EventFieldType = 'uint' | 'sint' | 'u64' | 's64';

/** How `dump` prints a field in its text form. Default: decimal. */
export type EventFieldShow = 'dec' | 'hex' | 'vaddr' | 'rc' | 'hypercall' | 'word' | 'name' | { readonly of: readonly string[] };

export interface EventField {
  readonly name: string;
  readonly type: EventFieldType;
  readonly show?: EventFieldShow;
}

export interface EventRow {
  /** 1.., for ever. In Event the body has field number `kind + 4`: kinds 1..11 have one-byte tags. */
  readonly kind: number;
  readonly name: string;
  /**
   * input: came from outside; replay takes it from the recording and applies it at its position.
   * choice: the world asked; replay takes the answer from the recording when it asks again.
   * derived: replay makes it again and compares.
   */
  readonly role: 'input' | 'choice' | 'derived';
  /** One sentence for the schema. */
  readonly about: string;
  readonly fields: readonly EventField[];
  /** The name of the trailing byte string, if the kind has one, and whether dump may print it as text. */
  readonly bytes?: { readonly name: string; readonly show: 'text' | 'hex' };
}

const uint = (name: string, show?: EventFieldShow): EventField => (show === undefined ? { name, type: 'uint' } : { name, type: 'uint', show });
const sint = (name: string, show?: EventFieldShow): EventField => (show === undefined ? { name, type: 'sint' } : { name, type: 'sint', show });
const u64 = (name: string): EventField => ({ name, type: 'u64', show: 'hex' });
const s64 = (name: string): EventField => ({ name, type: 's64', show: 'word' });
const oneOf = (name: string, of: readonly string[]): EventField => ({ name, type: 'uint', show: { of } });
const hex = (name: string): EventField => uint(name, 'hex');
const vaddr = (name: string): EventField => sint(name, 'vaddr');
const result = sint('result', 'rc');
const ARGS = [s64('a0'), s64('a1'), s64('a2'), s64('a3'), s64('a4'), s64('a5')];

// Value lists: the number in the event is the index. Only ever appended to.
export const HYPERCALL_END = ['done', 'continuation', 'noReturn', 'fault'] as const;
export const PT_UPDATE_HOW = ['mmu_update', 'update_va_mapping', 'writable_pt', 'grant', 'domain_build', 'other'] as const;
export const PAGE_TYPE = ['none', 'writable', 'l1', 'l2', 'l3', 'l4', 'segdesc', 'shared'] as const;
export const BIND_HOW = ['unbound', 'interdomain', 'virq', 'pirq', 'ipi'] as const;
export const TIMER_KIND = ['singleshot', 'periodic', 'poll', 'watchdog1', 'watchdog2'] as const;
export const EMULATED = [
  'cli', 'sti', 'hlt', 'in', 'out', 'ins', 'outs', 'cpuid', 'rdtsc', 'rdtscp', 'rdmsr', 'wrmsr', 'read_cr', 'write_cr', 'read_dr', 'write_dr',
  'clts', 'lmsw', 'invlpg', 'wbinvd', 'pushf', 'popf', 'iret', 'pte_write', 'ud2a_cpuid', 'xsetbv', 'rdpmc', 'other',
] as const;
/** vif is the ring that a network interface sends by, vifRx the one that it receives by. */
export const DEVICE = ['console', 'xenstore', 'vbd', 'vif', 'other', 'vifRx'] as const;
export const FRAME_WAY = ['fromGuest', 'toGuest'] as const;
export const CHECKSUM_STATE = ['none', 'blank', 'validated'] as const;
export const GSO_TYPE = ['none', 'tcpv4', 'tcpv6'] as const;
/** xen/include/public/io/xenbus.h; the values are the indices. */
export const XENBUS_STATE_NAME = ['unknown', 'initialising', 'initWait', 'initialised', 'connected', 'closing', 'closed', 'reconfiguring', 'reconfigured'] as const;

/** xen/include/public/xen.h, MMUEXT_*. */
export const MMUEXT_CMD = [
  'PIN_L1_TABLE', 'PIN_L2_TABLE', 'PIN_L3_TABLE', 'PIN_L4_TABLE', 'UNPIN_TABLE', 'NEW_BASEPTR', 'TLB_FLUSH_LOCAL', 'INVLPG_LOCAL', 'TLB_FLUSH_MULTI',
  'INVLPG_MULTI', 'TLB_FLUSH_ALL', 'INVLPG_ALL', 'FLUSH_CACHE', 'SET_LDT', 'cmd_14', 'NEW_USER_BASEPTR', 'CLEAR_PAGE', 'COPY_PAGE', 'FLUSH_CACHE_GLOBAL',
  'MARK_SUPER', 'UNMARK_SUPER',
] as const;
/** xen/include/public/io/xs_wire.h, enum xsd_sockmsg_type. */
export const XENSTORE_OP = [
  'CONTROL', 'DIRECTORY', 'READ', 'GET_PERMS', 'WATCH', 'UNWATCH', 'TRANSACTION_START', 'TRANSACTION_END', 'INTRODUCE', 'RELEASE', 'GET_DOMAIN_PATH',
  'WRITE', 'MKDIR', 'RM', 'SET_PERMS', 'WATCH_EVENT', 'ERROR', 'IS_DOMAIN_INTRODUCED', 'RESUME', 'SET_TARGET', 'op_20', 'RESET_WATCHES', 'DIRECTORY_PART',
] as const;

/** The index of a value in one of the lists above; it must be there. */
export function valueIndex<const L extends readonly string[]>(list: L, value: L[number]): number {
  const index = list.indexOf(value);
  // Not as an argument of assert(): the message would be made for each of a million events.
  if (index < 0) throw new InvariantViolation(`${value} is not one of ${list.join(', ')}`);
  return index;
}

export const EVENT_ROWS = [
  // -- hot kinds: one-byte tags ------------------------------------------------------------------
  { kind: 1, name: 'hypercall', role: 'derived', about: 'A guest asked Xen; the argument registers as they were on entry, and how it ended.', fields: [uint('nr', 'hypercall'), result, oneOf('end', HYPERCALL_END), ...ARGS] },
  { kind: 2, name: 'upcall', role: 'derived', about: 'Xen called the guest\'s event callback.', fields: [vaddr('ip'), vaddr('handler')] },
  { kind: 3, name: 'evtchnSend', role: 'derived', about: 'A domain sent an event through its port.', fields: [uint('port'), uint('remoteDomId'), uint('remotePort'), result] },
  { kind: 4, name: 'evtchnPending', role: 'derived', about: 'A port of this domain became pending; vcpu is the one notified.', fields: [uint('port')] },
  { kind: 5, name: 'ptUpdate', role: 'derived', about: 'A page-table entry changed, or was refused, as Xen saw it.', fields: [oneOf('how', PT_UPDATE_HOW), uint('level'), hex('pteMaddr'), u64('oldPte'), u64('newPte'), result] },
  { kind: 6, name: 'choice', role: 'choice', about: 'The scheduler was asked to choose: picked is 0..options-1, name refers to an earlier nameDefined.', fields: [uint('name', 'name'), uint('options'), uint('picked')] },
  { kind: 7, name: 'exception', role: 'derived', about: 'An exception was delivered to the guest\'s trap handler.', fields: [uint('vector'), hex('errorCode'), vaddr('ip'), vaddr('cr2'), vaddr('handler')] },
  { kind: 8, name: 'emulated', role: 'derived', about: 'Xen carried out a privileged instruction; operand is the port, MSR, register number or leaf.', fields: [oneOf('what', EMULATED), vaddr('ip'), hex('operand'), s64('value')] },
  { kind: 9, name: 'multicallEntry', role: 'derived', about: 'One entry of a multicall batch.', fields: [uint('index'), uint('nr', 'hypercall'), result, oneOf('end', HYPERCALL_END), ...ARGS] },
  { kind: 10, name: 'vcpuSwitch', role: 'derived', about: 'This vCPU began to run, after another one had.', fields: [] },
  { kind: 11, name: 'pageType', role: 'derived', about: 'A frame changed its type; validated tells whether its entries hold.', fields: [hex('mfn'), oneOf('from', PAGE_TYPE), oneOf('to', PAGE_TYPE), uint('validated')] },

  // -- memory ------------------------------------------------------------------------------------
  { kind: 12, name: 'guestMemory', role: 'derived', about: 'Xen wrote guest memory on behalf of a hypercall: the bytes if few, else their CRC-32C.', fields: [vaddr('vaddr'), uint('sizeBytes'), hex('crc32c')], bytes: { name: 'data', show: 'hex' } },
  { kind: 13, name: 'mmuextOp', role: 'derived', about: 'One entry of an mmuext_op batch.', fields: [oneOf('cmd', MMUEXT_CMD), s64('arg1'), s64('arg2'), result] },
  { kind: 14, name: 'pin', role: 'derived', about: 'A page table was pinned, or that was refused.', fields: [hex('mfn'), uint('level'), result] },
  { kind: 15, name: 'unpin', role: 'derived', about: 'A page table was unpinned, or that was refused.', fields: [hex('mfn'), uint('level'), result] },
  { kind: 16, name: 'm2pUpdate', role: 'derived', about: 'The machine-to-phys entry of a frame changed.', fields: [hex('mfn'), hex('pfn')] },
  { kind: 17, name: 'frameGiven', role: 'derived', about: 'A domain gained a frame.', fields: [hex('mfn'), hex('pfn')] },
  { kind: 18, name: 'frameTaken', role: 'derived', about: 'A domain lost a frame.', fields: [hex('mfn')] },
  { kind: 19, name: 'descriptor', role: 'derived', about: 'A segment descriptor was updated, or that was refused.', fields: [hex('maddr'), u64('value'), result] },
  { kind: 20, name: 'baseSwitch', role: 'derived', about: 'This vCPU runs on another base table; user is 1 for the user-mode table of a 64-bit guest.', fields: [hex('mfn'), uint('user')] },

  // -- event channels, grants --------------------------------------------------------------------
  { kind: 21, name: 'evtchnBind', role: 'derived', about: 'A port was bound or allocated.', fields: [oneOf('how', BIND_HOW), uint('port'), uint('remoteDomId'), uint('remotePort'), uint('virq'), result] },
  { kind: 22, name: 'evtchnClose', role: 'derived', about: 'A port was closed.', fields: [uint('port'), result] },
  { kind: 23, name: 'evtchnUnmask', role: 'derived', about: 'A port was unmasked by hypercall.', fields: [uint('port'), result] },
  { kind: 24, name: 'evtchnBindVcpu', role: 'derived', about: 'A port was bound to another vCPU.', fields: [uint('port'), uint('vcpuId'), result] },
  { kind: 25, name: 'grantSetup', role: 'derived', about: 'The grant table was sized, mapped or switched to another version.', fields: [uint('version'), uint('frames'), result] },
  { kind: 26, name: 'grantMap', role: 'derived', about: 'A granted frame was mapped.', fields: [uint('granterDomId'), uint('gref'), hex('flags'), vaddr('hostAddr'), uint('handle'), hex('mfn'), result] },
  { kind: 27, name: 'grantUnmap', role: 'derived', about: 'A grant mapping was undone.', fields: [uint('handle'), vaddr('hostAddr'), uint('granterDomId'), uint('gref'), hex('mfn'), result] },
  { kind: 28, name: 'grantCopy', role: 'derived', about: 'Bytes were copied through a grant.', fields: [uint('sourceDomId'), hex('source'), uint('sourceOffset'), uint('destDomId'), hex('dest'), uint('destOffset'), uint('sizeBytes'), hex('flags'), result] },
  { kind: 29, name: 'grantTransfer', role: 'derived', about: 'A frame was given to another domain through a grant.', fields: [hex('mfn'), uint('toDomId'), uint('gref'), result] },

  // -- time and scheduling -----------------------------------------------------------------------
  { kind: 30, name: 'timerSet', role: 'derived', about: 'A vCPU\'s timer was set.', fields: [oneOf('timer', TIMER_KIND), uint('deadlineNs')] },
  { kind: 31, name: 'timerCancelled', role: 'derived', about: 'A vCPU\'s timer was cancelled.', fields: [oneOf('timer', TIMER_KIND)] },
  { kind: 32, name: 'timerFired', role: 'derived', about: 'A vCPU\'s timer fired.', fields: [oneOf('timer', TIMER_KIND), uint('deadlineNs')] },
  { kind: 33, name: 'idle', role: 'derived', about: 'Nothing could run: the clock jumped.', fields: [uint('untilNs')] },
  { kind: 34, name: 'vcpuRunnable', role: 'derived', about: 'A vCPU can run again.', fields: [] },
  { kind: 35, name: 'vcpuBlocked', role: 'derived', about: 'A vCPU waits.', fields: [uint('polling')] },
  { kind: 36, name: 'vcpuYielded', role: 'derived', about: 'A vCPU gave up its turn.', fields: [] },
  { kind: 37, name: 'vcpuUp', role: 'derived', about: 'A vCPU came online.', fields: [vaddr('entry')] },
  { kind: 38, name: 'vcpuDown', role: 'derived', about: 'A vCPU went offline.', fields: [] },
  { kind: 39, name: 'preempted', role: 'derived', about: 'A long hypercall was interrupted after so much counted work.', fields: [uint('nr', 'hypercall'), uint('workUnits')] },

  // -- back ends ---------------------------------------------------------------------------------
  { kind: 40, name: 'consoleOut', role: 'derived', about: 'The console back end took bytes from the guest\'s ring.', fields: [], bytes: { name: 'text', show: 'text' } },
  { kind: 41, name: 'consoleIn', role: 'input', about: 'Bytes typed at the console; they entered at the start of this step of the run loop.', fields: [uint('step')], bytes: { name: 'text', show: 'text' } },
  { kind: 42, name: 'xenConsole', role: 'derived', about: 'Bytes written through console_io.', fields: [], bytes: { name: 'text', show: 'text' } },
  { kind: 43, name: 'xenstoreRequest', role: 'derived', about: 'xenstored took a request from the ring.', fields: [oneOf('op', XENSTORE_OP), uint('reqId'), uint('txId')], bytes: { name: 'payload', show: 'text' } },
  { kind: 44, name: 'xenstoreReply', role: 'derived', about: 'xenstored answered.', fields: [oneOf('op', XENSTORE_OP), uint('reqId'), uint('txId')], bytes: { name: 'payload', show: 'text' } },
  { kind: 45, name: 'xenstoreWatch', role: 'derived', about: 'A watch fired: path and token, each ended by NUL.', fields: [], bytes: { name: 'payload', show: 'text' } },
  { kind: 46, name: 'ringRequest', role: 'derived', about: 'A back end took a request from a device ring; index is the free-running ring index.', fields: [oneOf('device', DEVICE), uint('deviceId'), uint('index'), uint('op'), u64('id'), uint('argument'), uint('sizeBytes')], bytes: { name: 'data', show: 'hex' } },
  { kind: 47, name: 'ringResponse', role: 'derived', about: 'A back end answered on a device ring.', fields: [oneOf('device', DEVICE), uint('deviceId'), uint('index'), uint('op'), u64('id'), sint('status')], bytes: { name: 'data', show: 'hex' } },
  { kind: 48, name: 'blockInput', role: 'input', about: 'Bytes that came from a host file which is not an image of the header.', fields: [uint('step'), uint('deviceId'), uint('firstSector512')], bytes: { name: 'data', show: 'hex' } },
  { kind: 49, name: 'netIn', role: 'input', about: 'A frame that came from outside.', fields: [uint('step'), uint('deviceId')], bytes: { name: 'frame', show: 'hex' } },
  { kind: 50, name: 'netOut', role: 'derived', about: 'A frame that left for outside.', fields: [uint('deviceId')], bytes: { name: 'frame', show: 'hex' } },
  { kind: 51, name: 'stopRequested', role: 'input', about: 'The person at the console asked the run to end.', fields: [uint('step'), uint('reason')] },

  // -- the world ---------------------------------------------------------------------------------
  { kind: 55, name: 'nameDefined', role: 'derived', about: 'From here on this number stands for this name (choices, faults).', fields: [uint('index')], bytes: { name: 'text', show: 'text' } },
  { kind: 56, name: 'fault', role: 'choice', about: 'A fault was injected; name refers to an earlier nameDefined.', fields: [uint('name', 'name'), uint('argument')] },
  { kind: 57, name: 'domainCreated', role: 'derived', about: 'A domain was built.', fields: [uint('pages'), uint('vcpus'), uint('levels')], bytes: { name: 'name', show: 'text' } },
  { kind: 58, name: 'domainShutdown', role: 'derived', about: 'A domain shut down (SHUTDOWN_*).', fields: [uint('reason')], bytes: { name: 'text', show: 'text' } },
  { kind: 59, name: 'domainCrashed', role: 'derived', about: 'Xen killed a domain, and why.', fields: [vaddr('ip')], bytes: { name: 'text', show: 'text' } },
  { kind: 60, name: 'domainDestroyed', role: 'derived', about: 'A domain is gone.', fields: [] },
  { kind: 61, name: 'domainPaused', role: 'derived', about: 'A domain was paused (1) or let go on (0).', fields: [uint('paused')] },
  { kind: 62, name: 'engineLimit', role: 'derived', about: 'The guest used something this engine does not have yet.', fields: [vaddr('ip')], bytes: { name: 'text', show: 'text' } },
  { kind: 63, name: 'note', role: 'derived', about: 'A remark of the scenario.', fields: [], bytes: { name: 'text', show: 'text' } },
  { kind: 64, name: 'command', role: 'input', about: 'The toolstack was told to do something with this domain, as JSON; it entered at the start of this step of the run loop.', fields: [uint('step')], bytes: { name: 'json', show: 'text' } },
  { kind: 65, name: 'deviceState', role: 'derived', about: 'A back end changed its state in xenstore (XenbusState).', fields: [oneOf('device', DEVICE), uint('deviceId'), oneOf('state', XENBUS_STATE_NAME)] },
  { kind: 66, name: 'netFrame', role: 'derived', about: 'A frame passed a network interface of this domain; what was left open (checksum, segmentation) is said, not done.', fields: [uint('deviceId'), oneOf('way', FRAME_WAY), oneOf('checksum', CHECKSUM_STATE), oneOf('gso', GSO_TYPE), uint('gsoSize')], bytes: { name: 'frame', show: 'hex' } },
  { kind: 67, name: 'backendNote', role: 'derived', about: 'What a back end of this domain has to say, as to the kernel log of dom0.', fields: [oneOf('device', DEVICE), uint('deviceId')], bytes: { name: 'text', show: 'text' } },

  // -- shadow paging -----------------------------------------------------------------------------
  { kind: 68, name: 'shadowFault', role: 'derived', about: 'A page fault of a guest on shadow tables, and what became of it.', fields: [vaddr('vaddr'), hex('errorCode'), oneOf('what', SHADOW_FAULT)] },
  { kind: 69, name: 'shadowCall', role: 'derived', about: 'A guest on shadow tables told its host something; queued is 1 for a call that waited in a queue.', fields: [oneOf('call', SHADOW_CALL_NAMES), result, uint('queued'), hex('a'), hex('b'), hex('c')] },
] as const satisfies readonly EventRow[];

export type EventName = (typeof EVENT_ROWS)[number]['name'];

/** Kind numbers by name: `EVENT.hypercall`. */
export const EVENT = Object.fromEntries(EVENT_ROWS.map((row) => [row.name, row.kind])) as { readonly [N in EventName]: Extract<(typeof EVENT_ROWS)[number], { name: N }>['kind'] };

/** The row of a kind number, or undefined for a number that is none. */
export const eventRow = (kind: number): EventRow | undefined => BY_KIND[kind];
export const MAX_KIND = Math.max(...EVENT_ROWS.map((row) => row.kind));
/**
 * How many kinds and fields there are. It only grows; a recording keeps the number of the Rexen that
 * made it, so that an older one knows why it cannot read an event.
 */
export const EVENT_VOCABULARY = (EVENT_ROWS as readonly EventRow[]).reduce((sum, row) => sum + 1 + row.fields.length + (row.bytes === undefined ? 0 : 1), 0);
/** The field number of the byte string in every body, so that fields can be added before it. */
export const BYTES_FIELD_NUMBER = 15;
/** The body of kind k has field number k + 4 in Event. */
export const BODY_FIELD_OFFSET = 4;

const BY_KIND: (EventRow | undefined)[] = [];
for (const row of EVENT_ROWS as readonly EventRow[]) {
  assert(BY_KIND[row.kind] === undefined, `event kind ${row.kind} is given twice`);
  assert(row.fields.length < BYTES_FIELD_NUMBER, `event ${row.name} has ${row.fields.length} fields, at most ${BYTES_FIELD_NUMBER - 1} fit`);
  assert(new Set(row.fields.map((field) => field.name)).size === row.fields.length, `event ${row.name} names a field twice`);
  BY_KIND[row.kind] = row;
}

/** Registers as halves: hypervisor/hypercall.ts's HypercallArgs has this shape. */
export interface WordHalves {
  readonly lo: ArrayLike<number>;
  readonly hi: ArrayLike<number>;
}

/**
 * The values of a `hypercall` event. `argCount` is the number of registers that the hypercall uses:
 * the others hold what the guest happened to have there and are left out.
 */
export function hypercallValues(nr: number, rc: number, end: (typeof HYPERCALL_END)[number], args: WordHalves, argCount: number): number[] {
  const values = new Array<number>(3 + argCount * 2);
  values[0] = nr;
  values[1] = rc;
  values[2] = HYPERCALL_END.indexOf(end);
  for (let index = 0; index < argCount; index++) {
    values[3 + index * 2] = args.lo[index] as number;
    values[4 + index * 2] = args.hi[index] as number;
  }
  return values;
}

const HYPERCALL_NAMES: (string | undefined)[] = [];
for (const [name, nr] of Object.entries(HYPERCALL)) HYPERCALL_NAMES[nr] = name;
/** 26 → 'mmuext_op', 99 → 'hypercall_99'. */
export const hypercallName = (nr: number): string => HYPERCALL_NAMES[nr] ?? `hypercall_${nr}`;
