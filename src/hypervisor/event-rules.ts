// The rules of event channels that were once forgotten, one row each: a test replaces a row in its
// own hypervisor (hv.eventRules) and must see a checker notice. Xen has them all.

export interface EventRules {
  /** A port taken for a binding that then fails is free again. XSA-317. */
  readonly failedBindFreesPort: boolean;
  /** Closing one end makes the other end unbound. */
  readonly closeUnbindsPeer: boolean;
  /** Only the domain that the port waits for may bind it. */
  readonly bindNeedsPermission: boolean;
  /** A port that is closed is not pending for its next user. */
  readonly freeClearsPending: boolean;
  /** A vCPU's control block is set once. XSA-107. */
  readonly controlBlockOnce: boolean;
  /** Pages that Xen writes events into are held and typed writable. */
  readonly arrayPagesHeld: boolean;
}

export const EVENT_RULES: EventRules = {
  failedBindFreesPort: true, closeUnbindsPeer: true, bindNeedsPermission: true, freeClearsPending: true, controlBlockOnce: true, arrayPagesHeld: true,
};
