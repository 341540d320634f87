// What the toolstack asks through control/shutdown: power off, reboot, or suspend.
//
//   suspend   nothing under way in xenstore · grant table and shared page out of our tables · every address
//             space pinned, so that tables are known as such · where our list of frames is · frames of store
//             and console as pseudo-physical numbers · SCHEDOP_shutdown
//   resume    shared page, ports, timer, grant table anew from start_info · xenbus set up again · every
//             frontend begins anew, and what was in flight is asked again
//
// All machine frames are others then: our list and our tables have been rewritten, and nothing here keeps a
// machine frame across. Pages and processes never notice. Source: drivers/xen/manage.c,
// arch/x86/xen/suspend.c in Linux; docs/misc/xenstore-paths.pandoc.
import { START_INFO_32 } from '../../abi/start-info.ts';
import { BLOCK } from '../kernel/scheduler.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import { vaddrToPfn } from '../kernel/page-tables.ts';
import type { Task } from '../operations.ts';
import { highHalf, lowHalf } from '../pte.ts';
import { FrameLists } from '../xen/frame-lists.ts';
import { readStartInfo } from '../xen/init.ts';
import { mapShared } from '../xen/mmu.ts';
import { HC, wordBytes } from '../xen/state.ts';
import type { Machinery } from './machinery.ts';
import type { StoreWatch } from './store-client.ts';

const PATH = 'control/shutdown';
const SCHEDOP_shutdown = 2;
const SHUTDOWN_suspend = 2;
const UVMF_INVLPG = 2;
const AT = START_INFO_32.fields;
const PAGE_FLAGS = 0x63;

export type ShutdownReason = 'poweroff' | 'reboot';

export class Control {
  readonly #machinery: Machinery;
  readonly #consoleStarted: () => Task;
  readonly #lists: FrameLists;
  /** How the guest was told to end. */
  reason: ShutdownReason | undefined;

  /** `consoleStarted`: the console's port is a new one. */
  constructor(machinery: Machinery, consoleStarted: () => Task) {
    this.#machinery = machinery;
    this.#consoleStarted = consoleStarted;
    this.#lists = new FrameLists(machinery.kernel, machinery.xen);
  }

  /** Before the first process. */
  setUp(): Task {
    return this.#lists.setUp();
  }

  /** Its thread: until the guest stops. */
  *life(): Task {
    const { store } = this.#machinery;
    const watch: StoreWatch = yield* store.watch(PATH);
    while (!this.#machinery.stopping) {
      if (!watch.fired) yield BLOCK;
      else {
        watch.fired = false;
        yield* this.#look();
      }
    }
    yield* store.unwatch(watch);
  }

  *#look(): Task {
    const { store } = this.#machinery;
    let asked = '';
    // Read and taken note of at once: a second request meanwhile is not lost.
    yield* store.transaction(function* (txId) {
      asked = (yield* store.read(PATH, txId)) ?? '';
      return asked === '' ? { ok: true, value: '' } : yield* store.write(PATH, '', txId);
    });
    switch (asked) {
      case '':
        return;
      case 'suspend':
        return yield* this.#suspend();
      case 'poweroff':
      case 'halt':
      case 'reboot':
        yield* this.#machinery.say(`told to shut down: ${asked}`);
        return this.powerOff(asked === 'reboot' ? 'reboot' : 'poweroff');
      default:
        return yield* this.#machinery.complain(`control/shutdown says ${JSON.stringify(asked)}, which is no way to shut down`);
    }
  }

  powerOff(reason: ShutdownReason = 'poweroff'): void {
    this.reason = reason;
    this.#machinery.stopping = true;
    this.#machinery.wake();
  }

  *#suspend(): Task {
    const machinery = this.#machinery;
    const { xen, m, store, grants, kernel } = machinery;
    yield* machinery.say('suspending');
    yield* store.suspend();
    const info = xen.bootEsi;
    const { storeMfn, consoleMfn } = xen.startInfo;
    yield m.store32(info + AT.store_mfn.at, yield* xen.mfnToPfn(storeMfn));
    yield m.store32(info + AT.console_mfn.at, yield* xen.mfnToPfn(consoleMfn));
    yield* grants.unmap();
    for (const mm of kernel.allMms()) yield* kernel.ops.mmu.activate_mm(kernel.activeMm(), mm);
    yield* this.#lists.write();
    const own = (yield* xen.pfnToMfn(vaddrToPfn(xen.sharedVaddr))) * 4096 + PAGE_FLAGS;
    const infoMfn = yield* xen.pfnToMfn(vaddrToPfn(info));
    yield m.writeBytes(KERNEL_PAGES.scratch, wordBytes([SHUTDOWN_suspend]));
    yield* xen.must('the shared page to go', HC.update_va_mapping, xen.sharedVaddr, lowHalf(own), highHalf(own), UVMF_INVLPG);
    yield* xen.call(HC.sched_op, SCHEDOP_shutdown, KERNEL_PAGES.scratch, infoMfn);
    yield* readStartInfo(xen);
    yield* mapShared(xen);
    yield* kernel.ops.irq.irq_disable();
    yield* kernel.ops.irq.init_IRQ();
    yield* kernel.ops.time.time_init();
    kernel.traps.onIrq(machinery.events.timerPort, () => kernel.scheduler.tick());
    kernel.scheduler.tick();
    machinery.ports.forgetAll();
    yield* grants.setUp();
    machinery.restores++;
    yield* machinery.ports.listen(xen.startInfo.storePort);
    yield* this.#consoleStarted();
    yield* store.resume();
    yield* machinery.say('resumed');
  }
}
