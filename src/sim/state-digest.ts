// Hashes of a world's whole state, in named parts, so that a difference says where to look. A digest
// is a function of the state alone: it does not depend on when or whether earlier ones were taken.
//
// Memory is hashed frame by frame into a table of which only dirty frames are redone; the part
// `memory` is the hash of that table.
import { blake3 } from '../base/hash.ts';
import { PAGE_SIZE } from '../base/brand.ts';
import type { MachineMemory } from '../machine/memory.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import type { World } from './world.ts';

export interface DigestPart {
  readonly name: string;
  readonly digest: Uint8Array;
}

const FRAME_HASH_BYTES = 32;

export class StateDigester {
  readonly #world: World;
  readonly #frameHashes: Uint8Array;
  #primed = false;

  constructor(world: World) {
    this.#world = world;
    this.#frameHashes = new Uint8Array(world.machine.frameCount * FRAME_HASH_BYTES);
  }

  parts(): DigestPart[] {
    const { hv, machine } = this.#world;
    const parts: DigestPart[] = [{ name: 'memory', digest: this.#memory(machine) }];
    for (const domain of hv.domains.values()) {
      for (const vcpu of domain.vcpus) {
        if (vcpu.cpu === undefined) continue;
        parts.push({ name: `processor d${domain.domId}v${vcpu.vcpuId}`, digest: blake3(vcpu.cpu.saveState()) });
        vcpu.cpu.dropWriteFastPaths();
      }
      parts.push({ name: `domain ${domain.domId}`, digest: hashJson(domainState(domain)) });
    }
    const frameTable = hv.frames.area();
    parts.push({ name: 'frames', digest: blake3(machine.u8.subarray(frameTable.base, frameTable.base + frameTable.sizeBytes)) });
    parts.push({ name: 'dom0', digest: hashJson(this.#world.saveServices()) });
    parts.push({ name: 'scheduler', digest: hashJson(this.#world.saveScheduler()) });
    return parts;
  }

  #memory(machine: MachineMemory): Uint8Array {
    const all = this.#frameHashes;
    if (!this.#primed) {
      this.#primed = true;
      const zero = blake3(new Uint8Array(PAGE_SIZE));
      for (let mfn = 0; mfn < machine.frameCount; mfn++) all.set(zero, mfn * FRAME_HASH_BYTES);
    }
    for (const mfn of machine.dirtyFrames()) {
      const at = machine.ramBase + mfn * PAGE_SIZE;
      all.set(blake3(machine.u8.subarray(at, at + PAGE_SIZE)), mfn * FRAME_HASH_BYTES);
    }
    machine.clearDirty();
    return blake3(all);
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
