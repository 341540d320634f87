// Debian's own kernel, unmodified, as most PV domains in the field run it: a 64-bit guest in ring 3 whose
// user space shares the ring with it, page tables that only Xen may write, and drivers that talk to
// dom0 through rings of granted pages.
//
// `rexen fetch debian-linux` makes the initramfs from Debian's static busybox and the kernel package's own
// modules, for in Debian's kernels blkfront, netfront and ext4 are modules, and a root disk. /init says
// BOOT-OK, then takes one step after another (src/node/linux/init-script.ts): checks the checksums of
// the files on the disk, writes one and reads it back from the disk, gets an address by DHCP, pings the
// gateway. ALL-OK comes only if each went well, and the exit code follows it.
import { defineScenario } from '../../src/sim/scenario.ts';
import { linuxDomain } from '../../src/sim/linux-domain.ts';

export const scenario = defineScenario({
  name: 'debian-linux',
  title: "Debian's 64-bit Linux boots to user space with console, disk and network",
  needs: ['debian-linux'],
  domains: [linuxDomain({ name: 'linux', kernel: 'debian-linux' })],
  expect: { outcome: 'poweroff', console: ['BOOT-OK', 'ALL-OK'] },
  interactive: { cmdline: 'console=hvc0 rexen.shell' },
});
