// What xenstored knows, as plain data. Texts hold one byte a character (values are binary).
import type { XsError } from '../abi/xenstore.ts';

export interface StorePerm {
  readonly domId: number;
  readonly read: boolean;
  readonly write: boolean;
  /** The domain does not exist (any more): counts for nobody. */
  readonly ignored: boolean;
}

export interface StoreNode {
  readonly value: string;
  /** The first names the owner, and its rights are everybody else's. */
  readonly perms: readonly StorePerm[];
  /** In the order of creation. */
  readonly children: readonly string[];
  /** Raised with every change of the store; what a transaction compares. */
  readonly generation: number;
}

/** Generation of a node that does not exist. */
export const NO_GENERATION = -1;

/** A node that a transaction has touched, as the transaction sees it. */
export interface TouchedNode {
  readonly path: string;
  /** undefined: it does not exist in this transaction. */
  node: StoreNode | undefined;
  /** Generation when it was first read. */
  readonly generation: number;
  /** It was read before it was changed: a change by others is a conflict. */
  readonly checkGeneration: boolean;
  modified: boolean;
  readonly oldPerms: readonly StorePerm[] | undefined;
  fire: 'exact' | 'subtree' | undefined;
}

export interface StoreTransaction {
  readonly id: number;
  /** In the order of first touch. */
  touched: TouchedNode[];
  /** Changes of the number of nodes by owner, applied at the end. */
  ownedDelta: Record<number, number>;
  created: boolean;
  failed: boolean;
}

export interface StoreWatch {
  readonly path: string;
  readonly token: string;
  /** Characters of the path that a relative watch does not get back. */
  readonly prefixLength: number;
  /** -1: no limit. */
  readonly depth: number;
}

export interface StoreMessage {
  readonly type: number;
  readonly reqId: number;
  readonly txId: number;
  readonly payload: string;
}

/** One domain's connection. */
export interface StoreConnection {
  readonly domId: number;
  watches: StoreWatch[];
  transactions: StoreTransaction[];
  nextTransactionId: number;
  /** SET_TARGET: it may act for this domain too. */
  targetDomId: number | undefined;
  /** Replies and events on their way out, oldest first. */
  out: StoreMessage[];
}

/** Answer of an operation's handler. */
export type StoreAnswer = { readonly ok: true; readonly payload: string } | { readonly ok: false; readonly error: XsError };
export const answer = (payload: string): StoreAnswer => ({ ok: true, payload });
export const refuseStore = (error: XsError): { readonly ok: false; readonly error: XsError } => ({ ok: false, error });
/** What most operations that only change something say. */
export const OK: StoreAnswer = answer('OK\0');

/** Limits of an unprivileged domain; the defaults of the reference daemon. */
export interface StoreQuotas {
  readonly nodes: number;
  readonly watches: number;
  readonly transactions: number;
  readonly transactionNodes: number;
  readonly permsPerNode: number;
  readonly pathLength: number;
  readonly nodeBytes: number;
  /** Unsent replies after which no request is taken. */
  readonly outstanding: number;
}
export const DEFAULT_QUOTAS: StoreQuotas = { nodes: 1000, watches: 128, transactions: 10, transactionNodes: 1024, permsPerNode: 5, pathLength: 2048, nodeBytes: 2048, outstanding: 20 };
