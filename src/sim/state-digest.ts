// Hashes of a world's whole state, in named parts, so that a difference says where to look. A digest
// is a function of the state alone: it does not depend on when or whether earlier ones were taken.
//
// The part `memory` is the hash of the table of frame hashes (frame-hashes.ts).
import { blake3 } from '../base/hash.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import type { World } from './world.ts';

export interface DigestPart {
  readonly name: string;
  readonly digest: Uint8Array;
}

/** mfn and BLAKE3. */
const ROW_BYTES = 36;

export class StateDigester {
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  parts(): DigestPart[] {
    const { hv, machine } = this.#world;
    const parts: DigestPart[] = [{ name: 'memory', digest: this.#memory() }];
    for (const domain of hv.domains.values()) {
      for (const vcpu of domain.vcpus) {
        if (vcpu.cpu === undefined) continue;
        parts.push({ name: `processor d${domain.domId}v${vcpu.vcpuId}`, digest: blake3(vcpu.cpu.saveState()) });
      }
      parts.push({ name: `domain ${domain.domId}`, digest: hashJson(domainState(domain)) });
    }
    const frameTable = hv.frames.area();
    parts.push({ name: 'frames', digest: blake3(machine.u8.subarray(frameTable.base, frameTable.base + frameTable.sizeBytes)) });
    parts.push({ name: 'dom0', digest: hashJson(this.#world.services.digest()) });
    parts.push({ name: 'scheduler', digest: hashJson(schedulerState(this.#world)) });
    return parts;
  }

  #memory(): Uint8Array {
    const hashes = this.#world.frameHashes.current();
    const table = new Uint8Array(hashes.size * ROW_BYTES);
    const view = new DataView(table.buffer);
    let row = 0;
    for (const mfn of [...hashes.keys()].sort((a, b) => a - b)) {
      view.setUint32(row, mfn, true);
      table.set(hashes.get(mfn) as Uint8Array, row + 4);
      row += ROW_BYTES;
    }
    return blake3(table);
  }
}

const hashJson = (value: unknown): Uint8Array => blake3(new TextEncoder().encode(JSON.stringify(value, plain)));

/** Everything but the way back up (vcpu.domain) and the processor, which has its own part. */
function domainState(domain: Domain): object {
  const vcpus = domain.vcpus.map((vcpu: Vcpu) => ({ ...vcpu, domain: undefined, cpu: undefined }));
  return { ...domain, vcpus };
}

/** JSON for what JSON lacks. Keys keep the order in which the code made them, which is the same in every run. */
function plain(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return `0x${value.toString(16)}`;
  if (value instanceof Map) return [...value];
  if (value instanceof Set) return [...value];
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number>);
  return value;
}

/** What decides who runs next and when, apart from the domains' own records. */
export function schedulerState(world: World): object {
  const { queue, idleNs, steps, sliceLeft, runnable, current } = world.saveOwn();
  const name = ({ domain, vcpuId }: Vcpu): readonly number[] => [domain.domId, vcpuId];
  return { queue, idleNs, steps, sliceLeft, runnable: runnable.map(name), current: current === undefined ? null : name(current) };
}
