// Event channels as the drivers use them: ports that are offered to a back end, heard while they are
// open, and closed again.
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { Task } from '../operations.ts';
import { DOMID_SELF } from '../xen/batch.ts';
import { HC, type XenState } from '../xen/state.ts';

const EVTCHNOP = { close: 3, alloc_unbound: 6 } as const;

export class Ports {
  readonly #kernel: Kernel;
  readonly #xen: XenState;
  readonly #open = new Set<number>();

  constructor(kernel: Kernel, xen: XenState) {
    this.#kernel = kernel;
    this.#xen = xen;
  }

  get openCount(): number {
    return this.#open.size;
  }

  /** A port that the other domain may bind; its events wake all threads. */
  *offer(remoteDomId: number): Task<number> {
    yield* this.#xen.withStruct('a port', HC.event_channel_op, EVTCHNOP.alloc_unbound, [(remoteDomId << 16) | DOMID_SELF, 0]);
    const port = yield this.#xen.m.load32(KERNEL_PAGES.scratch + 4);
    this.#open.add(port);
    yield* this.listen(port);
    return port;
  }
  /** A port that Xen's builder made: it stays. */
  *listen(port: number): Task {
    this.#kernel.traps.onIrq(port, () => {});
    yield* this.#kernel.ops.irq.unmask_irq(port);
  }
  *close(port: number): Task {
    if (!this.#open.delete(port)) return;
    yield* this.#kernel.ops.irq.mask_irq(port);
    yield* this.#xen.withStruct('to close a port', HC.event_channel_op, EVTCHNOP.close, [port]);
  }
  /** The domain has been restored: all of them are gone. */
  forgetAll(): void {
    this.#open.clear();
  }
}
