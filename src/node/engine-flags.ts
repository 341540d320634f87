// What this process asks of V8, before the first processor is made. Imported for its effect by the programs
// that run guests.
//
// V8 compiles WebAssembly quickly first and optimises in background threads what has executed 1.8 million units of
// code. A guest's boot is full of code that gets just that warm and then is not needed any more: measured, a wide
// 32-bit program of 395 million instructions took 3.2 CPU seconds with V8's default and 2.6 with this value, GRUB's
// boot 2.2 and 2.0, while hot loops (K1 to K4 of the bench) are optimised as before. Only speed depends on it.
import { setFlagsFromString } from 'node:v8';

setFlagsFromString('--wasm-tiering-budget=200000000');

// The same of JavaScript: a boot goes through much code of ours that is warm for a moment (decoding, lowering, making
// programs), and a third of its CPU time was V8's compilers in other threads. Medians of three interleaved runs on a busy
// machine, default (67,584) against four times that: GRUB 4.9 and 4.3 CPU seconds, our guest 2.3 and 2.1, fork-storm no
// difference; nine and more times were not told apart from it. Only where V8 has it: others complain of what they do not know.
if (process.versions.v8.startsWith('11.')) setFlagsFromString('--interrupt-budget=400000');
