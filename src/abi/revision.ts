// The engine's revision: raised whenever the same scenario and seed may yield other events than
// before. A recording made by another revision is replayed with a warning and verified all the
// same; it is never refused, or builds could not be compared.

// 2: domain 0 exists for guests that name it; segments on Xen 3.x; a save-restore has time limits; argo_op; empty barriers.
export const ENGINE_REVISION = 2;
