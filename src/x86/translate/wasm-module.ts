// Wraps function bodies into a WebAssembly module in the one shape that this room uses: the world's memory
// and the dispatch table are imported, some helper functions too; an active element segment puts the
// functions into their table slots at instantiation, so nothing needs to be exported (exports are
// wrapped one by one and cost more than the code).
import { CodeBuffer, OP, TYPE } from './code-buffer.ts';

/** A function type by value types. */
export interface Signature {
  readonly params: readonly number[];
  readonly results: readonly number[];
}

export interface ModuleFunction {
  /** Index into the module's signatures. */
  readonly signature: number;
  /** Locals declaration and instructions, without the final `end` left out: the whole body but its size. */
  readonly body: Uint8Array;
  /** Slot of the dispatch table that receives the function. */
  readonly slot?: number;
  readonly exportName?: string;
}

export interface ModuleParts {
  readonly signatures: readonly Signature[];
  /** Imported functions from module "h"; they take the first function indices. */
  readonly imports: readonly { readonly name: string; readonly signature: number }[];
  readonly memoryPages: number;
  /** Import the dispatch table. Only the dispatcher may: V8 gives every importing instance its own copy. */
  readonly table: boolean;
  readonly functions: readonly ModuleFunction[];
}

const SECTION = { type: 1, import: 2, function: 3, export: 7, element: 9, code: 10 } as const;

/** The module's bytes. Imports: "e"."m" the memory, "e"."t" the table, "h".* the helpers. */
export function moduleBytes(parts: ModuleParts): Uint8Array {
  const out = new CodeBuffer(1024 + parts.functions.reduce((sum, f) => sum + f.body.length + 24, 0));
  const scratch = new CodeBuffer(256);
  const section = (id: number, write: (to: CodeBuffer) => void): void => {
    scratch.reset();
    write(scratch);
    out.byte(id);
    out.u32(scratch.length);
    out.append(scratch.written());
  };
  for (const byte of [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]) out.byte(byte);
  section(SECTION.type, (to) => {
    to.u32(parts.signatures.length);
    for (const { params, results } of parts.signatures) {
      to.byte(0x60);
      to.u32(params.length);
      for (const type of params) to.byte(type);
      to.u32(results.length);
      for (const type of results) to.byte(type);
    }
  });
  section(SECTION.import, (to) => {
    to.u32((parts.table ? 2 : 1) + parts.imports.length);
    to.name('e');
    to.name('m');
    to.byte(2);
    to.byte(1); // with a maximum
    to.u32(parts.memoryPages);
    to.u32(parts.memoryPages);
    if (parts.table) {
      to.name('e');
      to.name('t');
      to.byte(1);
      to.byte(TYPE.funcref);
      to.byte(0);
      to.u32(1);
    }
    for (const { name, signature } of parts.imports) {
      to.name('h');
      to.name(name);
      to.byte(0);
      to.u32(signature);
    }
  });
  section(SECTION.function, (to) => {
    to.u32(parts.functions.length);
    for (const f of parts.functions) to.u32(f.signature);
  });
  const exported = parts.functions.filter((f) => f.exportName !== undefined);
  if (exported.length > 0) {
    section(SECTION.export, (to) => {
      to.u32(exported.length);
      for (const f of exported) {
        to.name(f.exportName as string);
        to.byte(0);
        to.u32(parts.imports.length + parts.functions.indexOf(f));
      }
    });
  }
  const placed = parts.functions.map((f, i) => ({ f, index: parts.imports.length + i })).filter(({ f }) => f.slot !== undefined);
  if (placed.length > 0) {
    section(SECTION.element, (to) => {
      to.u32(placed.length);
      for (const { f, index } of placed) {
        to.u32(0);
        to.const32(f.slot as number);
        to.byte(OP.end);
        to.u32(1);
        to.u32(index);
      }
    });
  }
  out.byte(SECTION.code);
  let sizeBytes = lebBytes(parts.functions.length);
  for (const f of parts.functions) sizeBytes += lebBytes(f.body.length) + f.body.length;
  out.u32(sizeBytes);
  out.u32(parts.functions.length);
  for (const f of parts.functions) {
    out.u32(f.body.length);
    out.append(f.body);
  }
  return out.written().slice();
}

function lebBytes(value: number): number {
  let size = 1;
  for (let rest = value >>> 7; rest !== 0; rest >>>= 7) size++;
  return size;
}
