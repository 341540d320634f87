// The drivers' properties hold, and would be missed: a frame that is handed on twice, a write that is
// acknowledged too early and a guest that waits for ever are found and made small.
import { describe, expect, test } from 'vitest';
import { Disk } from '../../src/guest/drivers/blkfront.ts';
import { NetStack } from '../../src/guest/drivers/net-stack.ts';
import { MachinePort, over } from '../../src/guest/operations.ts';
import { XenState } from '../../src/guest/xen/state.ts';
import { assertDriverProperty, checkDriverProperty, driverProblems, driverPropertyByName, playDrivers, type DriverProgram, type DriverProperty } from '../../src/testing/index.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const PLAIN: DriverProgram = { paging: 'pae', seed: 1, disk: [{ do: 'write', page: 0, pages: 20, value: 7 }], net: [{ do: 'ping', to: '10.77.0.1', times: 2 }], faults: [], commands: [] };
const named = (name: string): DriverProperty => driverPropertyByName(name) as DriverProperty;

/** With a mistake in the guest's code. */
function mistaken<T extends object, K extends keyof T>(owner: T, method: K, wrong: (right: T[K]) => T[K], work: () => void): void {
  const right = owner[method];
  owner[method] = wrong(right);
  try {
    work();
  } finally {
    owner[method] = right;
  }
}

describe('under random faults and commands', () => {
  test('no acknowledged write is lost or torn, no frame comes twice, the guest recovers or says why it stops', { timeout: 7_200_000 }, () => {
    assertDriverProperty('drivers', { runs: LONG ? 10_000 : 12, seed: 2 });
  });

  // Found by it, once.
  const FOUND: readonly (readonly [string, DriverProgram])[] = [
    ['a driver that was about to tell where its ring is when the domain was suspended tells nothing of its former life', {
      ...PLAIN, seed: 1142, disk: [{ do: 'flush' }, { do: 'write', page: 32, pages: 16, value: 50, barrier: true }], net: [],
      faults: [{ fault: 'net.corrupt', oneIn: 30, most: 3 }, { fault: 'upcall.merge', oneIn: 30, most: 3 }, { fault: 'net.lose', oneIn: 10, most: 3 }, { fault: 'grant.map', oneIn: 30, most: 3 }],
      commands: [{ delayNs: 124_633, command: { do: 'save-restore' } }, { delayNs: 17, command: { do: 'save-restore' } }, { delayNs: 2_336_240, command: { do: 'save-restore' } }],
    }],
    ['a frontend that is told that the guest stops while it asks the store whether its device is still there stops', {
      ...PLAIN, seed: 47610, disk: [{ do: 'write', page: 0, pages: 2, value: 1 }], net: [],
      faults: [{ fault: 'xenstore.access', oneIn: 30, most: 1000 }], commands: [{ delayNs: 1, command: { do: 'detach', device: 'vif0' } }],
    }],
    ['a back end that closes, because it cannot map the ring that it took over, and never answers what is in it is left after a while', {
      ...PLAIN, seed: 0, disk: [{ do: 'write', page: 0, pages: 1, value: 1 }], net: [],
      faults: [{ fault: 'grant.map', oneIn: 10, most: 1 }, { fault: 'backend.rebind', oneIn: 1, most: 3 }],
    }],
  ];
  test.each(FOUND)('%s', (_what, program) => {
    expect(driverProblems(program)).toEqual([]);
  });
});

describe('xenstore says no', () => {
  test.each(['xenstore.access', 'xenstore.space'] as const)('%s: for a while, and the guest asks again; for good, and it says so', (fault) => {
    const passing = playDrivers({ ...PLAIN, faults: [{ fault, oneIn: 3 }] });
    expect(passing.console).toMatch(/xvda: all steps done[^]*every grant and port is back/);
    expect(passing.console).toMatch(/10\.77\.0\.1 answered 2 pings/);
    expect(playDrivers({ ...PLAIN, faults: [{ fault, oneIn: 1 }] }).console).toMatch(fault === 'xenstore.access' ? /xenstore refuses READ control\/shutdown: EACCES[^]*xvda: the disk does not appear[^]*every grant and port is back/ : /xvda: xenstore refused its entries: ENOSPC[^]*xvda: no connection in 50 attempts; the driver gives up[^]*every grant and port is back/);
  });
});

describe('mistakes', () => {
  test('a frame that is handed on twice', () => {
    mistaken(NetStack.prototype, 'frame', (right) => function (this: NetStack, frame) { right.call(this, frame); right.call(this, frame); }, () => {
      const { failure } = checkDriverProperty(named('driver-frames'), { runs: 30 });
      expect(failure?.problems[0]).toMatch(/reached the network more often than it was delivered/);
      expect(failure?.program).toMatchObject({ disk: [], faults: [], commands: [] });
    });
  });

  test('a write that is acknowledged when it is asked for', () => {
    mistaken(Disk.prototype, 'start', (right) => function (this: Disk, ...args) { return Object.assign(right.apply(this, args), { left: 0 }); }, () => {
      const { failure } = checkDriverProperty(named('driver-writes'), { runs: 30 });
      expect(failure?.problems[0]).toMatch(/holds none of what was last written to it|is not what was written/);
      expect(failure?.program).toMatchObject({ net: [], commands: [] });
      expect(failure?.program.disk).toHaveLength(1);
    });
  });

  test('a guest that believes in a port’s closing that it never asked for', () => {
    mistaken(XenState.prototype, 'withStruct', (right) => function (this: XenState, what, ...rest) { return what === 'to close a port' ? over(0) : right.call(this, what, ...rest); }, () => {
      const { failure } = checkDriverProperty(named('driver-recovery'), { runs: 30 });
      expect(failure?.problems).toEqual([expect.stringMatching(/^recovery: \d+ ports are in use at the end, not 3$/)]);
      expect(failure?.program).toMatchObject({ disk: [], net: [], faults: [], commands: [] });
    });
  });

  test('a guest that counts a grant as ended, and leaves its entry in the table', () => {
    mistaken(MachinePort.prototype, 'compareExchange32', (right) => function (this: MachinePort, vaddr, expected) { return right.call(this, vaddr, expected, expected); }, () => {
      const { failure } = checkDriverProperty(named('driver-recovery'), { runs: 30 });
      expect(failure?.problems).toEqual([expect.stringMatching(/^recovery: \d+ entries of its grant table still grant something at the end$/)]);
    });
  });

  test('a guest that waits for ever: where events get lost, which Xen never does', () => {
    expect(driverProblems({ ...PLAIN, faults: [{ fault: 'upcall.drop', oneIn: 3 }] })[0]).toMatch(/recovery: the run ended with stuck/);
  });
});
