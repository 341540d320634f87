// Images that the product does not contain but knows where to get: rows. A fetched image is pinned
// by its hash in every recording, so that a newer package never changes an old recording silently.
export interface KnownImage {
  readonly name: string;
  readonly title: string;
  /** Debian's package, or with `metaPackage` one that depends on it. */
  readonly debianPackage: string;
  readonly metaPackage?: boolean;
  /** Another suite of Debian's archive than the machine's own. */
  readonly suite?: string;
  /** The file inside the package; the first match counts. */
  readonly inside: RegExp;
  /** A Linux kernel: an initramfs is made from its package's modules, and a root disk (linux/guest-files.ts). */
  readonly linux?: boolean;
  /** A disk with a menu for GRUB is made as well: GRUB can unpack XZ, but not the cloud flavour's LZ4. */
  readonly bootDisk?: boolean;
}

/** Until Debian 13, and since Debian 14; group 1 or 2 is the kernel's release. */
const LINUX_FILE = /^(?:boot\/vmlinuz-([^/]+)|usr\/lib\/modules\/([^/]+)\/vmlinuz)$/;
const PLAIN_LINUX = /^(?:boot\/vmlinuz-[^/]*(?<!-cloud|-rt)-amd64|usr\/lib\/modules\/[^/]*(?<!-cloud|-rt)-amd64\/vmlinuz)$/;
const CLOUD_LINUX = /^(?:boot\/vmlinuz-[^/]*-cloud-amd64|usr\/lib\/modules\/[^/]*-cloud-amd64\/vmlinuz)$/;

export const KNOWN_IMAGES: readonly KnownImage[] = [
  { name: 'grub-i386', title: "Debian's 32-bit PV GRUB", debianPackage: 'grub-xen-host', inside: /^usr\/lib\/grub-xen\/grub-i386-xen\.bin$/ },
  { name: 'grub-x86_64', title: "Debian's 64-bit PV GRUB", debianPackage: 'grub-xen-host', inside: /^usr\/lib\/grub-xen\/grub-x86_64-xen\.bin$/ },
  { name: 'debian-linux', title: "Debian's Linux kernel for 64-bit machines", debianPackage: 'linux-image-amd64', metaPackage: true, inside: PLAIN_LINUX, linux: true, bootDisk: true },
  { name: 'debian-linux-cloud', title: "Debian's Linux kernel for 64-bit virtual machines", debianPackage: 'linux-image-cloud-amd64', metaPackage: true, inside: CLOUD_LINUX, linux: true },
  { name: 'debian-linux-bullseye', title: "Debian 11's Linux kernel (5.10)", debianPackage: 'linux-image-amd64', metaPackage: true, suite: 'bullseye', inside: PLAIN_LINUX, linux: true, bootDisk: true },
  { name: 'debian-linux-bookworm', title: "Debian 12's Linux kernel (6.1)", debianPackage: 'linux-image-amd64', metaPackage: true, suite: 'bookworm', inside: PLAIN_LINUX, linux: true, bootDisk: true },
  { name: 'debian-linux-trixie', title: "Debian 13's Linux kernel (6.12)", debianPackage: 'linux-image-amd64', metaPackage: true, suite: 'trixie', inside: PLAIN_LINUX, linux: true, bootDisk: true },
  { name: 'debian-linux-sid', title: "Debian unstable's Linux kernel, the newest", debianPackage: 'linux-image-amd64', metaPackage: true, suite: 'sid', inside: PLAIN_LINUX, linux: true, bootDisk: true },
  { name: 'busybox', title: "Debian's static busybox, the user space of the Linux guests", debianPackage: 'busybox-static', inside: /^(?:usr\/)?bin\/busybox$/ },
];

export const knownImage = (name: string): KnownImage | undefined => KNOWN_IMAGES.find((row) => row.name === name);

/** The release of the kernel that is this file of a package; undefined for other files. */
export function kernelRelease(inside: string): string | undefined {
  const match = LINUX_FILE.exec(inside);
  return match?.[1] ?? match?.[2];
}

/** A row for a kernel that is none of the known ones. */
export const otherLinux = (name: string, debianPackage: string): KnownImage => ({ name, title: `the Linux kernel ${name}`, debianPackage, inside: LINUX_FILE, linux: true });

export const initramfsNameOf = (kernel: string): string => `${kernel}-initramfs`;
/** A disk from which GRUB can load the kernel. */
export const bootDiskNameOf = (kernel: string): string => `${kernel}-boot-disk`;
/** The root disk of the Linux guests; the same for every kernel. */
export const LINUX_DISK = 'linux-root-disk';

/** What to give `rexen fetch` to get that image; undefined if it is none of ours. */
export function fetchedWith(name: string): string | undefined {
  if (name === LINUX_DISK) return 'debian-linux';
  const made = (row: KnownImage): string[] => [...(row.linux === true ? [initramfsNameOf(row.name)] : []), ...(row.bootDisk === true ? [bootDiskNameOf(row.name)] : [])];
  return KNOWN_IMAGES.find((row) => row.name === name || made(row).includes(name))?.name;
}
