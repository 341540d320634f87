// Where the time of a run went: translating, executing, hypervisor, logging. Built from counters that
// cost two readings of the host's clock per exit, so it is only on when it is asked for.
import type { CpuCounters } from '../x86/cpu.ts';
import type { EventSink, World } from '../sim/world.ts';

/** Stands in front of a sink and adds up the time spent behind it. */
export class TimedSink implements EventSink {
  loggingMs = 0;
  /** Of it while a vCPU had its turn: World counts that for the hypervisor. */
  insideMs = 0;
  readonly #sink: EventSink;
  readonly #clock: () => number;
  readonly #world: World;

  constructor(sink: EventSink, clock: () => number, world: World) {
    this.#sink = sink;
    this.#clock = clock;
    this.#world = world;
  }

  event(...args: Parameters<EventSink['event']>): void {
    const started = this.#clock();
    this.#sink.event(...args);
    this.#add(this.#clock() - started);
  }

  stateDigest(eventCount: number, insns: number): void {
    const started = this.#clock();
    this.#sink.stateDigest?.(eventCount, insns);
    this.#add(this.#clock() - started);
  }

  #add(ms: number): void {
    this.loggingMs += ms;
    if (this.#world.profile?.running === true) this.insideMs += ms;
  }
}

export interface Profile {
  readonly translationMs: number;
  readonly executionMs: number;
  readonly hypervisorMs: number;
  readonly loggingMs: number;
  readonly counters: CpuCounters;
}

/** Undefined if the world was built without a clock. */
export function profileOf(world: World, sink: TimedSink | undefined): Profile | undefined {
  if (world.profile === undefined) return undefined;
  const counters: CpuCounters = { evaluatedInsns: 0, interpretedInsns: 0, translatedInsns: 0, regionsTranslated: 0, modulesCompiled: 0, translateMs: 0 };
  for (const domain of world.hv.domains.values()) {
    for (const { cpu } of domain.vcpus) {
      if (cpu?.counters === undefined) continue;
      for (const key of Object.keys(counters) as (keyof CpuCounters)[]) counters[key] += cpu.counters[key];
    }
  }
  return {
    translationMs: counters.translateMs,
    executionMs: world.profile.processorMs - counters.translateMs,
    hypervisorMs: world.profile.hypervisorMs - (sink?.insideMs ?? 0),
    loggingMs: sink?.loggingMs ?? 0,
    counters,
  };
}

export function profileLines(profile: Profile): string[] {
  const parts: [string, number][] = [['translation', profile.translationMs], ['execution', profile.executionMs], ['hypervisor', profile.hypervisorMs], ['logging', profile.loggingMs]];
  const total = parts.reduce((sum, [, ms]) => sum + ms, 0);
  const { counters } = profile;
  return [
    ...parts.map(([name, ms]) => `${name.padEnd(14)} ${ms.toFixed(1).padStart(9)} ms  ${((100 * ms) / total).toFixed(1).padStart(5)} %`),
    `               ${counters.evaluatedInsns} instructions evaluated, ${counters.interpretedInsns} interpreted, ${counters.regionsTranslated} regions in ${counters.modulesCompiled} modules translated`,
  ];
}
