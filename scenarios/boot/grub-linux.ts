// How a Debian domain boots in the field: dom0 starts PV GRUB, which reads the domain's own disk through its
// block frontend, finds the menu, loads kernel and initramfs, and hands the whole domain over: its page tables,
// its grants, its event channels. Linux must find a machine as if Xen had built it for Linux, so GRUB gives
// back what it used, in one recording with what Linux does after.
//
// GRUB unpacks the kernel itself (XZ; part of it twice, since it looks for the ELF notes first), so this takes
// several times the instructions of Linux's own boot.
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'grub-linux',
  title: "PV GRUB loads Debian's 64-bit Linux from a disk and starts it",
  needs: ['grub-x86_64', 'debian-linux'],
  domains: [{
    name: 'debian', memoryMib: 256, cmdline: '',
    kernel: { name: 'grub-x86_64' },
    disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'debian-linux-boot-disk' } }],
    vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }],
  }],
  expect: { outcome: 'poweroff', console: ['BOOT-OK', 'ALL-OK'] },
});
