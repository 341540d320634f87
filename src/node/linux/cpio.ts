// Writes an initramfs: a cpio archive in the "newc" form, with nothing in it that differs between
// two machines (no times, no owners, inodes numbered in order).
// Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

export type CpioEntry =
  | { readonly path: string; readonly kind: 'directory' }
  | { readonly path: string; readonly kind: 'file'; readonly bytes: Uint8Array; readonly executable?: boolean }
  | { readonly path: string; readonly kind: 'link'; readonly target: string };

const MODE: Readonly<Record<CpioEntry['kind'], number>> = { directory: 0o040755, file: 0o100644, link: 0o120777 };
const EXECUTABLE = 0o111;
const TRAILER = 'TRAILER!!!';

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const padded = (bytes: number): number => (bytes + 3) & ~3;

function header(fields: { ino: number; mode: number; nlink: number; filesize: number; namesize: number }): Uint8Array {
  const words = [fields.ino, fields.mode, 0, 0, fields.nlink, 0, fields.filesize, 0, 0, 0, 0, fields.namesize, 0];
  return bytesOf(`070701${words.map((word) => word.toString(16).padStart(8, '0')).join('')}`);
}

function contentOf(entry: CpioEntry): Uint8Array {
  switch (entry.kind) {
    case 'file':
      return entry.bytes;
    case 'link':
      return bytesOf(entry.target);
    case 'directory':
      return new Uint8Array(0);
  }
}

/** The archive; folders must come before what is in them, paths have no leading slash. */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const parts: Uint8Array[] = [];
  let sizeBytes = 0;
  const put = (bytes: Uint8Array): void => {
    parts.push(bytes, new Uint8Array(padded(sizeBytes + bytes.length) - sizeBytes - bytes.length));
    sizeBytes = padded(sizeBytes + bytes.length);
  };
  const add = (path: string, ino: number, mode: number, nlink: number, content: Uint8Array): void => {
    const name = bytesOf(`${path}\0`);
    const head = header({ ino, mode, nlink, filesize: content.length, namesize: name.length });
    put(Uint8Array.from([...head, ...name]));
    put(content);
  };
  entries.forEach((entry, index) => {
    const mode = MODE[entry.kind] | (entry.kind === 'file' && entry.executable === true ? EXECUTABLE : 0);
    add(entry.path, index + 1, mode, entry.kind === 'directory' ? 2 : 1, contentOf(entry));
  });
  add(TRAILER, 0, 0, 1, new Uint8Array(0));
  const archive = new Uint8Array(sizeBytes);
  let at = 0;
  for (const part of parts) {
    archive.set(part, at);
    at += part.length;
  }
  return archive;
}
