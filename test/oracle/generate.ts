// Regenerates test/oracle/vectors: npx tsx test/oracle/generate.ts [group...]. Needs Linux and gcc -m32.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { GROUPS, makeCases } from './groups.ts';
import { runLive } from './live.ts';
import { formatVector } from './vector.ts';

const folder = join(dirname(fileURLToPath(import.meta.url)), 'vectors');
mkdirSync(folder, { recursive: true });
const wanted = process.argv.slice(2);
let total = 0, bytes = 0;
for (const group of GROUPS) {
  if (wanted.length > 0 && !wanted.includes(group.name)) continue;
  const cases = makeCases(group);
  const outcomes = runLive(cases);
  const counted = group.count === true ? runLive(cases, true) : [];
  const lines = cases.map((input, i) => {
    const outcome = outcomes[i];
    if (outcome === undefined) throw new Error(`no outcome for case ${i} of ${group.name}`);
    const steps = counted[i];
    // A trap flag of the case's own would be counted too, and one that PUSHF showed changes the course.
    const same = steps !== undefined && steps.eip === outcome.eip && steps.regs.every((value, r) => value === outcome.regs[r]);
    const retired = !same || steps.retired === undefined || (input.eflags & 0x100) !== 0 ? {} : { retired: steps.retired };
    return formatVector({ input, outcome: { ...outcome, ...retired } });
  });
  const packed = gzipSync(`${lines.join('\n')}\n`, { level: 9 });
  writeFileSync(join(folder, `${group.name}.txt.gz`), packed);
  total += lines.length;
  bytes += packed.length;
  process.stdout.write(`${group.name}: ${lines.length} vectors, ${packed.length} bytes\n`);
}
process.stdout.write(`${total} vectors, ${bytes} bytes\n`);
