// Runs the compute kernels inside our own guest and prints one JSON line a kernel pass, as
// v86-child.ts does for v86. A process of its own for the same reason.
//   guest-child.ts PASSES [KERNELS]
import '../../node/engine-flags.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { loadImages } from '../../node/load-images.ts';
import { findScenario } from '../../node/scenario-files.ts';
import { buildWorld } from '../../sim/build-world.ts';
import { SeededChoices } from '../../sim/choices.ts';
import { ScriptedInput } from '../../sim/input.ts';
import { KernelTimer } from './kernel-timer.ts';

const [passes, kernels] = process.argv.slice(2);
await loadHashes();
const scenario = await findScenario('pv-i386-pae');
const spec = { ...scenario.spec, domains: scenario.spec.domains.map((domain) => ({ ...domain, cmdline: `bench${kernels === undefined ? '' : `=${kernels}`} passes=${passes}` })) };
const images = await loadImages(spec);
const timer = new KernelTimer((row) => void process.stdout.write(`${JSON.stringify(row)}\n`));
const world = buildWorld({
  spec, images: images.domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput([], domIdOf),
  observers: { consoleOut: (_domId, bytes) => timer.text(Buffer.from(bytes).toString('latin1')) },
});
while (world.ended === undefined) {
  world.advance(20_000_000);
  // The engine's compiler threads hand in better code between turns.
  await new Promise((resolve) => setImmediate(resolve));
}
