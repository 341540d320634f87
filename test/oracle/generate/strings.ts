// Cases for the string instructions: each alone and repeated, both directions, every size, 16-bit
// addressing, segment overrides, and faults in the middle of a repetition.
import { DATA, ldtSelector, READ_ONLY, UNMAPPED } from '../environment.ts';
import { type Draft, type Maker, type Size, SIZES } from './maker.ts';

const DF = 0x400;

function pointers(m: Maker, d: Draft, size: Size, addr16: boolean, count: number): void {
  const { rng } = m;
  const bytes = (count * size) / 8;
  const down = (d.eflags & DF) !== 0;
  const place = (): number => {
    const fate = rng.below(12);
    let at = addr16 ? 0x8100 + rng.below(0x1c00) : DATA + 0x100 + rng.below(0x1c00);
    if (!addr16 && fate === 0) at = DATA + 0x1000 - rng.below(bytes + 1); // across two pages
    if (!addr16 && fate === 1) at = down ? DATA + rng.below(bytes + 1) : READ_ONLY - rng.below(bytes + 1); // a store faults midway
    if (!addr16 && fate === 2) at = down ? DATA + rng.below(bytes + 1) : UNMAPPED - rng.below(bytes + 1); // a load faults midway
    if (!addr16 && fate === 3) at = UNMAPPED + rng.below(0x100); // and at once
    if (addr16 && fate <= 1) at = 0xffff - rng.below(bytes + 1); // the offset wraps
    return addr16 ? ((rng.u32() & 0xffff0000) | (at & 0xffff)) >>> 0 : at;
  };
  d.setReg(6, place());
  d.setReg(7, rng.chance(5) ? ((d.regs[6] as number) + rng.below(9) - 4) >>> 0 : place()); // often overlapping
}

/**
 * The processor of the committed vectors (AMD, family 1Ah) copies overlapping data wrongly in REP MOVS with 16-bit
 * addresses when the upper halves of the registers, which do not take part, are not zero: it takes
 * operands for disjoint that are not. So they are zero where operands overlap.
 */
function avoidErratum(d: Draft): void {
  const distance = Math.abs(((d.regs[6] as number) & 0xffff) - ((d.regs[7] as number) & 0xffff));
  if (distance < 0x100 || distance > 0xff00) for (const register of [1, 6, 7]) d.setReg(register, (d.regs[register] as number) & 0xffff);
}

export function strings(m: Maker): void {
  const { rng } = m;
  for (const base of [0xa4, 0xa6, 0xaa, 0xac, 0xae]) {
    const compares = base === 0xa6 || base === 0xae;
    for (const size of SIZES) {
      for (const repeat of [undefined, 0xf3, 0xf2]) {
        for (let i = 0; i < (repeat === undefined ? 10 : 30); i++) {
          const d = m.draft();
          d.eflags = (d.eflags & ~DF) | (rng.chance(2) ? DF : 0);
          const addr16 = rng.chance(4) !== (m.bits === 16);
          const override = rng.chance(8) ? rng.pick([0x26, 0x2e, 0x64]) : undefined;
          const count = rng.pick([0, 1, 2, 3, 7, 16, 30]);
          const prefixes = [...(repeat === undefined ? [] : [repeat]), ...(addr16 === (m.bits === 32) ? [0x67] : []), ...(override === undefined ? [] : [override]), ...m.size66(size)];
          d.code = [...prefixes, base + (size === 8 ? 0 : 1)];
          if (repeat !== undefined) d.setReg(1, addr16 ? ((rng.u32() & 0xffff0000) | count) >>> 0 : count);
          pointers(m, d, size, addr16, repeat === undefined ? 1 : count);
          if (repeat !== undefined && addr16 && base === 0xa4) avoidErratum(d);
          if (override === 0x64) {
            d.segs[4] = ldtSelector(rng.pick(['data', 'tiny', 'down32', 'dataReadOnly']));
            d.setReg(6, rng.pick([0, 8, 0x10, 0x1000, 0x1ff8]) + rng.below(8));
          }
          if (compares && !addr16 && rng.chance(3)) { // equal for a while
            const from = d.regs[6] as number, to = d.regs[7] as number;
            const bytes = Uint8Array.from({ length: 32 }, () => 0x55);
            d.setOperand(0, 32, 0x55555555);
            d.pokeBytes(from, bytes);
            d.pokeBytes(to, bytes);
            if (rng.chance(2)) d.poke(to + rng.below(32), 8, 0x56);
          }
          m.add(d);
        }
      }
    }
  }
  // Port strings, privileged here; a count of zero does not ask.
  for (const op of [0x6c, 0x6d, 0x6e, 0x6f]) {
    m.plain([op]);
    for (const count of [0, 3]) m.plain([0xf3, op], (d) => d.setReg(1, count));
  }
  // Prefix order and repetition do not matter; the last of F2 and F3 wins.
  for (const code of [[0xf2, 0xf3, 0xa4], [0x66, 0xf3, 0xa5], [0xf3, 0x66, 0xa5], [0xf3, 0xf2, 0xae], [0xf2, 0xf3, 0xae], [0x26, 0x3e, 0xa4]]) {
    for (let i = 0; i < 3; i++) m.plain(code, (d) => { d.setReg(1, 5); pointers(m, d, 16, false, 5); });
  }
}
