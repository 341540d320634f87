// Writes a small ext4 file system, the same bytes for the same files on every machine:
//
//   block 0     | 1         | 2            | 3            | 4 ...       | journal | directories and files,
//   superblock  | one group | block bitmap | inode bitmap | inode table |         | each in one extent
//
// Why not a package or mke2fs: npm has none that writes ext4, and a disk must not need more than
// Node.js. The tests let e2fsck and debugfs judge the result.
// Not here: more than one block group (128 MiB), folders of more than a block, owners, times.
import { assert } from '../../base/assert.ts';
import { fieldBytes, type Field } from '../../base/layout.ts';
import { DIRECTORY_ENTRY, GROUP_DESCRIPTOR, INODE, JOURNAL_SUPERBLOCK, SUPERBLOCK } from './ext4-tables.ts';

const BLOCK_BYTES = 4096;
const SECTORS_PER_BLOCK = BLOCK_BYTES / 512;
const INODES = 1024;
const ROOT_INO = 2;
const JOURNAL_INO = 8;
const FIRST_INO = 11;
/** The least that Linux accepts. */
const JOURNAL_BLOCKS = 1024;
const BITMAP_BITS = BLOCK_BYTES * 8;
const AT = { groupDescriptors: 1, blockBitmap: 2, inodeBitmap: 3, inodeTable: 4 } as const;
const FIRST_FREE_BLOCK = AT.inodeTable + (INODES * INODE.sizeBytes) / BLOCK_BYTES;

const COMPAT_HAS_JOURNAL = 0x4;
const INCOMPAT = { filetype: 0x2, extents: 0x40 } as const;
const RO_COMPAT = { sparseSuper: 0x1, largeFile: 0x2, extraIsize: 0x40 } as const;
const EXTENTS_FL = 0x80000;
const EXTENT_MAGIC = 0xf30a;
const MODE = { directory: 0o040755, file: 0o100644 } as const;
const FILE_TYPE = { file: 1, directory: 2 } as const;
const EXTRA_ISIZE = 32;
const JOURNAL_MAGIC = 0xc03b3998;
const JOURNAL_SUPERBLOCK_V2 = 4;

export interface Ext4File {
  /** Without a leading slash; folders are made as needed. */
  readonly path: string;
  readonly bytes: Uint8Array;
}
export interface Ext4Options {
  readonly sizeMib: number;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  readonly label: string;
  /** Seconds since 1970, of everything. */
  readonly timeSec: number;
}

type Fields = Readonly<Record<string, Field>>;
function put<F extends Fields>(view: DataView, at: number, table: { readonly fields: F }, values: Partial<Record<keyof F, number>>, bigEndian = false): void {
  for (const [name, value] of Object.entries(values) as [string, number][]) {
    const field = table.fields[name] as Field;
    const where = at + field.at;
    if (field.type === 'u8') view.setUint8(where, value);
    else if (field.type === 'u16') view.setUint16(where, value, !bigEndian);
    else view.setUint32(where, value, !bigEndian);
  }
}

type Node = { readonly ino: number } & ({ readonly kind: 'file'; readonly bytes: Uint8Array } | { readonly kind: 'directory'; readonly parent: number; readonly entries: Map<string, Node> });
type Directory = Extract<Node, { kind: 'directory' }>;

class Ext4Writer {
  readonly image: Uint8Array;
  readonly #view: DataView;
  readonly #options: Ext4Options;
  readonly #blocks: number;
  #nextBlock = FIRST_FREE_BLOCK;
  #nextIno = FIRST_INO;
  #directories = 0;

  constructor(options: Ext4Options) {
    this.#options = options;
    this.#blocks = (options.sizeMib * 1024 * 1024) / BLOCK_BYTES;
    assert(this.#blocks <= BITMAP_BITS && this.#blocks > FIRST_FREE_BLOCK + JOURNAL_BLOCKS, `${options.sizeMib} MiB: an image has 8 to 128 MiB`);
    this.image = new Uint8Array(this.#blocks * BLOCK_BYTES);
    this.#view = new DataView(this.image.buffer);
  }

  write(files: readonly Ext4File[]): void {
    const root: Directory = { kind: 'directory', ino: ROOT_INO, parent: ROOT_INO, entries: new Map() };
    root.entries.set('lost+found', this.#directory(ROOT_INO));
    for (const file of files) this.#place(root, file.path.split('/'), file.bytes);
    this.#journal();
    this.#node(root);
    this.#bitmaps();
    this.#superblock();
  }

  #directory(parent: number): Directory {
    return { kind: 'directory', ino: this.#nextIno++, parent, entries: new Map() };
  }

  #place(folder: Directory, path: readonly string[], bytes: Uint8Array): void {
    const [name, ...rest] = path as [string, ...string[]];
    if (rest.length === 0) {
      assert(!folder.entries.has(name), `${name} is there twice`);
      folder.entries.set(name, { kind: 'file', ino: this.#nextIno++, bytes });
      return;
    }
    let next = folder.entries.get(name);
    if (next === undefined) folder.entries.set(name, (next = this.#directory(folder.ino)));
    assert(next.kind === 'directory', `${name} is a file and a folder`);
    this.#place(next, rest, bytes);
  }

  /** Gives `bytes` blocks of their own and an inode that has them as its one extent. */
  #content(ino: number, mode: number, links: number, bytes: Uint8Array, sizeBytes = bytes.length): void {
    const blocks = Math.ceil(sizeBytes / BLOCK_BYTES);
    const first = this.#nextBlock;
    this.#nextBlock += blocks;
    assert(this.#nextBlock <= this.#blocks, `the files do not fit into ${this.#options.sizeMib} MiB`);
    assert(ino <= INODES, `there are more than ${INODES} files`);
    this.image.set(bytes, first * BLOCK_BYTES);
    const { timeSec } = this.#options;
    put(this.#view, AT.inodeTable * BLOCK_BYTES + (ino - 1) * INODE.sizeBytes, INODE, {
      i_mode: mode, i_size_lo: sizeBytes, i_atime: timeSec, i_ctime: timeSec, i_mtime: timeSec, i_links_count: links, i_blocks_lo: blocks * SECTORS_PER_BLOCK,
      i_flags: EXTENTS_FL, eh_magic: EXTENT_MAGIC, eh_entries: blocks === 0 ? 0 : 1, eh_max: 4, ee_len: blocks, ee_start_lo: blocks === 0 ? 0 : first, i_extra_isize: EXTRA_ISIZE,
    });
  }

  #node(node: Node): void {
    if (node.kind === 'file') {
      this.#content(node.ino, MODE.file, 1, node.bytes);
      return;
    }
    this.#directories++;
    const folders = [...node.entries.values()].filter((entry) => entry.kind === 'directory').length;
    this.#content(node.ino, MODE.directory, 2 + folders, directoryBlock(node));
    for (const entry of node.entries.values()) this.#node(entry);
  }

  #journal(): void {
    const block = new Uint8Array(BLOCK_BYTES);
    put(new DataView(block.buffer), 0, JOURNAL_SUPERBLOCK, { h_magic: JOURNAL_MAGIC, h_blocktype: JOURNAL_SUPERBLOCK_V2, s_blocksize: BLOCK_BYTES, s_maxlen: JOURNAL_BLOCKS, s_first: 1, s_sequence: 1, s_nr_users: 1 }, true);
    block.set(this.#options.uuid, JOURNAL_SUPERBLOCK.fields.s_uuid.at);
    this.#content(JOURNAL_INO, 0o100600, 1, block, JOURNAL_BLOCKS * BLOCK_BYTES);
  }

  #bitmaps(): void {
    const mark = (block: number, from: number, to: number): void => {
      for (let bit = from; bit < to; bit++) (this.image[block * BLOCK_BYTES + (bit >> 3)] as number) |= 1 << (bit & 7);
    };
    mark(AT.blockBitmap, 0, this.#nextBlock);
    mark(AT.inodeBitmap, 0, this.#nextIno - 1);
    // Bits behind the end count as used.
    mark(AT.blockBitmap, this.#blocks, BITMAP_BITS);
    mark(AT.inodeBitmap, INODES, BITMAP_BITS);
  }

  #superblock(): void {
    const { uuid, label, timeSec } = this.#options;
    const freeBlocks = this.#blocks - this.#nextBlock;
    const freeInodes = INODES - (this.#nextIno - 1);
    put(this.#view, 1024, SUPERBLOCK, {
      s_inodes_count: INODES, s_blocks_count_lo: this.#blocks, s_free_blocks_count_lo: freeBlocks, s_free_inodes_count: freeInodes,
      s_log_block_size: 2, s_log_cluster_size: 2, s_blocks_per_group: BITMAP_BITS, s_clusters_per_group: BITMAP_BITS, s_inodes_per_group: INODES,
      s_wtime: timeSec, s_max_mnt_count: 0xffff, s_magic: 0xef53, s_state: 1, s_errors: 1, s_lastcheck: timeSec, s_rev_level: 1, s_first_ino: FIRST_INO,
      s_inode_size: INODE.sizeBytes, s_feature_compat: COMPAT_HAS_JOURNAL, s_feature_incompat: INCOMPAT.filetype | INCOMPAT.extents,
      s_feature_ro_compat: RO_COMPAT.sparseSuper | RO_COMPAT.largeFile | RO_COMPAT.extraIsize, s_journal_inum: JOURNAL_INO, s_def_hash_version: 1,
      s_mkfs_time: timeSec, s_min_extra_isize: EXTRA_ISIZE, s_want_extra_isize: EXTRA_ISIZE, s_flags: 1,
    });
    const bytes = (field: Field, value: Uint8Array): void => this.image.set(value.subarray(0, fieldBytes(field)), 1024 + field.at);
    bytes(SUPERBLOCK.fields.s_uuid, uuid);
    bytes(SUPERBLOCK.fields.s_hash_seed, uuid);
    bytes(SUPERBLOCK.fields.s_volume_name, new TextEncoder().encode(label));
    put(this.#view, AT.groupDescriptors * BLOCK_BYTES, GROUP_DESCRIPTOR, {
      bg_block_bitmap_lo: AT.blockBitmap, bg_inode_bitmap_lo: AT.inodeBitmap, bg_inode_table_lo: AT.inodeTable,
      bg_free_blocks_count_lo: freeBlocks, bg_free_inodes_count_lo: freeInodes, bg_used_dirs_count_lo: this.#directories,
    });
  }
}

function directoryBlock(folder: Directory): Uint8Array {
  const block = new Uint8Array(BLOCK_BYTES);
  const view = new DataView(block.buffer);
  const rows: [string, number, number][] = [['.', folder.ino, FILE_TYPE.directory], ['..', folder.parent, FILE_TYPE.directory]];
  for (const [name, entry] of folder.entries) rows.push([name, entry.ino, FILE_TYPE[entry.kind]]);
  let at = 0;
  rows.forEach(([name, ino, type], index) => {
    const text = new TextEncoder().encode(name);
    const own = (DIRECTORY_ENTRY.sizeBytes + text.length + 3) & ~3;
    assert(at + own <= BLOCK_BYTES && text.length < 256, `a folder of more than a block: at ${name}`);
    put(view, at, DIRECTORY_ENTRY, { inode: ino, rec_len: index === rows.length - 1 ? BLOCK_BYTES - at : own, name_len: text.length, file_type: type });
    block.set(text, at + DIRECTORY_ENTRY.sizeBytes);
    at += own;
  });
  return block;
}

/** The image's bytes; its size is options.sizeMib. */
export function writeExt4(files: readonly Ext4File[], options: Ext4Options): Uint8Array {
  const writer = new Ext4Writer(options);
  writer.write(files);
  return writer.image;
}
