// Group `info`: what kind of machine the kernel runs on. Plain values, read by the kernel whenever
// it must do something otherwise than on bare hardware; most code never asks.
export interface PvInfo {
  /** `native`, `xen`, ...: for the banner and reports. */
  readonly name: string;
  /** Is this anything but bare hardware? Asked by drivers that must not touch ports. */
  readonly paravirt_enabled: boolean;
  /** The ring in which the kernel runs: 0 native and with shadow paging, 1 on Xen i386. Low bits of every kernel selector. */
  readonly kernel_rpl: 0 | 1;
  /**
   * PAE: do all address spaces share the page of L2 entries that maps the kernel? Natively they do. On
   * Xen every root owns a copy, since Xen keeps entries of its own at that page's end; then a new root
   * copies the kernel's entries and is told of with `alloc_pd_clone`.
   */
  readonly shared_kernel_pmd: boolean;
}
