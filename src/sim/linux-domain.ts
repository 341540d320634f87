// A domain that boots one of Debian's kernels with what `rexen fetch` made for it.
import type { DomainSpec } from './spec.ts';

export interface LinuxDomain {
  readonly name: string;
  /** As for `rexen fetch`. */
  readonly kernel: string;
  readonly cmdline?: string;
  /** The last two digits of its network address, hex. */
  readonly macEnd?: string;
}

export function linuxDomain({ name, kernel, cmdline = 'console=hvc0', macEnd = '01' }: LinuxDomain): DomainSpec {
  return {
    name, cmdline, memoryMib: 256,
    kernel: { name: kernel },
    ramdisk: { name: `${kernel}-initramfs` },
    disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'linux-root-disk' } }],
    vifs: [{ mac: `00:16:3e:00:00:${macEnd}`, bridge: 'xenbr0' }],
  };
}
