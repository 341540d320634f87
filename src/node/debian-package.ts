// Reads a file out of a Debian package: an ar archive with a packed tar archive inside. dpkg-deb is
// not needed, so that a .deb can be used on any system. Packages: nanotar, and the codecs of xz.ts,
// fflate, fzstd. Source: deb(5).
import { gunzipSync } from 'fflate';
import { decompress as unpackZstd } from 'fzstd';
import { parseTar } from 'nanotar';
import { UsageError } from '../base/assert.ts';
import { unpackXz } from './xz.ts';

const AR_MAGIC = '!<arch>\n';
const AR_HEADER_BYTES = 60;

const ascii = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');

export const isDebianPackage = (bytes: Uint8Array): boolean => ascii(bytes.subarray(0, 8)) === AR_MAGIC && ascii(bytes.subarray(8, 21)) === 'debian-binary';

/** Members of an ar archive: 60-byte headers, data padded to two bytes. */
function* arMembers(bytes: Uint8Array): Generator<{ name: string; data: Uint8Array }> {
  for (let at = AR_MAGIC.length; at + AR_HEADER_BYTES <= bytes.length; ) {
    const header = ascii(bytes.subarray(at, at + AR_HEADER_BYTES));
    const size = Number(header.slice(48, 58).trim());
    const start = at + AR_HEADER_BYTES;
    if (!Number.isInteger(size) || header.slice(58) !== '`\n' || start + size > bytes.length) return;
    yield { name: header.slice(0, 16).trim().replace(/\/$/, ''), data: bytes.subarray(start, start + size) };
    at = start + size + (size % 2);
  }
}

const UNPACK: Readonly<Record<string, (bytes: Uint8Array) => Uint8Array | Promise<Uint8Array>>> = {
  'data.tar': (bytes) => bytes,
  'data.tar.gz': (bytes) => gunzipSync(bytes),
  'data.tar.xz': unpackXz,
  'data.tar.zst': (bytes) => unpackZstd(bytes),
};

export interface PackageFile {
  /** Without a leading "./". */
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** The regular files of the package that `wanted` accepts. Throws UsageError that names `name`. */
export async function debianPackageFiles(bytes: Uint8Array, name: string, wanted: (path: string) => boolean): Promise<PackageFile[]> {
  for (const member of arMembers(bytes)) {
    const unpack = UNPACK[member.name];
    if (unpack === undefined) continue;
    const files: PackageFile[] = [];
    for (const item of parseTar(await unpackOr(name, unpack, member.data))) {
      const path = item.name.replace(/^\.\//, '');
      if (item.type === 'file' && item.data !== undefined && wanted(path)) files.push({ path, bytes: Uint8Array.from(item.data) });
    }
    return files;
  }
  throw new UsageError(`${name} is a damaged Debian package: it has no data archive that can be unpacked`);
}

async function unpackOr(name: string, unpack: (bytes: Uint8Array) => Uint8Array | Promise<Uint8Array>, data: Uint8Array): Promise<Uint8Array> {
  try {
    return await unpack(data);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new UsageError(`${name} is a damaged Debian package (${error.message})`);
  }
}
