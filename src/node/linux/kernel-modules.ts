// The modules that a guest must load, out of a Debian kernel package: those wanted and what they
// depend on, in the order in which they must be loaded. A package has no modules.dep (depmod makes it
// at installation), so the modules' own `.modinfo` sections say it: `depends=` and `softdep=pre:`.
import { UsageError } from '../../base/assert.ts';
import { readElf } from '../../hypervisor/build/elf-file.ts';
import type { PackageFile } from '../debian-package.ts';
import { unpackXz } from '../xz.ts';

export interface KernelModule {
  /** As modprobe knows it: underscores, no ending. */
  readonly name: string;
  readonly bytes: Uint8Array;
}

const MODULE_FILE = /^(?:usr\/)?lib\/modules\/[^/]+\/(?:.*\/)?([^/]+)\.ko(\.xz)?$/;
const BUILTIN_LIST = /^(?:usr\/)?lib\/modules\/[^/]+\/modules\.builtin$/;

/** Package files that planModules() wants to see. */
export const isModuleFile = (path: string): boolean => MODULE_FILE.test(path) || BUILTIN_LIST.test(path);

const modprobeName = (name: string): string => name.replaceAll('-', '_');

/** `key=value` texts of a module's .modinfo section. */
export function moduleInfo(bytes: Uint8Array, name: string): ReadonlyMap<string, string> {
  const elf = readElf(bytes);
  const section = 'problem' in elf ? undefined : elf.sections.find((candidate) => candidate.name === '.modinfo');
  if (section === undefined) throw new UsageError(`the module ${name} of this kernel package has no .modinfo section`);
  const text = new TextDecoder('latin1').decode(bytes.subarray(section.offset, section.offset + section.sizeBytes));
  const pairs = text.split('\0').flatMap((pair): [string, string][] => {
    const equals = pair.indexOf('=');
    return equals < 0 ? [] : [[pair.slice(0, equals), pair.slice(equals + 1)]];
  });
  return new Map(pairs);
}

function neededBy(info: ReadonlyMap<string, string>): string[] {
  const hard = (info.get('depends') ?? '').split(',');
  const soft = /(?:^|\s)pre:\s*([^:]*?)(?:\s+post:|$)/.exec(info.get('softdep') ?? '')?.[1]?.split(/\s+/) ?? [];
  return [...hard, ...soft].filter((name) => name !== '').map(modprobeName);
}

/**
 * `wanted` in loading order with their dependencies first. What is built into the kernel is left out;
 * so is a soft dependency, or an `optional` one, that the package does not have.
 */
export async function planModules(files: readonly PackageFile[], wanted: readonly string[], optional: readonly string[] = []): Promise<KernelModule[]> {
  const builtin = new Set<string>();
  const found = new Map<string, { bytes: Uint8Array; packed: boolean }>();
  for (const { path, bytes } of files) {
    const match = MODULE_FILE.exec(path);
    if (match !== null) found.set(modprobeName(match[1] as string), { bytes, packed: match[2] !== undefined });
    else if (BUILTIN_LIST.test(path)) for (const line of new TextDecoder().decode(bytes).split('\n')) builtin.add(modprobeName(/([^/]+)\.ko$/.exec(line)?.[1] ?? ''));
  }
  const plan = new Map<string, KernelModule>();
  const load = async (name: string, needed: boolean): Promise<void> => {
    if (plan.has(name) || builtin.has(name)) return;
    const file = found.get(name);
    if (file === undefined) {
      if (needed) throw new UsageError(`this kernel package neither has the module ${name} nor says that it is built in${builtin.size === 0 ? ' (since Debian 14 both are told by packages of their own: give linux-binary-VERSION, linux-modules-VERSION and linux-base-VERSION in one command)' : ''}`);
      return;
    }
    const bytes = file.packed ? await unpackXz(file.bytes) : file.bytes;
    const info = moduleInfo(bytes, name);
    const hard = new Set((info.get('depends') ?? '').split(',').map(modprobeName));
    for (const other of neededBy(info)) await load(other, hard.has(other));
    plan.set(name, { name, bytes });
  };
  for (const name of optional) await load(modprobeName(name), false);
  for (const name of wanted) await load(modprobeName(name), true);
  return [...plan.values()];
}
