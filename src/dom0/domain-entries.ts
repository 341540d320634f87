// What a toolstack writes into xenstore for a new domain, before it runs: names, rings, memory, the
// directories that the guest may write. Names, values and rights as libxl's (libxl__domain_make,
// libxl__build_post in tools/libs/light/libxl_create.c and libxl_dom.c); the emulated parts, the
// virtual machine's own files under /libxl and block and network devices are not here.
import { perm } from './store-tree.ts';
import type { Xenstored } from './xenstored.ts';

export interface DomainEntries {
  readonly domId: number;
  readonly name: string;
  /** What it is to have, and up to which that may be raised. */
  readonly memoryKib: number;
  readonly maxMemoryKib: number;
  readonly vcpus: number;
  readonly storeMfn: number;
  readonly storePort: number;
  readonly consoleMfn: number;
  readonly consolePort: number;
}

/** A made-up but stable identity: nothing random may enter here. */
export const domainUuid = (domId: number): string => `00000000-0000-4000-8000-${domId.toString(16).padStart(12, '0')}`;

export const memoryTargetPath = (domId: number): string => `/local/domain/${domId}/memory/target`;

/** Introduces the domain and writes its entries. */
export function writeDomainEntries(store: Xenstored, entries: DomainEntries): void {
  const { domId } = entries;
  const home = `/local/domain/${domId}`;
  const vm = `/vm/${domainUuid(domId)}`;
  const readOnly = [perm(0, ''), perm(domId, 'r')];
  const ownedByGuest = [perm(domId, '')];
  store.introduce(domId);
  store.mkdirAsDom0(home, readOnly);
  store.mkdirAsDom0(vm, readOnly);
  store.writeAsDom0(`${home}/vm`, vm);
  store.writeAsDom0(`${home}/name`, entries.name);
  store.writeAsDom0(`${vm}/name`, entries.name);
  store.writeAsDom0(`${vm}/uuid`, domainUuid(domId));
  for (const name of ['cpu', 'memory', 'device', 'control']) store.mkdirAsDom0(`${home}/${name}`, readOnly);
  for (const name of ['control/shutdown', 'control/feature-poweroff', 'control/feature-reboot', 'control/feature-suspend', 'control/sysrq']) store.writeAsDom0(`${home}/${name}`, '', ownedByGuest);
  for (const name of ['data', 'drivers', 'feature', 'attr', 'error']) store.mkdirAsDom0(`${home}/${name}`, ownedByGuest);
  store.writeAsDom0(`${home}/control/platform-feature-multiprocessor-suspend`, '1');
  store.writeAsDom0(`${home}/control/platform-feature-xs_reset_watches`, '1');
  store.writeAsDom0(`${home}/domid`, String(domId));
  store.writeAsDom0(`${home}/memory/static-max`, String(entries.maxMemoryKib));
  store.writeAsDom0(memoryTargetPath(domId), String(entries.memoryKib));
  store.writeAsDom0(`${home}/memory/videoram`, '0');
  store.writeAsDom0(`${home}/store/ring-ref`, String(entries.storeMfn));
  store.writeAsDom0(`${home}/store/port`, String(entries.storePort));
  for (let vcpuId = 0; vcpuId < entries.vcpus; vcpuId++) store.writeAsDom0(`${home}/cpu/${vcpuId}/availability`, 'online');
  store.writeAsDom0(`${home}/console/backend-id`, '0');
  store.writeAsDom0(`${home}/console/type`, 'xenconsoled');
  store.writeAsDom0(`${home}/console/output`, 'pty');
  store.writeAsDom0(`${home}/console/limit`, '1048576');
  store.writeAsDom0(`${home}/console/ring-ref`, String(entries.consoleMfn));
  store.writeAsDom0(`${home}/console/port`, String(entries.consolePort));
}
