// A store to a guest's page table, which the host has write-protected: carried out here, and whatever
// shadows were made from those entries are forgotten. The guest goes on behind its instruction.
import type { ShadowHost } from './host.ts';

/** undefined: done. Else why not. */
export function carryOut(host: ShadowHost, faultVaddr: number): string | undefined {
  const { cpu } = host;
  const pending = cpu.pending();
  const where = `at 0x${faultVaddr.toString(16)}`;
  switch (pending?.kind) {
    case 'store':
      if (!write(host, pending.vaddr, pending.bytes)) break;
      cpu.complete(0);
      return undefined;
    case 'copy': {
      const bytes = read(host, pending.fromVaddr, pending.sizeBytes);
      if (bytes === undefined || !write(host, pending.vaddr, bytes)) break;
      cpu.complete(0);
      return undefined;
    }
    case 'combine': {
      const bytes = read(host, pending.vaddr, 4);
      if (bytes === undefined) break;
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const old = view.getUint32(0, true);
      const { how, value } = pending;
      view.setUint32(0, (how === 'or' ? old | value : how === 'and' ? old & value : value) >>> 0, true);
      if (!write(host, pending.vaddr, bytes)) break;
      cpu.complete(old);
      return undefined;
    }
    default:
      return `a store to one of its page tables ${where} by an instruction that this host does not carry out`;
  }
  return `a store to one of its page tables ${where} goes on where nothing is mapped`;
}

/** Bytes at a linear address, by the guest's own tables. */
function read(host: ShadowHost, vaddr: number, sizeBytes: number): Uint8Array | undefined {
  const bytes = new Uint8Array(sizeBytes);
  const done = eachPiece(host, vaddr, sizeBytes, (maddr, _gpa, at, length) => bytes.set(host.cpu.machine.readBytes(maddr, length), at));
  return done ? bytes : undefined;
}
function write(host: ShadowHost, vaddr: number, bytes: Uint8Array): boolean {
  return eachPiece(host, vaddr, bytes.length, (maddr, gpa, at, length) => {
    host.cpu.machine.writeBytes(maddr, bytes.subarray(at, at + length));
    host.pager.changed(gpa, length);
  });
}

/** Calls `each` for the part in every page. False: some of it is not mapped, and nothing was called. */
function eachPiece(host: ShadowHost, vaddr: number, sizeBytes: number, each: (maddr: number, gpa: number, at: number, length: number) => void): boolean {
  const pieces: [number, number, number, number][] = [];
  for (let at = 0; at < sizeBytes; ) {
    const address = (vaddr + at) >>> 0;
    const length = Math.min(sizeBytes - at, 4096 - (address % 4096));
    const gpa = host.pager.guestPhysical(address);
    const maddr = gpa === undefined ? undefined : host.pager.maddrOf(gpa);
    if (gpa === undefined || maddr === undefined) return false;
    pieces.push([maddr, gpa, at, length]);
    at += length;
  }
  for (const piece of pieces) each(...piece);
  return true;
}
