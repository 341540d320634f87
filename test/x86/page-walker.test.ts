// The walker in WebAssembly against the paging unit in TypeScript: the same answer and the same effects, or none at all.
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FRAME_FLAG, MachineMemory } from '../../src/machine/memory.ts';
import { CR0, CR4, EFER } from '../../src/x86/core.ts';
import { createCpu } from '../../src/x86/create.ts';
import { lookup } from '../../src/x86/paging.ts';
import { STATE } from '../../src/x86/state-layout.ts';
import { FILLED, TLB_ENTRIES, TLB_ENTRY_BYTES, TLB_VPN_BYTES } from '../../src/x86/tlb-layout.ts';
import { TYPE } from '../../src/x86/translate/code-buffer.ts';
import { FIND, walkerBody } from '../../src/x86/translate/page-walker.ts';
import { moduleBytes } from '../../src/x86/translate/wasm-module.ts';

const FRAMES = 24;
const [ROOT, L3, L2, L1] = [1, 2, 3, 4] as const;
const P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80;

/** One entry: low bits, upper half, where it leads (a frame, or far away). Mostly what a kernel's tables look like. */
const entry = fc.record({
  bits: fc.oneof({ weight: 24, arbitrary: fc.constant(P | RW | US | A | D) }, fc.integer({ min: 0, max: 0x1ff }).map((bits) => bits & ~0x18), fc.constant(P | A), fc.constant(P | RW | A | D)),
  high: fc.oneof({ weight: 24, arbitrary: fc.constant(0) }, fc.constantFrom(0x80000000, 0x100, 0x80000, 0x100000, 0x7ff00000, 1)),
  far: fc.oneof({ weight: 40, arbitrary: fc.constant(false) }, fc.constant(true)),
  frame: fc.integer({ min: 5, max: FRAMES - 1 }),
});
const world = fc.record({
  upper: fc.tuple(entry, entry, entry),
  /** Two pages, and one that shares the first one's slot of the TLB. */
  leaves: fc.tuple(entry, entry, entry),
  wp: fc.boolean(), nxe: fc.boolean(), pge: fc.boolean(), allFilled: fc.boolean(),
  code: fc.array(fc.integer({ min: 0, max: FRAMES - 1 }), { maxLength: 2 }),
  dirty: fc.array(fc.integer({ min: 0, max: FRAMES - 1 }), { maxLength: 12 }),
  accesses: fc.array(fc.record({ page: fc.integer({ min: 0, max: 3 }), offset: fc.integer({ min: 0, max: 4095 }), access: fc.constantFrom('read', 'write', 'fetch'), user: fc.boolean() }), { minLength: 1, maxLength: 8 }),
});
type World = typeof world extends fc.Arbitrary<infer T> ? T : never;

/** The upper half of the address space: slots 5, 6 and 5 again of one L1 table's two neighbours, and an address that is not canonical. */
const BASE = -0x8000_0000_0000 + 0x40_0000_0000;
const PAGES = [BASE + 5 * 4096, BASE + 6 * 4096, BASE + 0x20_0000 * 4 + 5 * 4096, 0x8000_0000_0000] as const;

function machineOf({ upper, leaves, wp, nxe, pge, allFilled, code, dirty }: World) {
  const machine = new MachineMemory({ frameCount: FRAMES, arenaBytes: 4 * 1024 * 1024 });
  const { core } = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0], tier: 'evaluate' });
  const put = (table: number, index: number, { bits, high, far, frame }: World['leaves'][0], to?: number): void => {
    const large = table === L2 && (bits & PS) !== 0;
    machine.writeU32(table * 4096 + index * 8, ((far ? 0xfff00000 : large ? 0 : (to ?? frame) << 12) | bits) >>> 0);
    machine.writeU32(table * 4096 + index * 8 + 4, high);
  };
  put(ROOT, 256, upper[0], L3);
  put(L3, 256, upper[1], L2);
  put(L2, 0, upper[2], L1);
  put(L1, 5, leaves[0]);
  put(L1, 6, leaves[1]);
  put(L2, 4, { ...upper[2], bits: upper[2].bits & ~PS }, L1 + FRAMES - 5);
  put(FRAMES - 1, 5, leaves[2]);
  core.set32(STATE.cr0, (CR0.PE | CR0.PG | (wp ? CR0.WP : 0)) >>> 0);
  core.set32(STATE.cr3, ROOT * 4096);
  core.set32(STATE.cr4, CR4.PAE | (pge ? CR4.PGE : 0));
  core.set32(STATE.efer, EFER.LMA | EFER.LME | (nxe ? EFER.NXE : 0));
  core.updateMode();
  if (!allFilled) for (const base of core.tlbFilledBases) machine.u32[base >>> 2] = 0;
  machine.u8.fill(0, machine.frameFlagsBase, machine.frameFlagsBase + FRAMES);
  for (const mfn of code) machine.u8[machine.frameFlagsBase + mfn] = FRAME_FLAG.code;
  for (const mfn of dirty) (machine.u8[machine.frameFlagsBase + mfn] as number) |= FRAME_FLAG.dirty;
  return { machine, core };
}

/** All machines here have everything at the same places. */
let module: WebAssembly.Module | undefined;
function walkerOf({ machine, core }: ReturnType<typeof machineOf>): (vaddr: bigint, access: number) => number {
  const body = walkerBody({
    stateBase: core.stateBase, tlbBase: core.tlbBases[0], tlbVpnBase: core.tlbVpnBases[0], tlbFilledBase: core.tlbFilledBases[0],
    ramBase: machine.ramBase, ramBytes: FRAMES * 4096, frameFlagsBase: machine.frameFlagsBase,
  });
  const bytes = moduleBytes({ signatures: [{ params: [TYPE.i64, TYPE.i32], results: [TYPE.i32] }], imports: [], memoryPages: machine.wasm.buffer.byteLength / 65536, table: false, functions: [{ signature: 0, body, exportName: 'find' }] });
  module ??= new WebAssembly.Module(bytes as BufferSource);
  return new WebAssembly.Instance(module, { e: { m: machine.wasm } }).exports['find'] as (vaddr: bigint, access: number) => number;
}

/** All that a look-up may change. */
function effects({ machine, core }: ReturnType<typeof machineOf>): string {
  const area = (at: number, bytes: number): Uint8Array => machine.u8.subarray(at, at + bytes);
  const filled = core.tlbFilledBases[0];
  const hash = createHash('sha1');
  for (const bytes of [area(core.tlbBases[0], TLB_ENTRIES * TLB_ENTRY_BYTES), area(core.tlbVpnBases[0], TLB_ENTRIES * TLB_VPN_BYTES), area(filled, FILLED.slots + 16), area(machine.frameFlagsBase, FRAMES), area(machine.ramBase, FRAMES * 4096)]) hash.update(bytes);
  return hash.digest('hex');
}

test('what the walker answers is what the paging unit answers, with the same effects; and when it does not answer, it has done nothing', () => {
  const seen = { answered: 0, refused: 0, byAccess: { read: 0, write: 0, fetch: 0 } };
  fc.assert(
    fc.property(world, (drawn) => {
      const [fast, plain] = [machineOf(drawn), machineOf(drawn)];
      const find = walkerOf(fast);
      for (const { page, offset, access, user } of drawn.accesses) {
        const vaddr = (PAGES[page] as number) + offset;
        for (const { core } of [fast, plain]) core.set32(STATE.cpl, user ? 3 : 0);
        const before = effects(fast);
        const answer = find(BigInt.asIntN(64, BigInt(vaddr)), FIND[access as keyof typeof FIND]);
        if (answer === 0) {
          seen.refused++;
          expect(effects(fast)).toBe(before);
          if (page < 3) lookup(fast.core, vaddr, access as keyof typeof FIND, user);
        } else {
          seen.answered++;
          seen.byAccess[access as keyof typeof FIND]++;
        }
        if (page === 3) expect(answer).toBe(0);
        else {
          const expected = lookup(plain.core, vaddr, access as keyof typeof FIND, user);
          if (answer !== 0) expect(answer).toBe(expected);
        }
        expect(effects(fast)).toBe(effects(plain));
      }
    }),
    { seed: 1129, numRuns: 600 },
  );
  // It is there for the common case: tables like a kernel's are walked without TypeScript.
  expect(seen.answered).toBeGreaterThan(seen.refused / 4);
  for (const count of Object.values(seen.byAccess)) expect(count).toBeGreaterThan(100);
});

test('tables as a kernel leaves them need no TypeScript', () => {
  const plain = { bits: P | RW | US | A | D, high: 0 as const, far: false, frame: 9 };
  const made = machineOf({ upper: [plain, plain, plain], leaves: [plain, plain, plain], wp: true, nxe: true, pge: true, allFilled: false, code: [], dirty: [], accesses: [] });
  const find = walkerOf(made);
  for (const access of Object.values(FIND)) expect(find(BigInt(PAGES[0] + 0x123), access)).toBe(made.machine.ramBase + 9 * 4096 + 0x123);
});
