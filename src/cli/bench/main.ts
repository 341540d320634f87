// `npm run bench`: MIPS beside v86, what recording and replaying cost, and where the time goes.
// `--json` prints one object with the same figures; `--quick` takes fewer rounds; `--only WORD` takes what recording costs alone,
// of the workloads with that word in their names.
import '../../node/engine-flags.ts';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { UserStep } from '../../guest/user-program.ts';
import { busyProgram } from '../../guest/workloads.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { packageRoot } from '../../node/package-info.ts';
import { storedImage } from '../../node/image-store.ts';
import { profileLines } from '../../replay/profile.ts';
import type { WorldSpec } from '../../sim/spec.ts';
import { benchKernels, seabiosFolder, type KernelResult } from './kernels.ts';
import { benchMmu, type MmuBench } from './mmu.ts';
import { benchCost, type CostResult, type Workload } from './recording-cost.ts';

const json = process.argv.includes('--json');
const quick = process.argv.includes('--quick');
const only = process.argv.includes('--only') ? process.argv[process.argv.indexOf('--only') + 1] : undefined;
const say = (text: string): void => void (process.stderr.isTTY === true ? process.stderr.write(`${text}\n`) : undefined);

/** The first domain, a model guest, does something else. */
const runsProgram = (program: readonly UserStep[]) => (spec: WorldSpec): WorldSpec => ({
  ...spec, domains: spec.domains.map((domain) => (domain.model === undefined ? domain : { ...domain, model: { ...domain.model, program } })),
});

/** Disk, network, console and control, each with a little to do; the same world is not suspended. */
const bootsWithDrivers = (spec: WorldSpec): WorldSpec => ({
  ...spec, input: [],
  domains: spec.domains.map((domain) => (domain.model === undefined ? domain : {
    ...domain,
    model: { ...domain.model, program: [], drivers: { disks: [{ disk: 'xvda', steps: [{ do: 'write', page: 0, pages: 11, value: 1 }, { do: 'check', page: 0, pages: 11, value: 1 }] }], nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 1 }] }] } },
  })),
});

const WORKLOADS: readonly Workload[] = [
  { name: 'event storm', scenario: 'pv-i386-pae', settings: ['cmdline=storm=50000'] },
  { name: 'boot of our guest (PAE)', scenario: 'pv-i386-pae', settings: [] },
  { name: 'boot of the paravirt_ops guest (PAE)', scenario: 'boot-pae', settings: [] },
  { name: 'boot of the paravirt_ops guest with all drivers', scenario: 'suspend', settings: ['digest-every=0'], change: bootsWithDrivers },
  { name: 'a million events of the paravirt_ops guest', scenario: 'boot-pae', settings: ['digest-every=0'], change: runsProgram(busyProgram(200)) },
  ...(storedImage('grub-i386') === undefined ? [] : [{ name: 'boot of PV GRUB', scenario: 'grub-i386', settings: [] }]),
];

function kernelTable(rows: readonly KernelResult[]): string[] {
  const cell = (value: number | undefined): string => (value === undefined ? '-' : String(value)).padStart(7);
  return [
    'MIPS by CPU time, best / median, the same guest instructions with paging on:',
    '      Rexen           v86             ratio of the best',
    ...rows.map((row) => `${row.name} ${cell(row.rexenMips)} /${cell(row.rexenMedianMips)} ${cell(row.v86Mips)} /${cell(row.v86MedianMips)}  ${row.ratio ?? '-'}   ${row.what}`),
  ];
}

const perMillion = (ms: number, events: number): string => ((ms / events) * 1000).toFixed(2);

function costLines(row: CostResult): string[] {
  return [
    `${row.name}: ${row.events} events, ${row.instructions} instructions`,
    `  record / run    ${row.recordOverRun} (middle half ${row.recordOverRunSpread.join(' to ')}), ${row.plainMs.toFixed(0)} ms and ${row.recordMs.toFixed(0)} ms`,
    `  replay / record ${row.replayOverRecord} (middle half ${row.replayOverRecordSpread.join(' to ')}), ${row.replayMs.toFixed(0)} ms`,
    `  CPU time of all threads: recorded in ${row.recordCpuMs.toFixed(0)} ms, replayed in ${row.replayCpuMs.toFixed(0)} ms; ${perMillion(row.recordCpuMs, row.events)} s and ${perMillion(row.replayCpuMs, row.events)} s a million events`,
    `  ${row.eventsPerSecond} events/s, ${row.bytesPerEvent} bytes an event, ${row.bytesPer1000Insns} bytes per 1,000 instructions`,
    ...profileLines(row.profile).map((line) => `  ${line}`),
  ];
}

function mmuLines(row: MmuBench): string[] {
  const thousands = (perSecond: number): string => (Math.round(perSecond / 1000) * 1000).toString().replace(/\B(?=(\d{3})+$)/g, ',');
  return [
    `memory management: ${thousands(row.operationsPerSecond)} update_va_mapping calls a second, ${thousands(row.batchedOperationsPerSecond)} batched entries a second;`,
    `  with all invariants checked after every operation in a 64-frame domain: ${thousands(row.checkedOperationsPerSecond)} a second`,
    ...(row.conformanceSeconds === undefined ? [] : [`  conformance: ${row.conformanceScripts} scripts in ${row.conformanceSeconds.toFixed(1)} s`]),
  ];
}

await loadHashes();
const corpus = join(packageRoot(), 'test', 'conformance');
const mmu = only === undefined ? benchMmu({ quick, ...(existsSync(corpus) ? { corpus } : {}) }) : undefined;
const kernels = only === undefined ? await benchKernels(quick ? 1 : 3, say) : [];
const costs: CostResult[] = [];
for (const workload of WORKLOADS.filter(({ name }) => only === undefined || name.includes(only))) costs.push(await benchCost(workload, quick ? 3 : 9, say));
if (json) process.stdout.write(`${JSON.stringify({ node: process.version, kernels, costs, mmu })}\n`);
else {
  const missing = [...(seabiosFolder() === undefined ? ['v86 needs the BIOS of the package seabios (apt-get install seabios)'] : []), ...(storedImage('grub-i386') === undefined ? ['PV GRUB is not here (npx rexen fetch grub-i386)'] : [])];
  const table = kernels.length === 0 ? [] : [...kernelTable(kernels), ''];
  process.stdout.write(`${[...table, ...costs.flatMap((row) => [...costLines(row), '']), ...(mmu === undefined ? [] : mmuLines(mmu)), ...missing.map((text) => `left out: ${text}`)].join('\n')}\n`);
}
