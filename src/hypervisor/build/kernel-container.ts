// What a kernel file is wrapped in: nothing, gzip, or Linux's bzImage with a compressed ELF inside.
// Only looks; unpacking needs codecs of the host (node/unwrap-kernel.ts). Source:
// Documentation/arch/x86/boot.rst of Linux (setup header 2.08: payload_offset and payload_length).
import { layout } from '../../base/layout.ts';
import { isElf } from './elf-file.ts';

export const LINUX_SETUP_HEADER = layout({
  sizeBytes: 0x250, source: 'Documentation/arch/x86/boot.rst',
  fields: {
    setup_sects: { at: 0x1f1, type: 'u8' }, boot_flag: { at: 0x1fe, type: 'u16' }, header: { at: 0x202, type: 'u32', aligned: false }, version: { at: 0x206, type: 'u16' },
    payload_offset: { at: 0x248, type: 'u32' }, payload_length: { at: 0x24c, type: 'u32' },
  },
});
const HDRS = 0x5372_6448;
const BOOT_FLAG = 0xaa55;
/** First version of the boot protocol with a payload. */
const PAYLOAD_VERSION = 0x208;

export type Codec = 'gzip' | 'xz' | 'lz4' | 'zstd';
/** First bytes of each format. Those without a codec are known only to be refused by name. */
const FORMATS: readonly { readonly name: string; readonly codec: Codec | undefined; readonly magic: readonly number[] }[] = [
  { name: 'gzip', codec: 'gzip', magic: [0x1f, 0x8b] },
  { name: 'xz', codec: 'xz', magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00] },
  // The legacy frame of lz4's command line, which Linux uses.
  { name: 'lz4', codec: 'lz4', magic: [0x02, 0x21, 0x4c, 0x18] },
  { name: 'zstd', codec: 'zstd', magic: [0x28, 0xb5, 0x2f, 0xfd] },
  { name: 'bzip2', codec: undefined, magic: [0x42, 0x5a, 0x68] },
  { name: 'lzma', codec: undefined, magic: [0x5d, 0x00, 0x00] },
  { name: 'lzo', codec: undefined, magic: [0x89, 0x4c, 0x5a] },
];

export type KernelContainer =
  | { readonly kind: 'elf' }
  /** `payload` is to be unpacked and looked at again. `trailer`: Linux's build appends the unpacked size, 4 bytes. */
  | { readonly kind: 'packed'; readonly codec: Codec; readonly payload: Uint8Array; readonly trailer: boolean }
  | { readonly kind: 'unknown'; readonly problem: string };

/** The format of packed bytes by their first ones. */
const formatOf = (bytes: Uint8Array): (typeof FORMATS)[number] | undefined => FORMATS.find((row) => row.magic.every((byte, index) => bytes[index] === byte));

/** What the file is. Problems are clauses that follow the file's name. */
export function kernelContainer(bytes: Uint8Array): KernelContainer {
  if (isElf(bytes)) return { kind: 'elf' };
  const outer = formatOf(bytes);
  if (outer?.codec === 'gzip') return { kind: 'packed', codec: 'gzip', payload: bytes, trailer: false };
  const at = LINUX_SETUP_HEADER.fields;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < LINUX_SETUP_HEADER.sizeBytes || view.getUint16(at.boot_flag.at, true) !== BOOT_FLAG || view.getUint32(at.header.at, true) !== HDRS) {
    return { kind: 'unknown', problem: 'is not an ELF kernel (nor a gzip file or bzImage that holds one)' };
  }
  const version = view.getUint16(at.version.at, true);
  if (version < PAYLOAD_VERSION) return { kind: 'unknown', problem: `is a bzImage of boot protocol ${version >>> 8}.${(version & 0xff).toString().padStart(2, '0')}, which does not say where its ELF kernel is; 2.08 or newer does` };
  const start = ((view.getUint8(at.setup_sects.at) || 4) + 1) * 512 + view.getUint32(at.payload_offset.at, true);
  const length = view.getUint32(at.payload_length.at, true);
  if (length === 0 || start + length > bytes.length) return { kind: 'unknown', problem: `is a truncated bzImage: its payload of ${length} bytes at ${start} lies past its end at ${bytes.length}` };
  const payload = bytes.subarray(start, start + length);
  const format = formatOf(payload);
  if (format === undefined) return { kind: 'unknown', problem: 'is a bzImage whose payload has no known compression' };
  if (format.codec === undefined) return { kind: 'unknown', problem: `is a bzImage packed with ${format.name}; gzip, xz, lz4 and zstd can be unpacked` };
  return { kind: 'packed', codec: format.codec, payload, trailer: format.codec !== 'gzip' };
}
