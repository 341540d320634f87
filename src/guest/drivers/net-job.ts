// What a plan wants done with a network interface. A question that is not answered is asked again, as
// often as a patient person would: frames may be lost, and the other side may not be there yet.
import type { Task } from '../operations.ts';
import type { Machinery } from './machinery.ts';
import { ECHO_PORT, type NetStack } from './net-stack.ts';
import type { NetJob, NetStep } from './plan.ts';

const TRIES = 30;
const PATIENCE_NS = 20_000_000;
const UDP_PORT = 40_000;
const IDENTIFIER = 0x7265;

/** An interface as jobs see it, before its device is found. */
export interface Interface {
  readonly name: string;
  readonly ip: string;
  /** Once its device has been found. */
  stack: NetStack | undefined;
}

export function* netJob(machinery: Machinery, face: Interface, job: NetJob): Task {
  const there = yield* machinery.until(() => face.stack !== undefined || machinery.stopping, (yield* machinery.events.now()) + TRIES * PATIENCE_NS);
  if (!there || face.stack === undefined) return yield* machinery.complain(`${face.name}: the interface does not appear`);
  yield* machinery.say(`${face.name}: ${face.stack.mac} has ${face.ip}`);
  for (const step of job.steps) {
    const problem = yield* oneStep(machinery, face.name, face.stack, step);
    if (problem !== undefined) return yield* machinery.complain(`${face.name}: ${problem}`);
  }
  yield* machinery.say(`${face.name}: all steps done`);
}

function* oneStep(machinery: Machinery, name: string, stack: NetStack, step: NetStep): Task<string | undefined> {
  switch (step.do) {
    case 'serve':
      yield* machinery.until(() => machinery.stopping || stack.answered >= (step.pings ?? Infinity), step.ns === undefined ? Infinity : (yield* machinery.events.now()) + step.ns);
      yield* machinery.say(`${name}: ${stack.answered} pings answered`);
      return undefined;
    case 'ping':
      for (let sequence = 1; sequence <= step.times; sequence++) {
        if (!(yield* asked(machinery, stack, step.to, () => stack.ping(step.to, IDENTIFIER, sequence), () => stack.echoes.has(`${step.to} ${IDENTIFIER} ${sequence}`)))) return `${step.to} does not answer ping ${sequence}`;
      }
      yield* machinery.say(`${name}: ${step.to} answered ${step.times} pings`);
      return undefined;
    case 'udp':
      for (let number = 1; number <= step.times; number++) {
        const data = Uint8Array.from({ length: 8 + number }, (_, index) => (number * 31 + index) & 0xff);
        const isEcho = (): boolean => stack.datagrams.some((got) => got.from === step.to && got.fromPort === ECHO_PORT && got.toPort === UDP_PORT && got.data.length === data.length && got.data.every((byte, at) => byte === data[at]));
        if (!(yield* asked(machinery, stack, step.to, () => stack.send(step.to, UDP_PORT, ECHO_PORT, data), isEcho))) return `${step.to} does not send back datagram ${number}`;
      }
      yield* machinery.say(`${name}: ${step.to} sent back ${step.times} datagrams`);
      return undefined;
  }
}

/** Asks until it is answered: false, if it never is. */
function* asked(machinery: Machinery, stack: NetStack, to: string, ask: () => void, isAnswered: () => boolean): Task<boolean> {
  for (let tries = 0; tries < TRIES && !machinery.stopping; tries++) {
    const knows = stack.knows(to);
    knows ? ask() : stack.askFor(to);
    machinery.wake();
    const came = yield* machinery.until(() => (knows ? isAnswered() : stack.knows(to)) || machinery.stopping, (yield* machinery.events.now()) + PATIENCE_NS);
    if (came && knows && isAnswered()) return true;
  }
  return false;
}
