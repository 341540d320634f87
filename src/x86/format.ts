// Disassembly for reports, by iced-x86's formatter.
import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from 'iced-x86';
import { bitsOf } from './address.ts';

const HEX = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');

/** Up to `count` instructions at the start of `bytes`. */
export function formatAt(bytes: Uint8Array, vaddr: number, count: number, bitness: 16 | 32 | 64): { vaddr: number; bytes: string; text: string }[] {
  const lines: { vaddr: number; bytes: string; text: string }[] = [];
  if (bytes.length === 0) return lines;
  const decoder = new Decoder(bitness, bytes, DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Nasm);
  decoder.ip = bitness === 64 ? bitsOf(vaddr) : BigInt(vaddr >>> 0);
  let at = 0;
  while (lines.length < count && decoder.canDecode) {
    const instruction = decoder.decode();
    const { length } = instruction;
    lines.push({ vaddr: bitness === 64 ? vaddr + at : (vaddr + at) >>> 0, bytes: HEX(bytes.subarray(at, at + length)), text: formatter.format(instruction) });
    at += length;
    instruction.free();
  }
  formatter.free();
  decoder.free();
  return lines;
}
