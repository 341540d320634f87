// A recording as a picture in time: rows of the Trace Event Format, which Perfetto (ui.perfetto.dev) and
// chrome://tracing open. A domain is a process, a vCPU a thread; what a vCPU ran is a slice, each event a mark on its
// thread with its whole text. Times are virtual.
// Source: "Trace Event Format", Google; the JSON array of objects with ph M, X and i.
import { EVENT, eventRow } from '../abi/events.ts';
import { eventText, hypercallView } from './event-text.ts';
import type { World } from './packets.ts';
import { positionText, type PositionedEvent } from './reader.ts';

interface Lane {
  readonly domId: number;
  readonly vcpuId: number;
  retired: number;
  /** The slice that is still growing. */
  fromNs: number;
  toNs: number;
}

const microseconds = (ns: number): number => ns / 1000;

export class TraceView {
  readonly #nsPerInsn: number;
  readonly #domainNames: readonly string[];
  readonly #lanes = new Map<number, Lane>();
  readonly #names = new Map<number, string>();
  readonly #levels = new Map<number, number>();

  /** `domainNames[0]` is domain 1's. */
  constructor(world: World, domainNames: readonly string[]) {
    this.#nsPerInsn = world.nsPerInsnNumerator / world.nsPerInsnDenominator;
    this.#domainNames = domainNames;
  }

  /** The rows that an event adds, as JSON. Events come in their order. */
  *rowsOf(event: PositionedEvent): Generator<string> {
    if (event.kind === EVENT.nameDefined) this.#names.set(event.values[0] as number, new TextDecoder().decode(event.bytes));
    if (event.kind === EVENT.domainCreated) this.#levels.set(event.domId, event.values[2] as number);
    const lane = yield* this.#laneOf(event);
    const ran = event.retired - lane.retired;
    if (ran > 0) {
      const fromNs = Math.max(lane.toNs, event.nowNs - ran * this.#nsPerInsn);
      if (fromNs - lane.toNs >= this.#nsPerInsn) {
        yield* sliceRows(lane);
        lane.fromNs = fromNs;
      }
      lane.toNs = event.nowNs;
      lane.retired = event.retired;
    }
    const context = { names: this.#names, levels: this.#levels };
    const kind = eventRow(event.kind)?.name ?? `kind ${event.kind}`;
    const name = event.kind === EVENT.hypercall ? hypercallView(event, context).name : kind;
    yield JSON.stringify({ ph: 'i', s: 't', name, cat: kind, pid: event.domId, tid: event.vcpuId, ts: microseconds(event.nowNs), args: { position: positionText(event), event: eventText(event, context) } });
  }

  /** What is still open when the last event was given. */
  *end(): Generator<string> {
    for (const lane of this.#lanes.values()) yield* sliceRows(lane);
  }

  *#laneOf(event: PositionedEvent): Generator<string, Lane> {
    const { domId, vcpuId } = event;
    const key = domId * 0x1_0000 + vcpuId;
    const known = this.#lanes.get(key);
    if (known !== undefined) return known;
    const name = domId === 0 ? 'dom0' : `d${domId} ${this.#domainNames[domId - 1] ?? ''}`.trimEnd();
    if (![...this.#lanes.values()].some((lane) => lane.domId === domId)) yield JSON.stringify({ ph: 'M', name: 'process_name', pid: domId, args: { name } });
    yield JSON.stringify({ ph: 'M', name: 'thread_name', pid: domId, tid: vcpuId, args: { name: domId === 0 ? 'back ends and scheduler' : `vcpu ${vcpuId}` } });
    const lane: Lane = { domId, vcpuId, retired: 0, fromNs: 0, toNs: 0 };
    this.#lanes.set(key, lane);
    return lane;
  }
}

function* sliceRows(lane: Lane): Generator<string> {
  if (lane.toNs > lane.fromNs) yield JSON.stringify({ ph: 'X', name: 'runs', cat: 'vcpu', pid: lane.domId, tid: lane.vcpuId, ts: microseconds(lane.fromNs), dur: microseconds(lane.toNs - lane.fromNs) });
}
