// Mistakes of the hypervisor that the checkers found, each as the few steps that showed it.
import { beforeEach, expect, test } from 'vitest';
import { checkAll, violationText } from '../../src/checkers/index.ts';
import type { Domain, Vcpu } from '../../src/hypervisor/domain.ts';
import { removeFrame } from '../../src/hypervisor/frame-ownership.ts';
import { allocFrames, type Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { switchBase } from '../../src/hypervisor/hypercalls/mmuext.ts';
import { mapLdtOnFault } from '../../src/hypervisor/ldt.ts';
import { findL1, found } from '../../src/hypervisor/page-walk.ts';
import { modL1Entry } from '../../src/hypervisor/pte-update.ts';
import { twoDomains, type TwoDomains } from './two-domains.ts';

let two: TwoDomains;
let hv: Hypervisor;
let d1: Domain;
let d2: Domain;
let vcpu: Vcpu;
const VADDR = 0xc010_0000;
beforeEach(() => {
  two = twoDomains();
  hv = two.hv;
  d1 = two.built[0].domain;
  d2 = two.built[1].domain;
  vcpu = two.built[0].vcpu;
});

/** The entry that maps VADDR becomes this one, by the rules of mmu_update and without a flush. The frame it mapped before. */
function remap(lo: number): number {
  expect(findL1(hv.machine, 3, vcpu.guestTableMfn, VADDR)).toBe(true);
  const { maddr } = found;
  const before = found.lo >>> 12;
  expect(modL1Entry(hv, Math.floor(maddr / 4096), (maddr % 4096) / 8, lo >>> 0, 0, d1, 1, false)).toBe(0);
  return before;
}
const findings = (): string[] => checkAll(hv).map(violationText);

test('a new base table closes the window on the LDT, whose frames lose their type', () => {
  // The frame is no longer mapped writable when its first use as an LDT types it.
  expect(findL1(hv.machine, 3, vcpu.guestTableMfn, VADDR)).toBe(true);
  const frame = found.lo >>> 12;
  hv.machine.fillFrame(frame, 0);
  remap((frame << 12) | 0x61);
  vcpu.ldtBase = VADDR;
  vcpu.ldtEntries = 16;
  expect(mapLdtOnFault(hv, vcpu, 0)).toBe(true);
  expect(findings()).toEqual([]);
  expect(switchBase(hv, vcpu, vcpu.guestTableMfn)).toBe(0);
  expect(findings()).toEqual([]);
});

test('a frame that was given back is out of every TLB before somebody else gets it', () => {
  expect(two.cpus[0].translate(VADDR, 'write', false).ok).toBe(true);
  const frame = remap(0);
  expect(removeFrame(hv, d1, frame)).toBe(0);
  // Nobody has it: the stale translation harms nobody.
  expect(findings()).toEqual([]);
  expect(allocFrames(hv, d2, 1)).toEqual([frame]);
  expect(findings()).toEqual([]);
});
