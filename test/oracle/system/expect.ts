// Writes test/oracle/system/expected: QEMU's answers to the images, with corrections.ts applied.
// npx tsx test/oracle/system/expect.ts [image...]. Needs qemu-system-i386.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { correct, IMAGES, runQemu } from './qemu.ts';

const folder = dirname(fileURLToPath(import.meta.url));
mkdirSync(join(folder, 'expected'), { recursive: true });
const wanted = process.argv.slice(2);
for (const image of IMAGES) {
  if (wanted.length > 0 && !wanted.includes(image)) continue;
  const { text, used } = correct(image, runQemu(join(folder, 'images', `${image}.elf`)));
  writeFileSync(join(folder, 'expected', `${image}.txt`), text);
  process.stdout.write(`${image}: ${text.split('\n').length - 1} lines, ${used} corrected\n`);
}
