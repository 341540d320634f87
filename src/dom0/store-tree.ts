// The tree of xenstore: nodes by path, rights, and transactions that keep copies of what they touch
// until they commit. One rule runs through it: who may not see a node gets EACCES, not ENOENT,
// unless the parent lets it look.
//
//   read   transaction's copy, else the store (and the transaction notes its generation)
//   write  transaction's copy, else the store
//   commit every node that was read must have its old generation, else EAGAIN
//
// Source: tools/xenstored/core.c, transaction.c. Not here: watches (store-watches.ts), the wire.
import { assert } from '../base/assert.ts';
import { DOMID_ANY, type XsError } from '../abi/xenstore.ts';
import { NO_GENERATION, type StoreConnection, type StoreNode, type StorePerm, type StoreQuotas, type StoreTransaction, type TouchedNode } from './store-state.ts';

/** Who asks: a connection, and the transaction it asks in. */
export interface StoreCaller {
  readonly connection: StoreConnection;
  readonly transaction: StoreTransaction | undefined;
}

export type Found = { readonly ok: true; readonly path: string; readonly node: StoreNode } | { readonly ok: false; readonly error: XsError; readonly path: string | undefined };

/** Called for each change, in order, with the node as it was when it could still be seen. */
export type ChangeListener = (path: string, node: StoreNode | undefined, match: 'exact' | 'subtree', oldPerms: readonly StorePerm[] | undefined) => void;

/** What a node counts for: rights, value, names of its children, each with the header it has in the reference daemon. */
const NODE_HEADER_BYTES = 24;
const PERM_BYTES = 8;
const nodeBytes = (node: StoreNode): number =>
  NODE_HEADER_BYTES + node.perms.length * PERM_BYTES + node.value.length + node.children.reduce((sum, name) => sum + name.length + 1, 0);

export const parentPath = (path: string): string => {
  const slash = path.lastIndexOf('/');
  return slash > 0 ? path.slice(0, slash) : '/';
};
const baseName = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
export const childPath = (path: string, name: string): string => (path === '/' ? `/${name}` : `${path}/${name}`);

export const isPrivileged = (connection: StoreConnection): boolean => connection.domId === 0;

export class StoreTree {
  readonly quotas: StoreQuotas;
  /** Wiring: who is told of changes. */
  onChange: ChangeListener = () => {};
  #nodes = new Map<string, StoreNode>();
  #owned: Record<number, number> = {};
  #generation = 0;

  constructor(quotas: StoreQuotas) {
    this.quotas = quotas;
    const dom0 = [perm(0, '')];
    this.#set('/', { value: '', perms: dom0, children: ['tool'], generation: 0 });
    this.#set('/tool', { value: '', perms: dom0, children: ['xenstored'], generation: 0 });
    this.#set('/tool/xenstored', { value: '', perms: dom0, children: [], generation: 0 });
    this.#set('@releaseDomain', { value: '', perms: [perm(0, ''), perm(DOMID_ANY, 'r')], children: [], generation: 0 });
    this.#set('@introduceDomain', { value: '', perms: dom0, children: [], generation: 0 });
    this.#owned[0] = 5;
  }

  #set(path: string, node: StoreNode): void {
    this.#nodes.set(path, node);
  }

  /** The store itself, outside any transaction and without rights. */
  peek(path: string): StoreNode | undefined {
    return this.#nodes.get(path);
  }
  paths(): string[] {
    return [...this.#nodes.keys()];
  }
  nextGeneration(): number {
    return ++this.#generation;
  }
  ownedBy(domId: number): number {
    return this.#owned[domId] ?? 0;
  }

  /** The path in full, or undefined: EINVAL. `special`: names with '@' are allowed. */
  canonical(connection: StoreConnection, name: string | undefined, special: boolean): string | undefined {
    if (name === undefined || !/^[A-Za-z0-9\-/_@]*$/.test(name) || (name.startsWith('@') && !special)) return undefined;
    const path = name.startsWith('/') || name.startsWith('@') ? name : `/local/domain/${connection.domId}/${name}`;
    const local = /^\/local\/domain\/\d{1,5}\//.exec(path)?.[0].length ?? 0;
    const tooLong = !isPrivileged(connection) && path.length - local >= this.quotas.pathLength;
    return (path.endsWith('/') && path !== '/') || path.includes('//') || tooLong ? undefined : path;
  }

  // ---- reading ---------------------------------------------------------------------------------

  /** The node as the caller's transaction sees it, noted there; undefined: not there. Rights are not looked at. */
  read(caller: StoreCaller | undefined, path: string): StoreNode | undefined {
    const transaction = caller?.transaction;
    if (transaction === undefined) return this.#nodes.get(path);
    const touched = transaction.touched.find((row) => row.path === path);
    if (touched !== undefined) return touched.node;
    const node = this.#nodes.get(path);
    this.#touch(caller as StoreCaller, path, node, true);
    return node;
  }

  #touch(caller: StoreCaller, path: string, node: StoreNode | undefined, isRead: boolean): TouchedNode {
    const transaction = caller.transaction as StoreTransaction;
    if (!isPrivileged(caller.connection) && transaction.touched.length + 1 > this.quotas.transactionNodes) transaction.failed = true;
    const touched: TouchedNode = { path, node, generation: node?.generation ?? NO_GENERATION, checkGeneration: isRead, modified: false, oldPerms: node?.perms, fire: undefined };
    transaction.touched.push(touched);
    return touched;
  }

  /** The rights of a connection on a node with these permissions: perm_for_conn(). */
  rights(connection: StoreConnection, perms: readonly StorePerm[]): { read: boolean; write: boolean; owner: boolean } {
    const owner = perms[0];
    const matches = (row: StorePerm): boolean => row.domId === connection.domId || row.domId === connection.targetDomId || row.domId === DOMID_ANY;
    if (isPrivileged(connection) || owner === undefined || matches(owner)) return { read: true, write: true, owner: true };
    const row = perms.slice(1).find((other) => !other.ignored && matches(other)) ?? owner;
    return { read: row.read, write: row.write, owner: false };
  }

  /** get_node(): name to node with the rights wanted, or the error that may be told. */
  find(caller: StoreCaller, name: string | undefined, want: 'read' | 'write' | 'own', special = false): Found {
    const path = this.canonical(caller.connection, name, special);
    if (path === undefined) return { ok: false, error: 'EINVAL', path };
    const node = this.read(caller, path);
    const enough = (rights: { read: boolean; write: boolean; owner: boolean }): boolean => (want === 'read' ? rights.read : rights.write && (want === 'write' || rights.owner));
    if (node !== undefined && enough(this.rights(caller.connection, node.perms))) return { ok: true, path, node };
    return { ok: false, path, error: this.#errorFromParents(caller, path, node === undefined ? 'ENOENT' : 'EACCES', want) };
  }

  /** errno_from_parents(): the nearest node above decides whether the caller may know. */
  #errorFromParents(caller: StoreCaller, path: string, error: XsError, want: 'read' | 'write' | 'own'): XsError {
    for (let up = path; ; ) {
      up = parentPath(up);
      const node = this.read(caller, up);
      if (node !== undefined) {
        const rights = this.rights(caller.connection, node.perms);
        // The reference tests any of the wanted bits.
        const any = want === 'read' ? rights.read : rights.write || (want === 'own' && rights.owner);
        return any ? error : 'EACCES';
      }
      if (up === '/') return 'EACCES';
    }
  }

  // ---- writing ---------------------------------------------------------------------------------

  /** Stores a node where the caller sees it. ENOSPC: larger than a node may be. */
  write(caller: StoreCaller | undefined, path: string, node: Omit<StoreNode, 'generation'>, noQuota = false): XsError | undefined {
    const stored = { ...node, generation: this.nextGeneration() };
    if (caller === undefined || caller.transaction === undefined) {
      if (!noQuota && caller !== undefined && !isPrivileged(caller.connection) && nodeBytes(stored) >= this.quotas.nodeBytes) return 'ENOSPC';
      this.#nodes.set(path, stored);
      return undefined;
    }
    const { transaction } = caller;
    const touched = transaction.touched.find((row) => row.path === path) ?? this.#touch(caller, path, undefined, false);
    touched.modified = true;
    if (!noQuota && !isPrivileged(caller.connection) && nodeBytes(stored) >= this.quotas.nodeBytes) {
      transaction.failed = true;
      return 'ENOSPC';
    }
    touched.node = stored;
    return undefined;
  }

  /** Creates the node and what is missing above it: create_node(). */
  create(caller: StoreCaller, path: string, value: string): XsError | undefined {
    const { connection, transaction } = caller;
    const missing: string[] = [];
    let at = path;
    let parent: StoreNode | undefined;
    while (parent === undefined) {
      missing.unshift(at);
      const up = parentPath(at);
      parent = this.read(caller, up);
      if (parent === undefined && up === '/') return 'ENOENT';
      at = up;
    }
    if (transaction !== undefined) transaction.created = true;
    const first = parent.perms[0] as StorePerm;
    const perms = isPrivileged(connection) ? parent.perms : [{ ...first, domId: connection.domId }, ...parent.perms.slice(1)];
    const owner = (perms[0] as StorePerm).domId;
    if (!isPrivileged(connection) && this.#ownedInView(caller, connection.domId) + missing.length > this.quotas.nodes) return 'ENOSPC';
    // Deepest first, as the reference writes them, so that a refused node leaves no trace above it.
    for (let index = missing.length - 1; index >= 0; index--) {
      const below = missing[index + 1];
      const error = this.write(caller, missing[index] as string, { value: index === missing.length - 1 ? value : '', perms, children: below === undefined ? [] : [baseName(below)] });
      if (error !== undefined) return this.#undoCreate(caller, missing.slice(index + 1), owner, error);
      this.#own(caller, owner, 1);
    }
    const error = this.write(caller, at, { value: parent.value, perms: parent.perms, children: [...parent.children, baseName(missing[0] as string)] });
    return error === undefined ? undefined : this.#undoCreate(caller, missing, owner, error);
  }

  #undoCreate(caller: StoreCaller, paths: readonly string[], owner: number, error: XsError): XsError {
    if (caller.transaction !== undefined) caller.transaction.failed = true;
    else for (const path of paths) this.#nodes.delete(path);
    this.#own(caller, owner, -paths.length);
    return error;
  }

  #own(caller: StoreCaller | undefined, domId: number, count: number): void {
    const counts = caller?.transaction?.ownedDelta ?? this.#owned;
    counts[domId] = (counts[domId] ?? 0) + count;
  }
  #ownedInView(caller: StoreCaller, domId: number): number {
    return this.ownedBy(domId) + (caller.transaction?.ownedDelta[domId] ?? 0);
  }

  /** Replaces the permissions of a node that was found. */
  setPerms(caller: StoreCaller, path: string, node: StoreNode, perms: readonly StorePerm[]): XsError | undefined {
    this.#own(caller, (node.perms[0] as StorePerm).domId, -1);
    this.#own(caller, (perms[0] as StorePerm).domId, 1);
    return this.write(caller, path, { ...node, perms });
  }

  /** Removes the node and all below it, the deepest first; the parent forgets it. */
  remove(caller: StoreCaller | undefined, path: string): XsError | undefined {
    const parent = this.read(caller, parentPath(path));
    if (parent === undefined) return 'EINVAL';
    this.#removeBelow(caller, path, path);
    this.write(caller, parentPath(path), { ...parent, children: parent.children.filter((name) => name !== baseName(path)) }, true);
    return undefined;
  }

  #removeBelow(caller: StoreCaller | undefined, root: string, path: string): void {
    const node = this.read(caller, path);
    if (node === undefined) return;
    for (const name of node.children) this.#removeBelow(caller, root, childPath(path, name));
    this.#own(caller, (node.perms[0] as StorePerm).domId, -1);
    if (caller?.transaction === undefined) this.#nodes.delete(path);
    else {
      const touched = caller.transaction.touched.find((row) => row.path === path) as TouchedNode;
      touched.modified = true;
      touched.node = undefined;
    }
    this.nextGeneration();
    this.changed(caller, path, node, path === root ? 'subtree' : 'exact');
  }

  /** Tells the watches now, or notes it for the commit. */
  changed(caller: StoreCaller | undefined, path: string, node: StoreNode | undefined, match: 'exact' | 'subtree', oldPerms?: readonly StorePerm[]): void {
    if (caller?.transaction === undefined) return this.onChange(path, node, match, oldPerms);
    const touched = caller.transaction.touched.find((row) => row.path === path);
    if (touched === undefined) caller.transaction.failed = true;
    else if (touched.fire !== 'subtree') touched.fire = match;
  }

  // ---- transactions ----------------------------------------------------------------------------

  /** finalize_transaction(): EAGAIN on a conflict, and then nothing has changed. */
  commit(connection: StoreConnection, transaction: StoreTransaction): XsError | undefined {
    if (transaction.failed) return 'ENOMEM';
    if (transaction.created && !isPrivileged(connection)) {
      const grown = (transaction.ownedDelta[connection.domId] ?? 0) > 0;
      if (grown && this.ownedBy(connection.domId) + (transaction.ownedDelta[connection.domId] ?? 0) > this.quotas.nodes) return 'ENOSPC';
    }
    for (const touched of transaction.touched) {
      if (touched.checkGeneration && (this.#nodes.get(touched.path)?.generation ?? NO_GENERATION) !== touched.generation) return 'EAGAIN';
    }
    for (const touched of transaction.touched) {
      if (!touched.modified) continue;
      if (touched.node !== undefined) this.#nodes.set(touched.path, { ...touched.node, generation: this.nextGeneration() });
      else this.#nodes.delete(touched.path);
      if (touched.fire !== undefined) this.onChange(touched.path, undefined, touched.fire, touched.oldPerms);
    }
    for (const [domId, delta] of Object.entries(transaction.ownedDelta)) this.#owned[Number(domId)] = this.ownedBy(Number(domId)) + delta;
    return undefined;
  }

  /** A domain is gone: its nodes go, its rights elsewhere are taken away (domain_tree_remove). */
  forgetDomain(domId: number): void {
    const visit = (path: string): void => {
      const node = this.#nodes.get(path);
      if (node === undefined) return;
      if ((node.perms[0] as StorePerm).domId === domId && path !== '/') {
        this.remove(undefined, path);
        return;
      }
      const perms = node.perms.filter((row, index) => index === 0 || row.domId !== domId);
      if (perms.length !== node.perms.length) this.write(undefined, path, { ...node, perms }, true);
      for (const name of node.children) visit(childPath(path, name));
    };
    visit('/');
    delete this.#owned[domId];
  }

  save(): unknown {
    return { nodes: [...this.#nodes], owned: { ...this.#owned }, generation: this.#generation };
  }
  restore(state: unknown): void {
    const saved = state as { nodes: [string, StoreNode][]; owned: Record<number, number>; generation: number };
    assert(Array.isArray(saved.nodes), 'the saved store has no nodes');
    this.#nodes = new Map(saved.nodes);
    this.#owned = { ...saved.owned };
    this.#generation = saved.generation;
  }
}

/** rights: '', 'r', 'w' or 'rw'. */
export function perm(domId: number, rights: string): StorePerm {
  return { domId, read: rights.includes('r'), write: rights.includes('w'), ignored: false };
}
