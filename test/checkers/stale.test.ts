// Two domains on real processors that never flush of their own accord: they map, touch, unmap, pin,
// give back and take frames, and map each other's by grants. Whatever they leave in their TLBs, no
// translation outlives the right to it.
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { InvariantChecker, violationText } from '../../src/checkers/index.ts';
import type { Domain } from '../../src/hypervisor/domain.ts';
import { removeFrame } from '../../src/hypervisor/frame-ownership.ts';
import { seedGrant } from '../../src/hypervisor/grant-table.ts';
import { completeUnmap, mapGrant, unmapGrant } from '../../src/hypervisor/grant-table-map.ts';
import { allocFrames } from '../../src/hypervisor/hypervisor.ts';
import { MMUEXT_ROWS } from '../../src/hypervisor/hypercalls/mmuext.ts';
import { findL1, found } from '../../src/hypervisor/page-walk.ts';
import { flushDomainTlb, putOldTable } from '../../src/hypervisor/page-types.ts';
import { PAGE_RULES, type PageRules } from '../../src/hypervisor/pte-rules.ts';
import { modL1Entry } from '../../src/hypervisor/pte-update.ts';
import { twoDomains } from './two-domains.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const PROGRAMS = LONG ? 300 : 12;
const OPS = 250;
const FIRST_VADDR = 0xc010_0000;
const PAGES = 4;
const PIN_L1 = 0;
const UNPIN = 4;
const HOST_MAP = 2;

/** What broke first, with the operations that led there; undefined if all held. */
function play(seed: string, rules: PageRules): string | undefined {
  const { hv, cpus, built } = twoDomains();
  hv.rules = rules;
  const prng = new PrngStream(seed, 'stale');
  const checker = new InvariantChecker(hv);
  const domains: readonly Domain[] = built.map(({ domain }) => domain);
  /** A few frames that change hands, so that programs meet themselves. */
  const frames = domains.flatMap((domain) => allocFrames(hv, domain, 3) ?? (removeSpare(domain), allocFrames(hv, domain, 3) ?? []));
  const handles: { who: number; handle: number; vaddr: number }[] = [];
  const done: string[] = [];

  /** Domains start with all they may have: a few pages beyond the kernel's are given back first. */
  function removeSpare(domain: Domain): void {
    const spare = [...hv.frames.owner.keys()].filter((mfn) => hv.frames.owner[mfn] === domain.domId && hv.frames.refCount[mfn] === 1).slice(-3);
    for (const mfn of spare) removeFrame(hv, domain, mfn);
  }
  const one = (): void => {
    const who = prng.below(2);
    const domain = domains[who] as Domain;
    const vcpu = domain.vcpus[0] as NonNullable<Domain['vcpus'][0]>;
    const vaddr = FIRST_VADDR + prng.below(PAGES) * 4096;
    const mine = frames.filter((mfn) => hv.frames.owner[mfn] === domain.domId);
    const mfn = (prng.below(4) === 0 ? undefined : mine[prng.below(Math.max(mine.length, 1))]) ?? (frames[prng.below(frames.length)] as number);
    const ext = (command: number): number => MMUEXT_ROWS[command]?.run(hv, vcpu, { cmd: command, arg1: mfn, arg1Addr: mfn, arg2: 0, arg2Addr: 0 }, domain.domId) ?? -1;
    switch (prng.below(9)) {
      case 0: case 1: case 2: {
        const access = prng.below(3) === 0 ? 'read' : 'write';
        done.push(`d${domain.domId} ${access} ${vaddr.toString(16)}: ${cpus[who]?.translate(vaddr, access, false).ok}`);
        return;
      }
      case 3: case 4: {
        if (!findL1(hv.machine, 3, vcpu.guestTableMfn, vaddr)) return;
        const { maddr } = found;
        const lo = prng.below(2) === 0 ? 0 : ((mfn << 12) | (prng.below(3) === 0 ? 0x61 : 0x63)) >>> 0;
        done.push(`d${domain.domId} maps ${lo.toString(16)} at ${vaddr.toString(16)}: ${modL1Entry(hv, Math.floor(maddr / 4096), (maddr % 4096) / 8, lo, 0, domain, domain.domId, false)}`);
        return;
      }
      case 5:
        done.push(`d${domain.domId} pins ${mfn.toString(16)}: ${ext(PIN_L1)}`);
        return;
      case 6:
        done.push(`d${domain.domId} unpins ${mfn.toString(16)}: ${ext(UNPIN)}`);
        putOldTable(hv, vcpu);
        return;
      case 7: {
        if (hv.frames.owner[mfn] !== domain.domId) return;
        done.push(`d${domain.domId} gives back ${mfn.toString(16)}: ${removeFrame(hv, domain, mfn)}`);
        const taken = allocFrames(hv, domains[1 - who] as Domain, 1)?.[0];
        done.push(`d${2 - who} takes ${taken?.toString(16)}`);
        if (taken !== undefined) frames[frames.indexOf(mfn)] = taken;
        return;
      }
      default: {
        const held = handles.findIndex((handle) => handle.who === who);
        if (held >= 0 && prng.below(2) === 0) {
          const [mapping] = handles.splice(held, 1) as [(typeof handles)[0]];
          const answer = unmapGrant(hv, vcpu, { hostAddr: mapping.vaddr, devBusAddr: 0, newAddr: 0, handle: mapping.handle });
          // As the hypercall does: first the flush, then the references.
          flushDomainTlb(hv, domain);
          if (answer.rest !== undefined) completeUnmap(hv, answer.rest);
          done.push(`d${domain.domId} unmaps ${mapping.handle}: ${answer.status}`);
          return;
        }
        const granter = domains[1 - who] as Domain;
        const gref = 8 + prng.below(3);
        if (granter.grants.active[gref] === undefined) seedGrant(hv, granter, gref, domain.domId, mfn);
        const answer = mapGrant(hv, vcpu, { hostAddr: vaddr, flags: HOST_MAP | (prng.below(3) === 0 ? 4 : 0), gref, domId: granter.domId });
        if (answer.status === 0) handles.push({ who, handle: answer.handle, vaddr });
        done.push(`d${domain.domId} maps grant ${gref} (${mfn.toString(16)}) at ${vaddr.toString(16)}: ${answer.status}`);
      }
    }
  };
  for (let n = 0; n < OPS; n++) {
    one();
    const violations = checker.run();
    if (violations.length > 0) return [...violations.map(violationText), ...done.slice(-20)].join('\n');
  }
  return undefined;
}

describe('domains that never flush', () => {
  test('hold no translation that they may not have', { timeout: 600_000 }, () => {
    for (let n = 0; n < PROGRAMS; n++) expect(play(`stale ${n}`, PAGE_RULES), `seed ${n}`).toBeUndefined();
  });

  test('are found out if a change of type does not flush', { timeout: 600_000 }, () => {
    let n = 0;
    while (n < 20 && !(play(`stale ${n}`, { ...PAGE_RULES, flushOnTypeChange: false })?.includes('translations:') ?? false)) n++;
    expect(n).toBeLessThan(20);
  });
});
