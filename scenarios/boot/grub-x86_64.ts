// Debian's PV GRUB, unmodified: the first program of a Debian domU in the field. It takes over the
// page tables that Xen's builder made, maps a heap page by page, pins a new tree in one long
// preempted batch, talks to xenstored about disks, and then waits for keys at its prompt.
//
// The script types what a person would. GRUB polls its console, so the guest never idles.
import { defineScenario } from '../../src/sim/scenario.ts';

const PROMPT = 'grub> ';

export const scenario = defineScenario({
  name: 'grub-x86_64',
  title: "Debian's 64-bit PV GRUB boots to its prompt, answers five commands and halts",
  needs: ['grub-x86_64'],
  domains: [{ name: 'grub', kernel: { name: 'grub-x86_64' }, cmdline: '', memoryMib: 128 }],
  input: ['set', 'lsmod', 'echo rexen', 'help', 'halt'].map((command) => ({ domain: 'grub', after: PROMPT, delayNs: 1_000_000, send: `${command}\r` })),
  expect: { outcome: 'poweroff', console: ['grub> ', 'rexen'] },
});
