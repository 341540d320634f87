// Structures of an ext4 file system and its journal, as far as a small image needs them.
// Source: Linux, Documentation/filesystems/ext4/ (super.rst, group_descr.rst, inodes.rst, ifork.rst, journal.rst).
import { layout } from '../../base/layout.ts';

const SOURCE = 'Linux, Documentation/filesystems/ext4';

export const SUPERBLOCK = layout({
  sizeBytes: 1024, source: `${SOURCE}/super.rst`,
  fields: {
    s_inodes_count: { at: 0x0, type: 'u32' }, s_blocks_count_lo: { at: 0x4, type: 'u32' }, s_r_blocks_count_lo: { at: 0x8, type: 'u32' },
    s_free_blocks_count_lo: { at: 0xc, type: 'u32' }, s_free_inodes_count: { at: 0x10, type: 'u32' }, s_first_data_block: { at: 0x14, type: 'u32' },
    s_log_block_size: { at: 0x18, type: 'u32' }, s_log_cluster_size: { at: 0x1c, type: 'u32' }, s_blocks_per_group: { at: 0x20, type: 'u32' },
    s_clusters_per_group: { at: 0x24, type: 'u32' }, s_inodes_per_group: { at: 0x28, type: 'u32' }, s_mtime: { at: 0x2c, type: 'u32' },
    s_wtime: { at: 0x30, type: 'u32' }, s_mnt_count: { at: 0x34, type: 'u16' }, s_max_mnt_count: { at: 0x36, type: 'u16' }, s_magic: { at: 0x38, type: 'u16' },
    s_state: { at: 0x3a, type: 'u16' }, s_errors: { at: 0x3c, type: 'u16' }, s_lastcheck: { at: 0x40, type: 'u32' }, s_creator_os: { at: 0x48, type: 'u32' },
    s_rev_level: { at: 0x4c, type: 'u32' }, s_first_ino: { at: 0x54, type: 'u32' }, s_inode_size: { at: 0x58, type: 'u16' },
    s_feature_compat: { at: 0x5c, type: 'u32' }, s_feature_incompat: { at: 0x60, type: 'u32' }, s_feature_ro_compat: { at: 0x64, type: 'u32' },
    s_uuid: { at: 0x68, type: 'u8', count: 16 }, s_volume_name: { at: 0x78, type: 'u8', count: 16 }, s_journal_inum: { at: 0xe0, type: 'u32' },
    s_hash_seed: { at: 0xec, type: 'u32', count: 4 }, s_def_hash_version: { at: 0xfc, type: 'u8' }, s_mkfs_time: { at: 0x108, type: 'u32' },
    s_min_extra_isize: { at: 0x15c, type: 'u16' }, s_want_extra_isize: { at: 0x15e, type: 'u16' }, s_flags: { at: 0x160, type: 'u32' },
  },
});

export const GROUP_DESCRIPTOR = layout({
  sizeBytes: 32, source: `${SOURCE}/group_descr.rst`,
  fields: {
    bg_block_bitmap_lo: { at: 0x0, type: 'u32' }, bg_inode_bitmap_lo: { at: 0x4, type: 'u32' }, bg_inode_table_lo: { at: 0x8, type: 'u32' },
    bg_free_blocks_count_lo: { at: 0xc, type: 'u16' }, bg_free_inodes_count_lo: { at: 0xe, type: 'u16' }, bg_used_dirs_count_lo: { at: 0x10, type: 'u16' },
  },
});

export const INODE = layout({
  sizeBytes: 256, source: `${SOURCE}/inodes.rst`,
  fields: {
    i_mode: { at: 0x0, type: 'u16' }, i_size_lo: { at: 0x4, type: 'u32' }, i_atime: { at: 0x8, type: 'u32' }, i_ctime: { at: 0xc, type: 'u32' },
    i_mtime: { at: 0x10, type: 'u32' }, i_links_count: { at: 0x1a, type: 'u16' }, i_blocks_lo: { at: 0x1c, type: 'u32' }, i_flags: { at: 0x20, type: 'u32' },
    eh_magic: { at: 0x28, type: 'u16' }, eh_entries: { at: 0x2a, type: 'u16' }, eh_max: { at: 0x2c, type: 'u16' },
    ee_len: { at: 0x38, type: 'u16' }, ee_start_lo: { at: 0x3c, type: 'u32' }, i_extra_isize: { at: 0x80, type: 'u16' },
  },
});

export const DIRECTORY_ENTRY = layout({
  sizeBytes: 8, source: `${SOURCE}/directory.rst`,
  fields: { inode: { at: 0, type: 'u32' }, rec_len: { at: 4, type: 'u16' }, name_len: { at: 6, type: 'u8' }, file_type: { at: 7, type: 'u8' } },
});

/** Big-endian, unlike the rest. */
export const JOURNAL_SUPERBLOCK = layout({
  sizeBytes: 1024, source: `${SOURCE}/journal.rst`,
  fields: {
    h_magic: { at: 0x0, type: 'u32' }, h_blocktype: { at: 0x4, type: 'u32' }, h_sequence: { at: 0x8, type: 'u32' }, s_blocksize: { at: 0xc, type: 'u32' },
    s_maxlen: { at: 0x10, type: 'u32' }, s_first: { at: 0x14, type: 'u32' }, s_sequence: { at: 0x18, type: 'u32' }, s_start: { at: 0x1c, type: 'u32' },
    s_uuid: { at: 0x30, type: 'u8', count: 16 }, s_nr_users: { at: 0x40, type: 'u32' },
  },
});
