// A guest's request is answered by a value, never by a throw: STYLE 15.

export type Result<T, E extends string = string> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly errno: E };
export const ok = <T>(value: T): { readonly ok: true; readonly value: T } => ({ ok: true, value });
export const refuse = <E extends string>(errno: E): { readonly ok: false; readonly errno: E } => ({ ok: false, errno });
