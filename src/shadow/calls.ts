// Hypercalls of the shadow host, as rows: what each does to the shadows. All three interfaces say in
// their own way that an entry has changed; none of them changes what the host would do by itself.
import { EVENT } from '../abi/events.ts';
import { QUEUE_CALLS, QUEUE_WORDS, SHADOW_CALL, SHADOW_EINVAL } from '../abi/shadow-calls.ts';
import type { ShadowHost } from './host.ts';

const REG = { eax: 0, ecx: 1, edx: 2, ebx: 3, esi: 6 } as const;
type Row = (host: ShadowHost, a: number, b: number, c: number) => number;

const flush: Row = (host) => {
  host.flush();
  return 0;
};
const load: Row = (host, root) => {
  host.load(root);
  return 0;
};
const forget: Row = (host, gfn) => {
  host.pager.forget(gfn);
  host.pager.flush();
  return 0;
};
/** An entry of a table, by its guest-physical address. */
const changed: Row = (host, gpa) => {
  const { entryBytes } = host.pager.options.shape;
  if (gpa % entryBytes !== 0 || host.pager.maddrOf(gpa) === undefined) return SHADOW_EINVAL;
  host.pager.changed(gpa, entryBytes);
  return 0;
};
const store: Row = (host, gpa, lo, hi) => {
  const { entryBytes } = host.pager.options.shape;
  const maddr = gpa % entryBytes === 0 ? host.pager.maddrOf(gpa) : undefined;
  if (maddr === undefined) return SHADOW_EINVAL;
  if (entryBytes === 8) host.cpu.machine.writeU32(maddr + 4, hi);
  host.cpu.machine.writeU32(maddr, lo);
  host.pager.changed(gpa, entryBytes);
  return 0;
};

const ROWS: Readonly<Record<number, Row>> = {
  [SHADOW_CALL.newPageTable]: load,
  [SHADOW_CALL.setPte]: (host, root, vaddr) => {
    host.pager.changedPage(root, vaddr);
    return 0;
  },
  [SHADOW_CALL.setPmd]: (host, table, index) => changed(host, table + index * host.pager.options.shape.entryBytes, 0, 0),
  [SHADOW_CALL.flushTlb]: (host, all) => {
    host.pager.drop(all !== 0);
    return flush(host, 0, 0, 0);
  },
  [SHADOW_CALL.allocatePage]: forget,
  [SHADOW_CALL.releasePage]: forget,
  [SHADOW_CALL.setPxE]: store,
  [SHADOW_CALL.updatePxE]: changed,
  [SHADOW_CALL.flushTlbVmi]: flush,
  [SHADOW_CALL.invalPage]: (host, vaddr) => {
    host.invalidate(vaddr);
    return 0;
  },
  [SHADOW_CALL.setPageTableBase]: load,
  [SHADOW_CALL.writePte]: store,
  [SHADOW_CALL.flushTlbKvm]: flush,
  [SHADOW_CALL.releaseTable]: (host, gpa) => forget(host, Math.floor(gpa / 4096), 0, 0),
};

/** The guest has asked: number and arguments are in its registers, the answer goes there. */
export function shadowCall(host: ShadowHost): void {
  const { cpu } = host;
  const nr = cpu.reg(REG.eax);
  const [a, b, c] = [cpu.reg(REG.ebx), cpu.reg(REG.ecx), cpu.reg(REG.edx)];
  host.counts.hypercalls++;
  const answer = nr === SHADOW_CALL.sendQueue ? sendQueue(host, a, b) : (ROWS[nr]?.(host, a, b, c) ?? SHADOW_EINVAL);
  cpu.setReg(REG.eax, answer);
  host.world.emit(EVENT.shadowCall, [nr, answer, 0, a, b, c]);
}

function sendQueue(host: ShadowHost, gpa: number, count: number): number {
  const maddr = gpa % 4096 === 0 ? host.pager.maddrOf(gpa) : undefined;
  if (maddr === undefined || count > QUEUE_CALLS) return SHADOW_EINVAL;
  const { machine } = host.cpu;
  let worst = 0;
  host.carryOutAll(() => {
    for (let i = 0; i < count && !host.ended; i++) {
      const at = maddr + i * QUEUE_WORDS * 4;
      const [nr, a, b, c] = [0, 4, 8, 12].map((offset) => machine.readU32(at + offset)) as [number, number, number, number];
      host.counts.queued++;
      const answer = ROWS[nr]?.(host, a, b, c) ?? SHADOW_EINVAL;
      if (answer < worst) worst = answer;
      host.world.emit(EVENT.shadowCall, [nr, answer, 1, a, b, c]);
    }
  });
  return worst;
}
