// The image of the model kernel: what a domain builder loads. Its text is the page of stubs and
// entries; the rest is zeros for its tables.
import { entryVaddr, KERNEL_TEXT, kernelTextPage, PAGE_OFFSET } from '../../guest/entries.ts';
import type { ModelGuest } from '../../guest/index.ts';
import { KERNEL_IMAGE_PAGES } from '../../guest/kernel/layout.ts';
import type { KernelImage } from '../../hypervisor/build/kernel-image.ts';

export function modelKernelImage({ paging }: ModelGuest): KernelImage {
  const bytes = kernelTextPage();
  const memBytes = KERNEL_IMAGE_PAGES * 4096;
  return {
    bytes, machine: 'i386', wordBits: 32, abi: paging === 'pae' ? 'pv32pae' : 'xen3-nopae', pae: paging === 'pae' ? 'extended-cr3' : 'no',
    source: 'notes', notes: [], guestOs: 'rexen-model', guestVersion: '1', virtBase: PAGE_OFFSET, entry: entryVaddr('start'),
    virtStart: KERNEL_TEXT, virtEnd: KERNEL_TEXT + memBytes, hypercallVaddr: undefined, initP2m: undefined, hvStartLow: undefined, unmappedInitrd: false,
    featuresSupported: 0, featuresRequired: 0, segments: [{ vaddr: KERNEL_TEXT, offset: 0, fileBytes: bytes.length, memBytes }], bsdSymtab: undefined,
  };
}
