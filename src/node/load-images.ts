// Brings in the files that a spec names: finds, unpacks and understands them before a world is built.
import { UsageError } from '../base/assert.ts';
import { blake3 } from '../base/hash.ts';
import { parseKernel } from '../hypervisor/build/kernel-image.ts';
import type { ImageRef as LoggedImage } from '../log/packets.ts';
import type { DomainImages } from '../sim/build-world.ts';
import { modelKernelImage } from '../sim/model/model-image.ts';
import type { WorldSpec } from '../sim/spec.ts';
import { resolveImage } from './image-store.ts';
import { unwrapKernel } from './unwrap-kernel.ts';

export interface LoadedImages {
  readonly domains: readonly DomainImages[];
  /** Each file once, for the recording's header. */
  readonly files: readonly { readonly ref: LoggedImage; readonly bytes: Uint8Array; /** As the spec names it. */ readonly name: string }[];
}

/** How a file is named in a recording: a path's last part, so that the folder does not matter. */
export const loggedName = (name: string): string => (name.startsWith('builtin:') ? name : (name.split(/[\\/]/).at(-1) as string));

/** `find` delivers a file's bytes by the name that the spec gives it. */
export async function loadImages(spec: WorldSpec, find: (name: string) => Uint8Array | Promise<Uint8Array> = (name) => resolveImage(name).bytes): Promise<LoadedImages> {
  const files = new Map<string, { ref: LoggedImage; bytes: Uint8Array; name: string }>();
  const load = async (name: string): Promise<Uint8Array> => {
    const known = files.get(name);
    if (known !== undefined) return known.bytes;
    const bytes = await find(name);
    files.set(name, { ref: { name: loggedName(name), sizeBytes: bytes.length, blake3: blake3(bytes) }, bytes, name });
    return bytes;
  };
  const domains: DomainImages[] = [];
  for (const domain of spec.domains) {
    const { name } = domain.kernel;
    if (domain.model !== undefined) {
      domains.push({ kernel: modelKernelImage(domain.model), ramdisk: undefined });
      continue;
    }
    const kernel = parseKernel(await unwrapKernel(await load(name), name));
    if ('problem' in kernel) throw new UsageError(`${name} ${kernel.problem}`);
    domains.push({ kernel, ramdisk: domain.ramdisk === undefined ? undefined : await load(domain.ramdisk.name) });
  }
  return { domains, files: [...files.values()] };
}
