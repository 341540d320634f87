// The engine's revision: raised whenever the same scenario and seed may yield other events than
// before. A recording made by another revision is replayed with a warning and verified all the
// same; it is never refused, or builds could not be compared.

export const ENGINE_REVISION = 1;
