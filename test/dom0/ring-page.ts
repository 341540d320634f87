// A shared page without a guest: bytes, and counters of what the back end did with its port.
import type { ConsolePort, SharedPage } from '../../src/dom0/ports.ts';

export class PlainPage implements SharedPage {
  readonly bytes = new Uint8Array(4096);
  readonly #view = new DataView(this.bytes.buffer);
  readU8(at: number): number {
    return this.#view.getUint8(at);
  }
  readU32(at: number): number {
    return this.#view.getUint32(at, true);
  }
  readBytes(at: number, sizeBytes: number): Uint8Array {
    if (at < 0 || at + sizeBytes > 4096) throw new RangeError(`${sizeBytes} bytes at ${at}`);
    return this.bytes.slice(at, at + sizeBytes);
  }
  writeU8(at: number, value: number): void {
    this.#view.setUint8(at, value);
  }
  writeU32(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }
  writeBytes(at: number, bytes: Uint8Array): void {
    if (at < 0 || at + bytes.length > 4096) throw new RangeError(`${bytes.length} bytes at ${at}`);
    this.bytes.set(bytes, at);
  }
}

export interface TestPort extends ConsolePort {
  readonly page: PlainPage;
  notified: number;
  readonly emitted: { readonly kind: number; readonly values: readonly number[]; readonly text: string }[];
  printed: string;
  /** What time it is. */
  atNs: number;
  /** When it is to be run, in the order in which it asked. */
  readonly runsAtNs: number[];
}

export function testPort(): TestPort {
  const port: TestPort = {
    page: new PlainPage(),
    notified: 0,
    emitted: [],
    printed: '',
    atNs: 0,
    runsAtNs: [],
    notify: () => void port.notified++,
    nowNs: () => port.atNs,
    scheduleRun: (delayNs) => void port.runsAtNs.push(port.atNs + delayNs),
    emit: (kind, values, bytes) => void port.emitted.push({ kind, values, text: String.fromCharCode(...(bytes ?? [])) }),
    output: (bytes) => void (port.printed += String.fromCharCode(...bytes)),
  };
  return port;
}
