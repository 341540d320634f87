// Turns a region's control-flow graph into nested WebAssembly control flow: forward edges leave blocks,
// back edges continue loops, and only loops that are entered in several places pay for a dispatch by label.
//
//    build(nodes): strongly connected components in topological order
//       one node, no self edge  -> straight code
//       component               -> loop; its heads are the nodes that are entered from outside;
//                                  inside, edges to the heads are `continue`, the rest is built again
//
// Idea: C. Tarjan's components, applied recursively as in Emscripten's relooper. No node is ever copied.

export type Shape =
  | { readonly kind: 'block'; readonly node: number }
  /** `heads` has one node (plain loop) or several (loop with a br_table over the label local). */
  | { readonly kind: 'loop'; readonly heads: readonly number[]; readonly body: readonly Shape[] };

export interface Graph {
  readonly successors: readonly (readonly number[])[];
  /** Nodes that the dispatcher can enter. */
  readonly entries: readonly number[];
}

/**
 * The graph as nested shapes. `dispatched`: one outer loop whose heads are the entries; it is continued only to
 * enter the region anew (computed targets), never for an edge of the graph.
 */
export function structure(graph: Graph, dispatched: boolean): readonly Shape[] {
  const count = graph.successors.length;
  const predecessors: number[][] = Array.from({ length: count }, () => []);
  for (let from = 0; from < count; from++) {
    for (const to of graph.successors[from] as readonly number[]) (predecessors[to] as number[]).push(from);
  }
  const all = Array.from({ length: count }, (_, node) => node);
  const isEntry = new Uint8Array(count);
  for (const entry of graph.entries) isEntry[entry] = 1;
  const scope = new Int32Array(count); // which nested build a node belongs to
  let scopes = 0;

  const build = (nodes: readonly number[], heads: ReadonlySet<number>): Shape[] => {
    const mine = ++scopes;
    for (const node of nodes) scope[node] = mine;
    const inside = (to: number): boolean => scope[to] === mine && !heads.has(to);
    const shapes: Shape[] = [];
    for (const component of components(nodes, graph.successors, inside)) {
      const first = component[0] as number;
      const selfEdge = inside(first) && (graph.successors[first] as readonly number[]).includes(first);
      if (component.length === 1 && !selfEdge) {
        shapes.push({ kind: 'block', node: first });
        continue;
      }
      const members = new Set(component);
      const loopHeads = component.filter((node) => isEntry[node] === 1 || (predecessors[node] as number[]).some((from) => !members.has(from)));
      if (loopHeads.length === 0) loopHeads.push(first); // dead code: nothing enters it
      const body = build(component, new Set(loopHeads));
      for (const node of component) scope[node] = mine;
      shapes.push({ kind: 'loop', heads: loopHeads, body });
    }
    return shapes;
  };

  if (!dispatched) return build(all, new Set());
  return [{ kind: 'loop', heads: graph.entries, body: build(all, new Set()) }];
}

/** Tarjan's strongly connected components, iterative; returned in topological order (sources first). */
function components(nodes: readonly number[], successors: readonly (readonly number[])[], inside: (node: number) => boolean): number[][] {
  const index = new Map<number, number>();
  const low = new Map<number, number>();
  const onStack = new Set<number>();
  const stack: number[] = [];
  const found: number[][] = [];
  let next = 0;
  const work: { node: number; edge: number }[] = [];
  for (const root of nodes) {
    if (index.has(root)) continue;
    work.push({ node: root, edge: 0 });
    index.set(root, next);
    low.set(root, next++);
    stack.push(root);
    onStack.add(root);
    while (work.length > 0) {
      const top = work[work.length - 1] as { node: number; edge: number };
      const edges = successors[top.node] as readonly number[];
      if (top.edge < edges.length) {
        const to = edges[top.edge++] as number;
        if (!inside(to)) continue;
        if (!index.has(to)) {
          index.set(to, next);
          low.set(to, next++);
          stack.push(to);
          onStack.add(to);
          work.push({ node: to, edge: 0 });
        } else if (onStack.has(to)) {
          low.set(top.node, Math.min(low.get(top.node) as number, index.get(to) as number));
        }
        continue;
      }
      work.pop();
      const parent = work[work.length - 1];
      if (parent !== undefined) low.set(parent.node, Math.min(low.get(parent.node) as number, low.get(top.node) as number));
      if (low.get(top.node) === index.get(top.node)) {
        const component: number[] = [];
        for (;;) {
          const node = stack.pop() as number;
          onStack.delete(node);
          component.push(node);
          if (node === top.node) break;
        }
        found.push(component.sort((a, b) => a - b));
      }
    }
  }
  return found.reverse();
}
