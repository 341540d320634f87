// What came from outside reaches the back end that it is for. It is an event first.
import { EVENT } from '../abi/events.ts';
import type { Input } from './input.ts';
import { DOM0_SERVICE, type World } from './world.ts';

export function deliverInput(world: World, input: Exclude<Input, { kind: 'stop' }>): void {
  const { domId } = input;
  if (input.kind === 'command') {
    world.emit(EVENT.command, domId, 0, [world.steps], new TextEncoder().encode(JSON.stringify(input.command)));
    world.services.get(0, DOM0_SERVICE)?.command?.(domId, input.command);
  } else {
    world.emit(EVENT.consoleIn, domId, 0, [world.steps], input.bytes);
    world.services.get(domId, 'console')?.input?.(input.bytes);
  }
}
