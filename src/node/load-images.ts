// Brings in the files that a spec names: finds, unpacks and understands them before a world is built.
import { UsageError } from '../base/assert.ts';
import { blake3 } from '../base/hash.ts';
import type { ImageReader } from '../dom0/ports.ts';
import { parseKernel } from '../hypervisor/build/kernel-image.ts';
import type { ImageRef as LoggedImage } from '../log/packets.ts';
import type { DomainImages } from '../sim/build-world.ts';
import { modelGuestProblem } from '../guest/check-spec.ts';
import { modelKernelImage } from '../sim/model/model-image.ts';
import type { ImageRef, WorldSpec } from '../sim/spec.ts';
import { loggedDisk, openDiskImage, type DiskImage } from './disk-image.ts';
import { resolveImage } from './image-store.ts';
import { unpackedKernel } from './unpacked-kernels.ts';

export interface LoadedImages {
  readonly domains: readonly DomainImages[];
  /** Each file once, for the recording's header. */
  readonly files: readonly { readonly ref: LoggedImage; /** As the spec names it. */ readonly name: string }[];
  /** Disk images that were written to by others since they were opened: their names. */
  changedDisks(): string[];
}

/** Where images come from: by the names that the spec gives them. */
export interface ImageSource {
  bytes(name: string): Uint8Array | Promise<Uint8Array>;
  disk(name: string): DiskImage;
}

const HOST_IMAGES: ImageSource = { bytes: (name) => resolveImage(name).bytes, disk: openDiskImage };

const lastPart = (name: string): string => (name.startsWith('builtin:') ? name : (name.split(/[\\/]/).at(-1) as string));

/** How files are named in a recording: by the last part of the path, so that the folder does not matter; two files of one name are told apart. */
export function loggedNames(spec: WorldSpec): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  const taken = new Set<string>();
  for (const { kernel, ramdisk, disks = [] } of spec.domains) {
    for (const image of [kernel, ...(ramdisk === undefined ? [] : [ramdisk]), ...disks.map((disk) => disk.image)]) {
      if (names.has(image.name)) continue;
      const plain = lastPart(image.name);
      let name = plain;
      for (let count = 2; taken.has(name); count++) name = `${plain}~${count}`;
      taken.add(name);
      names.set(image.name, name);
    }
  }
  return names;
}

/** The spec as a recording carries it: without the folders of this machine. */
export function portableSpec(spec: WorldSpec): WorldSpec {
  const names = loggedNames(spec);
  const named = (image: ImageRef): ImageRef => ({ name: names.get(image.name) as string });
  const domains = spec.domains.map((domain) => ({
    ...domain,
    kernel: named(domain.kernel),
    ...(domain.ramdisk === undefined ? {} : { ramdisk: named(domain.ramdisk) }),
    ...(domain.disks === undefined ? {} : { disks: domain.disks.map((disk) => ({ ...disk, image: named(disk.image) })) }),
  }));
  return { ...spec, domains };
}

export async function loadImages(spec: WorldSpec, source: ImageSource = HOST_IMAGES): Promise<LoadedImages> {
  const names = loggedNames(spec);
  const files = new Map<string, { ref: LoggedImage; name: string }>();
  const loaded = new Map<string, Uint8Array>();
  const disks = new Map<string, DiskImage>();
  const load = async (name: string): Promise<Uint8Array> => {
    const known = loaded.get(name);
    if (known !== undefined) return known;
    const bytes = await source.bytes(name);
    loaded.set(name, bytes);
    files.set(name, { ref: { name: names.get(name) as string, sizeBytes: bytes.length, blake3: blake3(bytes) }, name });
    return bytes;
  };
  const open = (name: string): ImageReader => {
    const image = disks.get(name) ?? source.disk(name);
    disks.set(name, image);
    const ref = loggedDisk(names.get(name) as string, image);
    if (ref !== undefined && !files.has(name)) files.set(name, { ref, name });
    return image.reader;
  };
  const domains: DomainImages[] = [];
  for (const domain of spec.domains) {
    const { name } = domain.kernel;
    const opened = (domain.disks ?? []).map((disk) => open(disk.image.name));
    if (domain.model !== undefined) {
      const problem = modelGuestProblem(domain.model);
      if (problem !== undefined) throw new UsageError(`${name} ${problem}`);
      domains.push({ kernel: modelKernelImage(domain.model), ramdisk: undefined, disks: opened });
      continue;
    }
    const kernel = parseKernel(await unpackedKernel(await load(name), name));
    if ('problem' in kernel) throw new UsageError(`${name} ${kernel.problem}`);
    domains.push({ kernel, ramdisk: domain.ramdisk === undefined ? undefined : await load(domain.ramdisk.name), disks: opened });
  }
  return { domains, files: [...files.values()], changedDisks: () => [...disks].filter(([, image]) => image.changed()).map(([name]) => name) };
}
