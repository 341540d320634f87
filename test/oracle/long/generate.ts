// Regenerates the 64-bit vectors: npx tsx test/oracle/long/generate.ts [group...]. Needs Linux on x86-64 and gcc.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { LONG_GROUPS, makeLongCases } from './cases.ts';
import { runLongLive } from './live.ts';
import { formatLong } from './vector.ts';

const wanted = process.argv.slice(2);
for (const group of LONG_GROUPS) {
  if (wanted.length > 0 && !wanted.includes(group.name)) continue;
  const cases = makeLongCases(group);
  const outcomes = runLongLive(cases);
  const counted = group.count === true ? runLongLive(cases, true) : [];
  const lines = cases.map((input, i) => {
    const outcome = outcomes[i];
    if (outcome === undefined) throw new Error(`no outcome for case ${i} of ${group.name}`);
    const retired = counted[i]?.retired;
    return formatLong({ input, outcome: { ...outcome, ...(retired === undefined ? {} : { retired }) } });
  });
  const packed = gzipSync(`${lines.join('\n')}\n`, { level: 9 });
  writeFileSync(join(import.meta.dirname, '..', 'vectors', `${group.name}.txt.gz`), packed);
  process.stdout.write(`${group.name}: ${lines.length} vectors, ${packed.length} bytes\n`);
}
