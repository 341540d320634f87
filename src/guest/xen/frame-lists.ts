// Where our list of machine frames (start_info.mfn_list) lies, told to whoever saves the domain: it is
// rewritten there when the domain comes back in other frames. In one of two ways, or in both:
//
//   shared page ─► list of lists ─► lists ─► pages of the list     two levels above it, in pages of our own
//   shared page ─► the kernel's page tables, and the list's address in them
//
// Tools that know the second way say so in start_info, but not to a domain that was restored; they take it
// whenever it is there, and know PAE's tables only. All of it are machine frames, so it is written right
// before a suspension, and not kept up to date.
// Source: struct arch_shared_info in xen/include/public/arch-x86/xen.h; xen_setup_mfn_list_list() of Linux.
import { SHARED_INFO_32 } from '../../abi/shared-info.ts';
import { SIF } from '../../abi/start-info.ts';
import type { Kernel } from '../kernel/kernel.ts';
import { pfnToVaddr, vaddrToPfn } from '../kernel/page-tables.ts';
import type { Task } from '../operations.ts';
import type { XenState } from './state.ts';

const WORDS_PER_PAGE = 1024;
const NO_LISTS = 0xffff_ffff;
const AT = SHARED_INFO_32.fields;

export class FrameLists {
  readonly #xen: XenState;
  readonly #kernel: Kernel;
  /** The list of lists, then the lists. */
  #pfns: number[] = [];

  constructor(kernel: Kernel, xen: XenState) {
    this.#kernel = kernel;
    this.#xen = xen;
  }

  get #listPages(): number {
    return Math.ceil(this.#xen.startInfo.pages / WORDS_PER_PAGE);
  }

  /** Takes the pages: before the first process. */
  *setUp(): Task {
    for (let left = 1 + Math.ceil(this.#listPages / WORDS_PER_PAGE); left > 0; left--) {
      const pfn = yield* this.#kernel.tables.zeroedFrame();
      if (pfn === undefined) return yield* this.#kernel.panic('no memory for lists of frames');
      this.#pfns.push(pfn);
    }
  }

  *write(): Task {
    const { m, startInfo, sharedVaddr } = this.#xen;
    const [listList, ...lists] = this.#pfns as [number, ...number[]];
    const first = vaddrToPfn(startInfo.p2mVaddr);
    for (let page = 0; page < this.#listPages; page++) {
      const list = lists[Math.floor(page / WORDS_PER_PAGE)] as number;
      yield m.store32(pfnToVaddr(list) + (page % WORDS_PER_PAGE) * 4, yield* this.#xen.pfnToMfn(first + page));
    }
    for (const [index, list] of lists.entries()) yield m.store32(pfnToVaddr(listList) + index * 4, yield* this.#xen.pfnToMfn(list));
    yield m.store32(sharedVaddr + AT.max_pfn.at, startInfo.pages);
    const byTables = this.#xen.shape.paging === 'pae';
    yield m.store32(sharedVaddr + AT.pfn_to_mfn_frame_list_list.at, byTables && (startInfo.flags & SIF.virt_p2m_4tools) !== 0 ? NO_LISTS : yield* this.#xen.pfnToMfn(listList));
    if (!byTables) return;
    const root = yield* this.#xen.pfnToMfn(this.#kernel.initMm.pgdPfn);
    yield m.store32(sharedVaddr + AT.p2m_vaddr.at, startInfo.p2mVaddr);
    // The register's form for roots above 4 GiB: xen_pfn_to_cr3().
    yield m.store32(sharedVaddr + AT.p2m_cr3.at, ((root << 12) | (root >>> 20)) >>> 0);
  }
}
