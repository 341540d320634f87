// Near branches are decoded without iced, except the first of each kind: they are told as iced tells them.
import fc from 'fast-check';
import { Code, Decoder, DecoderOptions, Mnemonic } from 'iced-x86';
import { expect, test } from 'vitest';
import { decode } from '../../src/x86/decode.ts';

const opcode = fc.oneof(
  fc.constantFrom([0xe8], [0xe9], [0xeb]),
  fc.integer({ min: 0x70, max: 0x7f }).map((byte) => [byte]),
  fc.integer({ min: 0x80, max: 0x8f }).map((byte) => [0x0f, byte]),
);
const place = fc.oneof(fc.integer({ min: 0, max: 0xffff_ffff }), fc.integer({ min: -0x8000_0000, max: -1 }), fc.integer({ min: 0x7fff_ffff_0000, max: 0x7fff_ffff_ffff }), fc.integer({ min: -0x8000_0000_0000, max: -0x7fff_ffff_0000 }));

test('a near branch has the target, length and name that iced gives it, wherever it is; one that is cut off needs more', () => {
  fc.assert(
    fc.property(fc.constantFrom(32 as const, 64 as const), opcode, fc.uint8Array({ minLength: 4, maxLength: 12 }), place, fc.nat(15), (bitness, start, rest, at, cut) => {
      const bytes = Uint8Array.of(...start, ...rest).subarray(0, Math.max(1, cut));
      const vaddr = bitness === 32 ? at >>> 0 : at;
      const decoder = new Decoder(bitness, bytes, DecoderOptions.None);
      decoder.ip = BigInt.asUintN(64, BigInt(vaddr));
      const told = decoder.decode();
      const ours = decode(bytes, vaddr, bitness);
      if (told.isInvalid) expect(ours).toEqual({ kind: 'needMore' });
      else {
        const target = bitness === 32 ? told.nearBranch32 : Number(BigInt.asIntN(64, told.nearBranch64));
        expect(ours).toMatchObject({ kind: 'insn', insn: { vaddr, lengthBytes: told.length, mnemonic: Mnemonic[told.mnemonic], code: Code[told.code], operands: [{ kind: 'near', target }], stackDelta: told.stackPointerIncrement } });
      }
      told.free();
      decoder.free();
    }),
    { seed: 20070602, numRuns: 3000 },
  );
});
