// An xl.cfg file as a scenario: one domain, no script. One row a key; a key without a row is refused by
// its name, with the line, before anything starts: a guest that runs with half of its configuration
// would be worse than none. Source: docs/man/xl.cfg.5, tools/xl/xl_parse.c.
import { UsageError } from '../../base/assert.ts';
import { defineScenario, type Scenario } from '../scenario.ts';
import type { VifConfig } from '../../dom0/device-spec.ts';
import type { DiskSpec } from '../spec.ts';
import { parseDisk, parseVif, type Complain } from './devices.ts';
import { parseXlConfig, type XlValue } from './syntax.ts';

interface Draft {
  name?: string;
  kernel?: string;
  ramdisk?: string;
  cmdline?: string;
  root?: string;
  extra?: string;
  memoryMib?: number;
  maxmemMib?: number;
  maxEventChannels?: number;
  disks: DiskSpec[];
  vifs: VifConfig[];
  notes: string[];
}

type Row = (draft: Draft, value: XlValue, complain: Complain) => void;

function textOf(value: XlValue, complain: Complain): string {
  return value.kind === 'text' ? value.text : complain('wants a text, not a list');
}
function numberOf(value: XlValue, complain: Complain): number {
  const text = textOf(value, complain);
  return /^\d{1,9}$/.test(text) ? Number(text) : complain(`wants a whole number, not ${JSON.stringify(text)}`);
}
function textsOf(value: XlValue, complain: Complain): string[] {
  if (value.kind !== 'list') return complain('wants a list: [ "..." ]');
  return value.items.map((item) => (item.kind === 'text' ? item.text : complain('wants a list of texts')));
}
const text = (key: 'name' | 'kernel' | 'ramdisk' | 'cmdline' | 'root' | 'extra'): Row => (draft, value, complain) => {
  draft[key] = textOf(value, complain);
};
const only = (allowed: readonly string[], why: string): Row => (_draft, value, complain) => {
  const given = textOf(value, complain);
  if (!allowed.includes(given)) complain(`${given} is not supported; ${why}`);
};
const mebibytes = (value: XlValue, complain: Complain): number => {
  const mib = numberOf(value, complain);
  return mib < 4 || mib > 3500 ? complain(`${mib} MiB: a domain may have 4 to 3500`) : mib;
};
const withoutEffect: Row = () => undefined;

const END_ACTIONS = ['destroy', 'restart', 'rename-restart', 'preserve', 'coredump-destroy', 'coredump-restart', 'soft-reset'];
/** Whatever is to follow, the run ends there and says how. */
const atTheEnd = (key: string): Row => (draft, value, complain) => {
  const action = textOf(value, complain);
  if (!END_ACTIONS.includes(action)) complain(`${action} is no action; write destroy`);
  if (action.endsWith('restart')) draft.notes.push(`${key}="${action}": the run ends where the domain would be started again`);
};

const KEYS: Readonly<Record<string, Row>> = {
  name: text('name'), kernel: text('kernel'), ramdisk: text('ramdisk'), cmdline: text('cmdline'), root: text('root'), extra: text('extra'),
  memory: (draft, value, complain) => void (draft.memoryMib = mebibytes(value, complain)),
  maxmem: (draft, value, complain) => void (draft.maxmemMib = mebibytes(value, complain)),
  // 0 is libxl's word for its default.
  max_event_channels: (draft, value, complain) => {
    const last = numberOf(value, complain);
    if (last > 0) draft.maxEventChannels = last;
  },
  vcpus: only(['1'], 'a domain has one vCPU here'),
  maxvcpus: only(['1'], 'a domain has one vCPU here'),
  type: only(['pv'], 'only PV guests run here'),
  builder: only(['generic', 'linux'], 'only PV guests run here'),
  // Which builder, as xm said it; xl wants no such key for a PV guest (the Xen Test Framework writes it all the same).
  loader: only(['generic', 'linux'], 'only PV guests run here'),
  disk: (draft, value, complain) => {
    for (const one of textsOf(value, complain)) draft.disks.push(parseDisk(one, (problem) => complain(`${JSON.stringify(one)}: ${problem}`)));
    const twice = draft.disks.find((disk, index) => draft.disks.findIndex((other) => other.vdev === disk.vdev) !== index);
    if (twice !== undefined) complain(`two disks are called ${twice.vdev}`);
  },
  vif: (draft, value, complain) => {
    textsOf(value, complain).forEach((one, index) => draft.vifs.push(parseVif(one, index, (problem) => complain(`${JSON.stringify(one)}: ${problem}`))));
  },
  on_poweroff: atTheEnd('on_poweroff'), on_reboot: atTheEnd('on_reboot'), on_crash: atTheEnd('on_crash'), on_watchdog: atTheEnd('on_watchdog'),
  localtime: only(['0'], 'the wall clock of a world is a setting (--set wall-clock=SECONDS)'),
  nographic: withoutEffect,
  // What xl reads for HVM guests alone (parse_config_data()): other guests' files may have it.
  viridian: withoutEffect, pae: withoutEffect, nx: withoutEffect, apic: withoutEffect, hpet: withoutEffect, vpt_align: withoutEffect,
  // Where and how fast the host runs the guest.
  cpus: withoutEffect, cpus_soft: withoutEffect, cpu_weight: withoutEffect, cap: withoutEffect, pool: withoutEffect, nodes: withoutEffect, claim_mode: withoutEffect, seclabel: withoutEffect,
};

const DEFAULT_MEMORY_MIB = 128;

const isEmpty = (value: XlValue): boolean => (value.kind === 'list' ? value.items.length === 0 : value.text === '');

export interface XlScenario {
  readonly scenario: Scenario;
  /** What the file asks for and happens in another way here. */
  readonly notes: readonly string[];
}

/** `file` is for complaints, `fallbackName` for a file that names no domain. Throws UsageError. */
export function xlScenario(file: string, source: string, fallbackName: string): XlScenario {
  const draft: Draft = { disks: [], vifs: [], notes: [] };
  for (const [key, value] of parseXlConfig(file, source)) {
    const complain: Complain = (problem) => {
      throw new UsageError(`${file}:${value.line}: ${key}: ${problem}`);
    };
    const row = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
    if (row !== undefined) row(draft, value, complain);
    else if (!isEmpty(value)) complain(key === 'bootloader' ? 'a boot loader in dom0 is not supported; boot PV GRUB as the kernel (kernel = "grub-x86_64" after `rexen fetch grub-x86_64`)' : 'is not supported; what is: ' + Object.keys(KEYS).join(', '));
  }
  // A maxmem alone is the memory too: libxl__domain_build_info_setdefault().
  const memoryMib = draft.memoryMib ?? draft.maxmemMib ?? DEFAULT_MEMORY_MIB;
  const { name = fallbackName, kernel, ramdisk, maxmemMib = memoryMib, maxEventChannels, disks, vifs } = draft;
  if (kernel === undefined || kernel === '') throw new UsageError(`${file}: it names no kernel; write kernel = "/path/to/vmlinuz"`);
  if (maxmemMib < memoryMib) throw new UsageError(`${file}: maxmem: ${maxmemMib} MiB are less than the memory that the domain starts with (${memoryMib} MiB)`);
  const scenario = defineScenario({
    name: fallbackName,
    title: `The domain of ${file}`,
    domains: [{ name, kernel: { name: kernel }, ...(ramdisk === undefined || ramdisk === '' ? {} : { ramdisk: { name: ramdisk } }), cmdline: commandLine(draft), memoryMib, ...(maxmemMib === memoryMib ? {} : { maxMemoryMib: maxmemMib }), ...(maxEventChannels === undefined ? {} : { maxEventChannels }), ...(disks.length === 0 ? {} : { disks }), ...(vifs.length === 0 ? {} : { vifs }) }],
  });
  return { scenario, notes: draft.notes };
}

/** As xl, which warns as well: cmdline alone if it is there, else root= and extra. */
function commandLine({ cmdline, root, extra = '', notes }: Draft): string {
  if (cmdline !== undefined) {
    if ((root ?? '') !== '' || extra !== '') notes.push('root= and extra= count for nothing beside cmdline=');
    return cmdline;
  }
  return root === undefined || root === '' ? extra : `root=${root}${extra === '' ? '' : ` ${extra}`}`;
}

/** Is this text, and does it assign a kernel? What a kernel image never does. */
export const looksLikeXlConfig = (start: string): boolean => !start.includes('\0') && /^[ \t]*(kernel|bootloader|name|memory)[ \t]*=/m.test(start);
