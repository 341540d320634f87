// Images that the product does not contain but knows where to get: rows. A fetched image is pinned
// by its hash in every recording, so that a newer package never changes an old recording silently.
export interface KnownImage {
  readonly name: string;
  readonly title: string;
  /** Debian's package, or with `metaPackage` one that depends on it. */
  readonly debianPackage: string;
  readonly metaPackage?: boolean;
  /** The file inside the package; the first match counts. */
  readonly inside: RegExp;
}

export const KNOWN_IMAGES: readonly KnownImage[] = [
  { name: 'grub-i386', title: "Debian's 32-bit PV GRUB", debianPackage: 'grub-xen-host', inside: /^usr\/lib\/grub-xen\/grub-i386-xen\.bin$/ },
  { name: 'grub-x86_64', title: "Debian's 64-bit PV GRUB", debianPackage: 'grub-xen-host', inside: /^usr\/lib\/grub-xen\/grub-x86_64-xen\.bin$/ },
  { name: 'debian-linux', title: "Debian's Linux kernel for 64-bit machines", debianPackage: 'linux-image-amd64', metaPackage: true, inside: /^boot\/vmlinuz-[^/]*(?<!-cloud)-amd64$/ },
  { name: 'debian-linux-cloud', title: "Debian's Linux kernel for 64-bit virtual machines", debianPackage: 'linux-image-cloud-amd64', metaPackage: true, inside: /^boot\/vmlinuz-[^/]*-cloud-amd64$/ },
];

export const knownImage = (name: string): KnownImage | undefined => KNOWN_IMAGES.find((row) => row.name === name);
