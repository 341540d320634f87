// The states by which the two ends of a device meet, as they stand in xenstore.
// Source: xen/include/public/io/xenbus.h.

export const XENBUS_STATE = {
  unknown: 0, initialising: 1, initWait: 2, initialised: 3, connected: 4, closing: 5, closed: 6, reconfiguring: 7, reconfigured: 8,
} as const;
export type XenbusState = (typeof XENBUS_STATE)[keyof typeof XENBUS_STATE];

/** What a `state` node says; a node that is not there, or says something else, is unknown. */
export function xenbusState(text: string | undefined): XenbusState {
  return text !== undefined && /^[0-8]$/.test(text) ? (Number(text) as XenbusState) : XENBUS_STATE.unknown;
}
