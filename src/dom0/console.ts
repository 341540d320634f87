// The PV console's back end: takes what the guest prints, gives it what is typed.
// Source: tools/console/daemon/io.c (buffer_append, console_handle_input).
import { CONSOLE_CONNECTION, CONSOLE_IN_BYTES, CONSOLE_OUT_BYTES, CONSOLE_RING } from '../abi/console-ring.ts';
import { EVENT } from '../abi/events.ts';
import { indexAdd, indexDistance } from '../abi/ring-index.ts';
import type { ConsolePort } from './ports.ts';

const AT = {
  in: CONSOLE_RING.fields.in.at, out: CONSOLE_RING.fields.out.at, inCons: CONSOLE_RING.fields.in_cons.at, inProd: CONSOLE_RING.fields.in_prod.at,
  outCons: CONSOLE_RING.fields.out_cons.at, outProd: CONSOLE_RING.fields.out_prod.at, connection: CONSOLE_RING.fields.connection.at,
} as const;

export class ConsoleBackend {
  readonly #port: ConsolePort;
  /** Typed, but not in the ring yet. */
  #typed: number[] = [];

  constructor(port: ConsolePort) {
    this.#port = port;
  }

  /** Tells the guest that somebody reads; once, when the page has been mapped. */
  connect(): void {
    this.#port.page.writeU8(AT.connection, CONSOLE_CONNECTION.connected);
  }

  /** The guest rang: it printed, or it has read. */
  run(): void {
    const took = this.#takeOutput();
    const gave = this.#giveInput();
    if (took || gave) this.#port.notify();
  }

  /** Bytes typed by somebody. What does not fit waits until the guest has read. */
  input(bytes: Uint8Array): void {
    this.#typed.push(...bytes);
    if (this.#giveInput()) this.#port.notify();
  }

  #takeOutput(): boolean {
    const { page } = this.#port;
    const cons = page.readU32(AT.outCons);
    const count = indexDistance(cons, page.readU32(AT.outProd));
    // Indices that make no sense are left alone, as the reference does.
    if (count === 0 || count > CONSOLE_OUT_BYTES) return false;
    const bytes = new Uint8Array(count);
    for (let done = 0; done < count; ) {
      const at = indexAdd(cons, done) % CONSOLE_OUT_BYTES;
      const chunk = Math.min(count - done, CONSOLE_OUT_BYTES - at);
      bytes.set(page.readBytes(AT.out + at, chunk), done);
      done += chunk;
    }
    page.writeU32(AT.outCons, indexAdd(cons, count));
    this.#port.emit(EVENT.consoleOut, [], bytes);
    this.#port.output(bytes);
    return true;
  }

  #giveInput(): boolean {
    const { page } = this.#port;
    const prod = page.readU32(AT.inProd);
    const used = indexDistance(page.readU32(AT.inCons), prod);
    if (used > CONSOLE_IN_BYTES) return false;
    const count = Math.min(CONSOLE_IN_BYTES - used, this.#typed.length);
    for (let i = 0; i < count; i++) page.writeU8(AT.in + (indexAdd(prod, i) % CONSOLE_IN_BYTES), this.#typed[i] as number);
    if (count === 0) return false;
    page.writeU32(AT.inProd, indexAdd(prod, count));
    this.#typed = this.#typed.slice(count);
    return true;
  }

  /** JSON-serialisable. */
  save(): unknown {
    return { typed: [...this.#typed] };
  }
  restore(state: unknown): void {
    this.#typed = [...(state as { typed: number[] }).typed];
  }
}
