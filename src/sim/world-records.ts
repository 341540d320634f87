// The state of a world apart from bytes in its memory: one row for each part, saved and put back in this
// order. What a row leaves out is lost by a checkpoint, so the rows are as coarse as can be: whole
// objects, whatever fields they have. What they refer to but do not hold goes by name.
//
// Not here: memory, the frame table, processors (snapshot.ts).
import { assert } from '../base/assert.ts';
import { bytesToHex, hexToBytes } from '../base/hash.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import { ABIS, XEN_BUILDS } from '../hypervisor/personality.ts';
import type { ContentStore } from './content-store.ts';
import { CONTENT_BYTES, decodeGraph, encodeGraph, type Externals } from './plain-graph.ts';
import type { World } from './world.ts';

/** Every field of the hypervisor: part of the state, or the same in every world of one spec. */
const HYPERVISOR_FIELDS: Readonly<Record<keyof Hypervisor, 'state' | 'domains' | 'bytes' | 'wiring' | 'constant'>> = {
  machine: 'bytes', frames: 'bytes', domains: 'domains', world: 'wiring', build: 'constant', access: 'wiring', xenTables: 'constant',
  rules: 'constant', current: 'state', idle: 'state', pendingGp: 'state', grantRules: 'constant', eventRules: 'constant',
  uncountedWork: 'state', hypercallRows: 'constant', dom0: 'constant', domain: 'wiring', vcpu: 'wiring',
};

interface Part {
  readonly name: string;
  save(world: World, known: KnownObjects): unknown;
  restore(world: World, saved: never, known: KnownObjects): void;
}

const PARTS: readonly Part[] = [
  {
    name: 'hypervisor',
    save: ({ hv }, known) => {
      for (const key of Object.keys(hv)) assert(Object.hasOwn(HYPERVISOR_FIELDS, key), () => `hypervisor.${key} is neither state nor wiring to a checkpoint: give it a row in HYPERVISOR_FIELDS`);
      const fields = Object.entries(hv).filter(([key]) => HYPERVISOR_FIELDS[key as keyof Hypervisor] === 'state');
      const domains = [...hv.domains.values()];
      domains.forEach((domain) => known.add(domain));
      const held = known.domains();
      // Copies one level deep: what lies below is data, the way back up and the processor go by name.
      return { fields, order: domains, domains: held.map((domain) => ({ ...domain })), vcpus: held.flatMap(({ vcpus }) => vcpus.map((vcpu) => ({ ...vcpu }))) };
    },
    restore: ({ hv }, saved: { fields: [string, unknown][]; order: Domain[]; domains: Domain[]; vcpus: Vcpu[] }, known) => {
      for (const domain of saved.domains) replaceFields(known.domain(domain.domId), domain);
      for (const vcpu of saved.vcpus) replaceFields(known.vcpu(vcpu.domain.domId, vcpu.vcpuId), vcpu);
      hv.domains.clear();
      for (const domain of saved.order) hv.domains.set(domain.domId, domain);
      Object.assign(hv, Object.fromEntries(saved.fields));
    },
  },
  { name: 'services', save: (world) => world.services.save(), restore: (world, saved) => world.services.restore(saved) },
  { name: 'world', save: (world) => world.saveOwn(), restore: (world, saved) => world.restoreOwn(saved) },
  { name: 'choices', save: (world) => world.choices.save(), restore: (world, saved) => world.choices.restore(saved) },
  {
    name: 'input',
    save: ({ input, inputsTaken }) => ({ source: input.name, state: input.save(), taken: inputsTaken }),
    restore: ({ input }, saved: { source: string; state: unknown; taken: number }) => {
      if (saved.source === input.name) input.restore(saved.state);
      else input.skipTo(saved.taken);
    },
  },
];

/** The object stays, since others refer to it; what it holds is exchanged. */
function replaceFields(object: object, fields: object): void {
  for (const key of Object.keys(object)) if (!Object.hasOwn(fields, key)) delete (object as Record<string, unknown>)[key];
  Object.assign(object, fields);
}

/** The domains and vCPUs of a world: they keep their identity, also those that come or go between two checkpoints. */
class KnownObjects implements Externals {
  readonly #byName = new Map<string, object>();
  readonly #names = new Map<object, string>();
  readonly #domains = new Map<number, Domain>();

  constructor(world: World) {
    for (const abi of Object.values(ABIS)) this.#know(`abi ${abi.name}`, abi);
    for (const build of Object.values(XEN_BUILDS)) this.#know(`build ${build.name}`, build);
    for (const domain of world.hv.domains.values()) this.add(domain);
  }

  /** A domain that may be new. */
  add(domain: Domain): void {
    this.#domains.set(domain.domId, domain);
    this.#know(`domain ${domain.domId}`, domain);
    for (const vcpu of domain.vcpus) {
      this.#know(vcpuName(domain.domId, vcpu.vcpuId), vcpu);
      if (vcpu.cpu !== undefined) this.#know(cpuName(domain.domId, vcpu.vcpuId), vcpu.cpu);
    }
  }

  domains(): Domain[] {
    return [...this.#domains.values()].sort((a, b) => a.domId - b.domId);
  }
  domain(domId: number): Domain {
    return this.find(`domain ${domId}`) as Domain;
  }
  vcpu(domId: number, vcpuId: number): Vcpu {
    return this.find(vcpuName(domId, vcpuId)) as Vcpu;
  }

  nameOf(value: object): string | undefined {
    return this.#names.get(value);
  }
  find(name: string): object {
    const object = this.#byName.get(name);
    assert(object !== undefined, () => `a checkpoint names ${name}, which this world does not have`);
    return object;
  }

  #know(name: string, object: object): void {
    this.#byName.set(name, object);
    this.#names.set(object, name);
  }
}
const vcpuName = (domId: number, vcpuId: number): string => `vcpu ${domId}.${vcpuId}`;
const cpuName = (domId: number, vcpuId: number): string => `cpu ${domId}.${vcpuId}`;

/** The records of a part: named objects of the world by their names, large byte arrays by their hashes. */
class RecordNames implements Externals {
  readonly #known: KnownObjects;
  readonly #store: ContentStore;
  /** Contents that were met before, by the array that holds them. */
  readonly #contents = new WeakMap<object, string>();

  constructor(known: KnownObjects, store: ContentStore) {
    this.#known = known;
    this.#store = store;
  }

  nameOf(value: object): string | undefined {
    if (!(value instanceof Uint8Array) || value.length < CONTENT_BYTES) return this.#known.nameOf(value);
    let name = this.#contents.get(value);
    if (name === undefined) this.#contents.set(value, (name = `${CONTENT}${bytesToHex(this.#store.hash(this.#store.add(value)))}`));
    return name;
  }

  find(name: string): object {
    if (!name.startsWith(CONTENT)) return this.#known.find(name);
    const number = this.#store.find(hexToBytes(name.slice(CONTENT.length)));
    assert(number !== undefined, () => `a checkpoint names ${name}, which is not in its store`);
    const bytes = this.#store.bytes(number);
    this.#contents.set(bytes, name);
    return bytes;
  }
}
const CONTENT = 'content ';

/** Saves and restores the records of one world: a text for each part. */
export class WorldRecords {
  readonly #world: World;
  readonly #known: KnownObjects;
  readonly #names: RecordNames;

  constructor(world: World, store: ContentStore) {
    this.#world = world;
    this.#known = new KnownObjects(world);
    this.#names = new RecordNames(this.#known, store);
  }

  save(): string[] {
    return PARTS.map(({ save }) => encodeGraph(save(this.#world, this.#known), this.#names));
  }

  restore(texts: readonly string[]): void {
    assert(texts.length === PARTS.length, () => `a checkpoint has ${texts.length} parts instead of ${PARTS.length}`);
    PARTS.forEach(({ restore }, index) => restore(this.#world, decodeGraph(texts[index] as string, this.#names) as never, this.#known));
  }
}
