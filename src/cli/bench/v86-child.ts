// Runs the multiboot build of the compute kernels in v86 and prints one JSON line a kernel pass:
// {"name":"K1","checksum":"e59da1b7","cpuMs":...,"wallMs":...}. A process of its own, so that its
// compiler threads are counted with it and not with ours.
//   v86-child.ts IMAGE BIOS VGABIOS PASSES
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { KernelTimer } from './kernel-timer.ts';

const [image, bios, vgaBios, passesText] = process.argv.slice(2) as [string, string, string, string];
const wanted = Number(passesText) * 4;
const folder = dirname(createRequire(import.meta.url).resolve('v86'));
const { V86 } = (await import('v86')) as { V86: new (options: unknown) => { add_listener(name: string, listener: (byte: number) => void): void } };

const bytes = (path: string): { buffer: ArrayBuffer } => {
  const file = readFileSync(path);
  return { buffer: file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength) as ArrayBuffer };
};
const emulator = new V86({
  wasm_path: join(folder, 'v86.wasm'),
  memory_size: 64 * 1024 * 1024,
  bios: bytes(bios),
  vga_bios: bytes(vgaBios),
  multiboot: bytes(image),
  autostart: true,
});
let seen = 0;
const timer = new KernelTimer((row) => {
  process.stdout.write(`${JSON.stringify(row)}\n`);
  if (++seen === wanted) process.exit(0);
});
emulator.add_listener('serial0-output-byte', (byte) => timer.text(String.fromCharCode(byte)));
