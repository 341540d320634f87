// xenstored: the protocol engine. A request comes in as a message, replies and watch events leave
// through the connections' queues; rings are store-ring.ts. Everything is plain data and happens in
// one order, so that two runs with the same requests give the same bytes.
//
// Operations are rows: who may, whether the transaction id counts, what it does.
// Sources: tools/xenstored/core.c, watch.c, domain.c; docs/misc/xenstore.txt. Not here: live update,
// quotas of memory, timeouts, SET_FEATURE and SET_QUOTA (refused with ENOSYS).
import type { FaultName } from '../abi/faults.ts';
import { DOMID_ANY, XS, XS_FEATURE, XS_PAYLOAD_MAX, type XsError } from '../abi/xenstore.ts';
import { answer, DEFAULT_QUOTAS, OK, refuseStore, type StoreAnswer, type StoreConnection, type StoreMessage, type StoreNode, type StorePerm, type StoreQuotas, type StoreTransaction } from './store-state.ts';
import { isPrivileged, parentPath, perm, StoreTree, type StoreCaller } from './store-tree.ts';

interface Request extends StoreCaller {
  readonly store: Xenstored;
  readonly payload: string;
  /** What follows the reply: the first event of a new watch. */
  after: (() => void) | undefined;
}

interface OperationRow {
  /** dom0 only, else EACCES. */
  readonly privileged?: boolean;
  /** The transaction id is ignored. */
  readonly noTransaction?: boolean;
  readonly run: (request: Request) => StoreAnswer;
}

const SUPPORTED_FEATURES = XS_FEATURE.error | XS_FEATURE.watchDepth | XS_FEATURE.domidAny;

/** All texts that end in NUL; what follows the last one is left out. */
const texts = (payload: string): string[] => payload.split('\0').slice(0, -1);
/** The only text, with exactly one NUL at the end. */
function oneText(payload: string): string | undefined {
  return payload.length > 0 && payload.indexOf('\0') === payload.length - 1 ? payload.slice(0, -1) : undefined;
}
/** strtoul and atoi: leading digits. */
const leadingNumber = (text: string): number => Number(/^\s*\d+/.exec(text)?.[0] ?? 0);
function domIdOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d*$/.test(text)) return undefined;
  const domId = Number(text);
  return domId > 65535 ? undefined : domId;
}

// ---- permissions as texts ------------------------------------------------------------------------

function permText(row: StorePerm): string {
  return `${row.read ? (row.write ? 'b' : 'r') : row.write ? 'w' : 'n'}${row.domId}\0`;
}
function permFromText(text: string): StorePerm | undefined {
  const match = /^([rwbn])(\d+|0x[0-9a-fA-F]+)$/.exec(text);
  if (match === null) return undefined;
  return perm(Number(match[2]), { r: 'r', w: 'w', b: 'rw', n: '' }[match[1] as 'r'] as string);
}

// ---- the operations ------------------------------------------------------------------------------

const tree = (request: Request): StoreTree => request.store.tree;

function directory(request: Request): StoreAnswer {
  const found = tree(request).find(request, oneText(request.payload), 'read');
  return found.ok ? answer(childList(found.node)) : found;
}
const childList = (node: StoreNode): string => node.children.map((name) => `${name}\0`).join('');

/** A long directory in parts: generation, then names from an offset; an empty name ends the last part. */
function directoryPart(request: Request): StoreAnswer {
  const [name, offsetText] = texts(request.payload);
  if (texts(request.payload).length !== 2 || offsetText === undefined) return refuseStore('EINVAL');
  const found = tree(request).find(request, name, 'read');
  if (!found.ok) return found;
  const list = childList(found.node);
  const offset = leadingNumber(offsetText);
  const generation = `${found.node.generation}\0`;
  if (offset >= list.length) return answer(`${generation}\0`);
  const room = XS_PAYLOAD_MAX - generation.length - 1;
  let end = offset;
  while (end < list.length) {
    const next = list.indexOf('\0', end) + 1;
    if (next - offset > room) break;
    end = next;
  }
  return answer(`${generation}${list.slice(offset, end)}${end === list.length ? '\0' : ''}`);
}

function read(request: Request): StoreAnswer {
  const found = tree(request).find(request, oneText(request.payload), 'read');
  return found.ok ? answer(found.node.value) : found;
}

function write(request: Request): StoreAnswer {
  const nul = request.payload.indexOf('\0');
  if (nul < 0) return refuseStore('EINVAL');
  const value = request.payload.slice(nul + 1);
  const found = tree(request).find(request, request.payload.slice(0, nul), 'write');
  let error: XsError | undefined;
  if (found.ok) error = tree(request).write(request, found.path, { ...found.node, value });
  else if (found.error === 'ENOENT' && found.path !== undefined) error = tree(request).create(request, found.path, value);
  else return found;
  return error === undefined ? changed(request, found.path as string) : refuseStore(error);
}

function changed(request: Request, path: string, oldPerms?: readonly StorePerm[]): StoreAnswer {
  tree(request).changed(request, path, tree(request).read(request, path), 'subtree', oldPerms);
  return OK;
}

function mkdir(request: Request): StoreAnswer {
  const found = tree(request).find(request, oneText(request.payload), 'write');
  if (found.ok) return OK;
  if (found.error !== 'ENOENT' || found.path === undefined) return found;
  const error = tree(request).create(request, found.path, '');
  return error === undefined ? changed(request, found.path) : refuseStore(error);
}

/** Removing what is not there is fine as long as its parent is. */
function remove(request: Request): StoreAnswer {
  const found = tree(request).find(request, oneText(request.payload), 'write');
  if (!found.ok) {
    const parentThere = found.error === 'ENOENT' && found.path !== undefined && tree(request).read(request, parentPath(found.path)) !== undefined;
    return parentThere ? OK : found;
  }
  if (found.path === '/') return refuseStore('EINVAL');
  const error = tree(request).remove(request, found.path);
  return error === undefined ? OK : refuseStore(error);
}

function getPerms(request: Request): StoreAnswer {
  const found = tree(request).find(request, oneText(request.payload), 'read', true);
  return found.ok ? answer(found.node.perms.map(permText).join('')) : found;
}

function setPerms(request: Request): StoreAnswer {
  const [name, ...permTexts] = texts(request.payload);
  if (permTexts.length === 0) return refuseStore('EINVAL');
  const unprivileged = !isPrivileged(request.connection);
  if (unprivileged && permTexts.length >= request.store.quotas.permsPerNode) return refuseStore('ENOSPC');
  const perms: StorePerm[] = [];
  for (const text of permTexts) {
    const row = permFromText(text);
    if (row === undefined) return refuseStore('EINVAL');
    perms.push(request.store.isKnownDomain(row.domId) ? row : { ...row, ignored: true });
  }
  const owner = perms[0] as StorePerm;
  if (owner.ignored) return refuseStore('ENOENT');
  const found = tree(request).find(request, name, 'own', true);
  if (!found.ok) return found;
  if (unprivileged && owner.domId !== found.node.perms[0]?.domId) return refuseStore('EPERM');
  const error = tree(request).setPerms(request, found.path, found.node, perms);
  return error === undefined ? changed(request, found.path, found.node.perms) : refuseStore(error);
}

function watch(request: Request): StoreAnswer {
  const { connection, store } = request;
  const [name, token, depthText] = texts(request.payload);
  const count = texts(request.payload).length;
  if (name === undefined || token === undefined || count > 3) return refuseStore('EINVAL');
  if (depthText !== undefined && /^\s*-/.test(depthText)) return refuseStore('EINVAL');
  const path = store.tree.canonical(connection, name, true);
  if (path === undefined) return refuseStore('EINVAL');
  if (connection.watches.some((row) => row.path === path && row.token === token)) return refuseStore('EEXIST');
  if (!isPrivileged(connection) && connection.watches.length >= store.quotas.watches) return refuseStore('ENOSPC');
  const prefixLength = name.startsWith('/') || name.startsWith('@') ? 0 : path.length - name.length;
  connection.watches.push({ path, token, prefixLength, depth: depthText === undefined ? -1 : leadingNumber(depthText) });
  // A watch fires once when it is set: its owner needs no first read of its own.
  request.after = () => store.sendEvent(connection, path.slice(prefixLength), token);
  return OK;
}

function unwatch(request: Request): StoreAnswer {
  const { connection } = request;
  const [name, token, more] = texts(request.payload);
  if (name === undefined || token === undefined || more !== undefined) return refuseStore('EINVAL');
  const path = tree(request).canonical(connection, name, true);
  if (path === undefined) return refuseStore('EINVAL');
  const at = connection.watches.findIndex((row) => row.path === path && row.token === token);
  if (at < 0) return refuseStore('ENOENT');
  connection.watches.splice(at, 1);
  return OK;
}

function transactionStart(request: Request): StoreAnswer {
  const { connection } = request;
  if (request.transaction !== undefined) return refuseStore('EBUSY');
  if (!isPrivileged(connection) && connection.transactions.length >= request.store.quotas.transactions) return refuseStore('ENOSPC');
  let id = connection.nextTransactionId;
  while (id === 0 || connection.transactions.some((row) => row.id === id)) id = (id + 1) >>> 0;
  connection.nextTransactionId = (id + 1) >>> 0;
  request.store.tree.nextGeneration();
  connection.transactions.push({ id, touched: [], ownedDelta: {}, created: false, failed: false });
  return answer(`${id}\0`);
}

function transactionEnd(request: Request): StoreAnswer {
  const { connection, transaction } = request;
  const verdict = oneText(request.payload);
  if (verdict !== 'T' && verdict !== 'F') return refuseStore('EINVAL');
  if (transaction === undefined) return refuseStore('ENOENT');
  connection.transactions = connection.transactions.filter((row) => row !== transaction);
  const error = verdict === 'T' ? tree(request).commit(connection, transaction) : undefined;
  return error === undefined ? OK : refuseStore(error);
}

function getDomainPath(request: Request): StoreAnswer {
  const domId = domIdOf(oneText(request.payload));
  return domId === undefined ? refuseStore('EINVAL') : answer(`/local/domain/${domId}\0`);
}

function introduce(request: Request): StoreAnswer {
  const [domText, , portText] = texts(request.payload);
  const domId = domIdOf(domText);
  if (domId === undefined || portText === undefined || leadingNumber(portText) <= 0) return refuseStore('EINVAL');
  request.store.introduce(domId);
  return OK;
}

function onConnected(request: Request, act: (connection: StoreConnection) => void): StoreAnswer {
  const domId = domIdOf(oneText(request.payload));
  if (domId === undefined || domId === 0) return refuseStore('EINVAL');
  const connection = request.store.connection(domId);
  if (connection === undefined) return refuseStore('ENOENT');
  act(connection);
  return OK;
}

function setTarget(request: Request): StoreAnswer {
  const [domText, targetText] = texts(request.payload);
  const domId = domIdOf(domText);
  const targetDomId = domIdOf(targetText);
  if (domId === undefined || targetDomId === undefined || targetText === undefined) return refuseStore('EINVAL');
  const connection = request.store.connection(domId);
  if (connection === undefined || request.store.connection(targetDomId) === undefined) return refuseStore('ENOENT');
  connection.targetDomId = targetDomId;
  return OK;
}

const OPERATIONS: Readonly<Record<number, OperationRow>> = {
  // The daemon's own debugging: nothing to control here.
  [XS.CONTROL]: { privileged: true, run: () => refuseStore('EINVAL') },
  [XS.DIRECTORY]: { run: directory },
  [XS.DIRECTORY_PART]: { run: directoryPart },
  [XS.READ]: { run: read },
  [XS.WRITE]: { run: write },
  [XS.MKDIR]: { run: mkdir },
  [XS.RM]: { run: remove },
  [XS.GET_PERMS]: { run: getPerms },
  [XS.SET_PERMS]: { run: setPerms },
  [XS.WATCH]: { noTransaction: true, run: watch },
  [XS.UNWATCH]: { noTransaction: true, run: unwatch },
  [XS.RESET_WATCHES]: {
    run: ({ connection }) => {
      connection.watches = [];
      connection.transactions = [];
      return OK;
    },
  },
  [XS.TRANSACTION_START]: { run: transactionStart },
  [XS.TRANSACTION_END]: { run: transactionEnd },
  [XS.GET_DOMAIN_PATH]: { run: getDomainPath },
  [XS.INTRODUCE]: { privileged: true, run: introduce },
  [XS.RELEASE]: { privileged: true, run: (request) => onConnected(request, (connection) => request.store.release(connection.domId)) },
  [XS.RESUME]: { privileged: true, run: (request) => onConnected(request, () => {}) },
  [XS.SET_TARGET]: { privileged: true, run: setTarget },
  [XS.IS_DOMAIN_INTRODUCED]: {
    privileged: true,
    run: (request) => {
      const domId = domIdOf(oneText(request.payload));
      if (domId === undefined) return refuseStore('EINVAL');
      return answer(domId === 0x7ff0 || request.store.connection(domId) !== undefined ? 'T\0' : 'F\0');
    },
  },
  [XS.GET_FEATURE]: { run: ({ payload, connection }) => (texts(payload).length > 0 && !isPrivileged(connection) ? refuseStore('EACCES') : answer(`${SUPPORTED_FEATURES}\0`)) },
};

// ---- watches -------------------------------------------------------------------------------------

/** Messages that may wait for a domain that does not read. */
const MOST_WAITING = 8192;

/** Queues an event; one that waits already is not repeated, except for the special names. */
function queueEvent(connection: StoreConnection, path: string, token: string): void {
  const payload = `${path}\0${token}\0`;
  if (payload.length > XS_PAYLOAD_MAX) return;
  // The reference drops events of a domain whose memory quota is used up by those it does not take.
  if (!isPrivileged(connection) && connection.out.length >= MOST_WAITING) return;
  const waits = !path.startsWith('@') && connection.out.some((row) => row.type === XS.WATCH_EVENT && row.payload === payload);
  if (!waits) connection.out.push({ type: XS.WATCH_EVENT, reqId: 0, txId: 0, payload });
}

/** Is `path` the watched one or below it, at most `depth` levels? is_child(). */
function isBelow(path: string, watched: string, depth: number): boolean {
  if (path !== watched && !(watched === '/' ? path.startsWith('/') : path.startsWith(`${watched}/`))) return false;
  if (depth < 0 || path === watched) return true;
  const rest = path.slice(watched === '/' ? 1 : watched.length + 1);
  return rest.split('/').length <= depth;
}

// ---- the daemon ----------------------------------------------------------------------------------

/** Requests that a fault may refuse, and those of them that need room. */
const REFUSABLE: ReadonlySet<number> = new Set([XS.READ, XS.WRITE, XS.MKDIR, XS.RM, XS.DIRECTORY]);
const WRITING: ReadonlySet<number> = new Set([XS.WRITE, XS.MKDIR]);

export class Xenstored {
  readonly tree: StoreTree;
  readonly quotas: StoreQuotas;
  /** Wiring: takes the events of dom0's own watches as they happen; without it they wait for takeDom0Events(). */
  onDom0Event: ((path: string, token: string) => void) | undefined;
  /** Whether a fault happens to a guest's request. */
  fault: ((name: FaultName, domId: number) => number) | undefined;
  #woken = new Set<number>();
  /** Ascending by domain: the order in which watches fire. */
  #connections: StoreConnection[] = [];

  constructor(quotas: StoreQuotas = DEFAULT_QUOTAS) {
    this.quotas = quotas;
    this.tree = new StoreTree(quotas);
    this.tree.onChange = (path, node, match, oldPerms) => this.#fire(path, node, match, oldPerms);
    this.introduce(0);
  }

  connection(domId: number): StoreConnection | undefined {
    return this.#connections.find((row) => row.domId === domId);
  }

  isKnownDomain(domId: number): boolean {
    return domId === DOMID_ANY || this.connection(domId) !== undefined;
  }

  /** A domain may talk from now on. Again for one that does: its watches and transactions are forgotten. */
  introduce(domId: number): StoreConnection {
    const old = this.connection(domId);
    if (old !== undefined) {
      Object.assign(old, { watches: [], transactions: [], out: [] });
      return old;
    }
    const connection: StoreConnection = { domId, watches: [], transactions: [], nextTransactionId: 1, targetDomId: undefined, out: [] };
    this.#connections.push(connection);
    this.#connections.sort((a, b) => a.domId - b.domId);
    if (domId !== 0) this.#fireSpecial('@introduceDomain', domId);
    return connection;
  }

  /** The domain is gone: its connection, its nodes, its rights. */
  release(domId: number): void {
    if (this.connection(domId) === undefined) return;
    this.#connections = this.#connections.filter((row) => row.domId !== domId);
    this.tree.forgetDomain(domId);
    this.#fireSpecial('@releaseDomain', domId);
  }

  /** The domain shut down but is there still. */
  domainShutdown(domId: number): void {
    if (this.connection(domId) !== undefined) this.#fireSpecial('@releaseDomain', domId);
  }

  /** Carries out one request; the reply and all events are in the connections' queues afterwards. */
  handle(connection: StoreConnection, message: StoreMessage): void {
    const row = OPERATIONS[message.type];
    const reply = (result: StoreAnswer): void => {
      const fits = !result.ok || result.payload.length <= XS_PAYLOAD_MAX;
      if (result.ok && fits) connection.out.push({ ...message, payload: result.payload });
      else connection.out.push({ ...message, type: XS.ERROR, payload: `${result.ok ? 'E2BIG' : result.error}\0` });
    };
    if (row === undefined) return reply(refuseStore('ENOSYS'));
    if (row.privileged === true && !isPrivileged(connection)) return reply(refuseStore('EACCES'));
    let transaction: StoreTransaction | undefined;
    if (row.noTransaction !== true && message.txId !== 0) {
      transaction = connection.transactions.find((open) => open.id === message.txId);
      if (transaction === undefined) return reply(refuseStore('ENOENT'));
    }
    const request: Request = { store: this, connection, transaction, payload: message.payload, after: undefined };
    const fault = this.#faultOf(connection, message);
    if (fault === 'EAGAIN') transactionEnd({ ...request, payload: 'F\0' });
    if (fault !== undefined) return reply(refuseStore(fault));
    reply(row.run(request));
    request.after?.();
  }

  /** The error that a fault makes of a guest's request. */
  #faultOf(connection: StoreConnection, { type, payload }: StoreMessage): 'EAGAIN' | 'EACCES' | 'ENOSPC' | undefined {
    const { fault } = this;
    if (fault === undefined || isPrivileged(connection)) return undefined;
    if (type === XS.TRANSACTION_END) return payload.startsWith('T') && fault('xenstore.again', connection.domId) > 0 ? 'EAGAIN' : undefined;
    if (!REFUSABLE.has(type)) return undefined;
    if (fault('xenstore.access', connection.domId) > 0) return 'EACCES';
    return WRITING.has(type) && fault('xenstore.space', connection.domId) > 0 ? 'ENOSPC' : undefined;
  }

  // ---- for the toolstack and back ends of dom0 ---------------------------------------------------

  /** Writes as dom0, with permissions if the node needs others than its parent's. Throws nothing: dom0 may everything. */
  writeAsDom0(path: string, value: string, perms?: readonly StorePerm[]): void {
    this.#asDom0(XS.WRITE, `${path}\0${value}`);
    if (perms !== undefined) this.#asDom0(XS.SET_PERMS, `${path}\0${perms.map(permText).join('')}`);
  }
  mkdirAsDom0(path: string, perms?: readonly StorePerm[]): void {
    this.#asDom0(XS.MKDIR, `${path}\0`);
    if (perms !== undefined) this.#asDom0(XS.SET_PERMS, `${path}\0${perms.map(permText).join('')}`);
  }
  removeAsDom0(path: string): void {
    this.#asDom0(XS.RM, `${path}\0`);
  }
  readAsDom0(path: string): string | undefined {
    return this.tree.peek(path)?.value;
  }
  #asDom0(type: number, payload: string): void {
    const dom0 = this.connection(0) as StoreConnection;
    const before = dom0.out.length;
    this.handle(dom0, { type, reqId: 0, txId: 0, payload });
    dom0.out.splice(before, 1);
  }
  /** Takes what waits for dom0 itself: events of its own watches. */
  takeDom0Events(): { readonly path: string; readonly token: string }[] {
    const dom0 = this.connection(0) as StoreConnection;
    return dom0.out.splice(0).filter((row) => row.type === XS.WATCH_EVENT).map((row) => {
      const [path, token] = texts(row.payload);
      return { path: path as string, token: token as string };
    });
  }
  /** A watch of dom0's own (back ends). */
  watchAsDom0(path: string, token: string): void {
    this.#asDom0(XS.WATCH, `${path}\0${token}\0`);
  }

  unwatchAsDom0(path: string, token: string): void {
    this.#asDom0(XS.UNWATCH, `${path}\0${token}\0`);
  }
  /** Names of the node's children in the order of their creation; undefined: no such node. */
  listAsDom0(path: string): readonly string[] | undefined {
    return this.tree.peek(path)?.children;
  }
  /** Domains (not dom0) for which events were queued since the last call, ascending: their rings have something to give. */
  takeWoken(): number[] {
    const woken = [...this.#woken].sort((a, b) => a - b);
    this.#woken.clear();
    return woken;
  }

  // ---- firing ------------------------------------------------------------------------------------

  sendEvent(connection: StoreConnection, path: string, token: string): void {
    if (connection.domId === 0 && this.onDom0Event !== undefined) return this.onDom0Event(path, token);
    queueEvent(connection, path, token);
    if (connection.domId !== 0) this.#woken.add(connection.domId);
  }

  /** watch_permitted(): the node, its old permissions or its parent must be readable. */
  #maySee(connection: StoreConnection, path: string, node: StoreNode | undefined, oldPerms: readonly StorePerm[] | undefined): boolean {
    const readable = (perms: readonly StorePerm[]): boolean => this.tree.rights(connection, perms).read;
    if (oldPerms !== undefined && readable(oldPerms)) return true;
    const seen = node ?? this.tree.peek(path);
    if (seen === undefined) return false;
    if (readable(seen.perms)) return true;
    const parent = this.tree.peek(parentPath(path));
    return parent !== undefined && readable(parent.perms);
  }

  #fire(path: string, node: StoreNode | undefined, match: 'exact' | 'subtree', oldPerms: readonly StorePerm[] | undefined): void {
    for (const connection of this.#connections) {
      if (!this.#maySee(connection, path, node, oldPerms)) continue;
      for (const row of connection.watches) {
        if (match === 'exact' ? path === row.path : isBelow(path, row.path, row.depth)) this.sendEvent(connection, path.slice(row.prefixLength), row.token);
      }
    }
  }

  /** @introduceDomain and @releaseDomain: watches of the name itself, and with a depth of the name with the domain. */
  #fireSpecial(name: string, domId: number): void {
    const node = this.tree.peek(name);
    if (node === undefined) return;
    const named = `${name}/${domId}`;
    for (const connection of this.#connections) {
      if (!this.tree.rights(connection, node.perms).read) continue;
      for (const row of connection.watches) {
        if (row.path === name && row.depth < 0) this.sendEvent(connection, name, row.token);
        else if (row.path === named || (row.depth > 0 && isBelow(named, row.path, row.depth))) this.sendEvent(connection, named, row.token);
      }
    }
  }

  /** JSON-serialisable. */
  save(): unknown {
    return { tree: this.tree.save(), connections: structuredCopy(this.#connections) };
  }
  restore(state: unknown): void {
    const saved = state as { tree: unknown; connections: StoreConnection[] };
    this.tree.restore(saved.tree);
    this.#connections = structuredCopy(saved.connections);
  }
}

/** A deep copy of plain data. `undefined` members are left out, which reads the same. */
const structuredCopy = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
