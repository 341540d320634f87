// The hvc console: a ring of bytes in a page that Xen's builder made, and a port to knock on.
import { CONSOLE_OUT_BYTES, CONSOLE_RING } from '../../abi/console-ring.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { Task } from '../operations.ts';
import type { ConsolePort } from '../paravirt-ops/index.ts';
import type { XenEvents } from './events.ts';
import { HC, wordBytes, type XenState } from './state.ts';

const AT = CONSOLE_RING.fields;
const SCHEDOP_POLL = 3;
const PATIENCE_NS = 100_000_000;

export class HvcConsole implements ConsolePort {
  readonly #xen: XenState;
  readonly #events: XenEvents;

  constructor(xen: XenState, events: XenEvents) {
    this.#xen = xen;
    this.#events = events;
  }

  *write(bytes: Uint8Array): Task {
    const { m, startInfo } = this.#xen;
    const ring = yield* this.#xen.vaddrOfMfn(startInfo.consoleMfn);
    for (let done = 0; done < bytes.length; ) {
      const cons = yield m.load32(ring + AT.out_cons.at);
      const prod = yield m.load32(ring + AT.out_prod.at);
      const room = CONSOLE_OUT_BYTES - ((prod - cons) >>> 0);
      if (room === 0) {
        yield* this.#waitForRoom();
        continue;
      }
      const at = prod & (CONSOLE_OUT_BYTES - 1);
      const count = Math.min(bytes.length - done, room, CONSOLE_OUT_BYTES - at);
      yield m.writeBytes(ring + AT.out.at + at, bytes.subarray(done, done + count));
      yield m.store32(ring + AT.out_prod.at, (prod + count) >>> 0);
      yield* this.#events.send(startInfo.consolePort);
      done += count;
    }
  }

  *#waitForRoom(): Task {
    const { m, startInfo } = this.#xen;
    const until = (yield* this.#events.now()) + PATIENCE_NS;
    const args = KERNEL_PAGES.scratch;
    yield m.writeBytes(args, wordBytes([args + 16, 1, until >>> 0, Math.floor(until / 0x1_0000_0000), startInfo.consolePort]));
    yield* this.#xen.must('to wait for the console', HC.sched_op, SCHEDOP_POLL, args);
  }
}
