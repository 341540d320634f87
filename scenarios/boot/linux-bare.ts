// Debian's Linux, unmodified, as a 64-bit PV domain with nothing but a console: from Xen's first page
// tables to user space and back. The kernel makes some sixty thousand hypercalls on the way, most of
// them for page tables: its list of frames alone has a place for each page of 512 GiB.
//
// The initramfs is the one that `rexen fetch` makes; its /init says BOOT-OK, loads the drivers that find
// no devices, and powers off.
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'linux-bare',
  title: "Debian's Linux 6.1 (cloud flavour) boots to user space with a console alone, and powers off",
  needs: ['debian-linux-cloud'],
  domains: [{ name: 'linux', kernel: { name: 'debian-linux-cloud' }, ramdisk: { name: 'debian-linux-cloud-initramfs' }, cmdline: 'console=hvc0 rexen.steps=none', memoryMib: 256 }],
  expect: { outcome: 'poweroff', console: ['Linux version 6.1', 'Run /init', 'BOOT-OK', 'ALL-OK'] },
});
