// What a guest printed right before it went down reaches the console, however late the back end is.
import { expect, test } from 'vitest';
import { CONSOLE_RING } from '../../src/abi/console-ring.ts';
import { crashDomain } from '../../src/hypervisor/vcpu-state.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import { imagesOf } from '../replay/boots.ts';

const ESI = 6;
/** Of a 32-bit struct start_info. */
const START_INFO = { consoleMfn: 52, consolePort: 56 } as const;

test('the last lines of a guest that crashes are printed', async () => {
  const { spec } = await findScenario('pv-i386-pae');
  const { domains } = await imagesOf(spec);
  let printed = '';
  const world = buildWorld({
    spec, images: domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput([], domIdOf),
    observers: { consoleOut: (_domId, bytes) => void (printed += new TextDecoder('latin1').decode(bytes)) },
  });
  const vcpu = world.hv.vcpu(1, 0);
  if (vcpu?.cpu === undefined) throw new Error('no vCPU 0');
  const startInfo = vcpu.cpu.reg(ESI);
  const ring = (world.hv.access.readU32(vcpu, startInfo + START_INFO.consoleMfn) as number) * 4096;
  const words = new TextEncoder().encode('Kernel panic\n');
  world.machine.writeBytes(ring + CONSOLE_RING.fields.out.at, words);
  world.machine.writeU32(ring + CONSOLE_RING.fields.out_prod.at, words.length);
  world.notifyBackend(1, world.hv.access.readU32(vcpu, startInfo + START_INFO.consolePort) as number);

  crashDomain(world.hv, vcpu.domain, 'a panic');

  expect(world.ended?.outcome).toBe('crash');
  expect(printed).toBe('Kernel panic\n');
});
