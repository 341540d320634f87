import { describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { XENBUS_STATE } from '../../src/abi/xenbus.ts';
import type { DeviceDriver } from '../../src/dom0/device-backend.ts';
import { backendPath, diskNumber, frontendPath, type DeviceConfig } from '../../src/dom0/device-spec.ts';
import { parseCommand } from '../../src/dom0/toolstack.ts';
import { DeviceHost, GUEST } from './device-host.ts';

const DISK: DeviceConfig = { deviceClass: 'vbd', deviceId: 51712, disk: { vdev: 'xvda', mode: 'w' }, imageName: 'disk.img' };
const NIC: DeviceConfig = { deviceClass: 'vif', deviceId: 0, vif: { mac: '00:16:3e:01:02:03', bridge: 'xenbr0', ip: '10.0.0.2' } };
const S = XENBUS_STATE;

/** Writes down what the framework asks of a driver. */
class NotingDriver implements DeviceDriver {
  readonly calls: string[] = [];
  problem: string | undefined;
  note = (what: string): void => void this.calls.push(what);
  probe(): void {
    this.note('probe');
  }
  connect(): string | undefined {
    this.note('connect');
    return this.problem;
  }
  announce(): void {
    this.note('announce');
  }
  disconnect(): void {
    this.note('disconnect');
  }
  run(): void {
    this.note('run');
  }
  save(): unknown {
    return this.calls.length;
  }
  restore(): void {}
}

function built(device: DeviceConfig = DISK): { host: DeviceHost; driver: NotingDriver } {
  const driver = new NotingDriver();
  const host = new DeviceHost([device], () => driver);
  host.toolstack.buildDevices(GUEST);
  host.settle();
  return { host, driver };
}

const states = (host: DeviceHost): number[] => host.emitted.filter((row) => row.kind === EVENT.deviceState).map((row) => row.values[2] as number);

describe('what the toolstack writes', () => {
  test('a disk has the entries and rights that libxl gives it', () => {
    const { host } = built();
    const front = frontendPath(GUEST, DISK);
    const back = backendPath(GUEST, DISK);
    expect(host.ask('DIRECTORY', 'device|')).toBe('DIRECTORY vbd|');
    expect(host.ask('DIRECTORY', 'device/vbd|')).toBe('DIRECTORY 51712|');
    expect(host.ask('DIRECTORY', `${front}|`)).toBe('DIRECTORY backend|backend-id|state|virtual-device|device-type|protocol|');
    expect(host.ask('DIRECTORY', `${back}|`)).toBe('DIRECTORY frontend|params|script|frontend-id|online|removable|bootable|state|dev|type|mode|device-type|discard-enable|physical-device|physical-device-path|hotplug-status|');
    expect(host.ask('GET_PERMS', `${front}|`)).toBe('GET_PERMS n1|r0|');
    expect(host.ask('GET_PERMS', `${front}/state|`)).toBe('GET_PERMS n1|r0|');
    expect(host.ask('GET_PERMS', `${back}/mode|`)).toBe('GET_PERMS n0|r1|');
    expect([host.readBack('frontend-id'), host.readBack('dev'), host.readBack('mode'), host.readBack('online'), host.readBack('hotplug-status')]).toEqual(['1', 'xvda', 'w', '1', 'connected']);
    expect(host.ask('READ', `${front}/backend|`)).toBe(`READ ${back}`);
    expect(host.ask('WRITE', `${back}/mode|w`)).toBe('ERROR EACCES|');
  });

  test('a network interface has its address on both sides, and an mtu that the guest may read only', () => {
    const { host } = built(NIC);
    const front = frontendPath(GUEST, NIC);
    expect(host.ask('READ', `${front}/mac|`)).toBe('READ 00:16:3e:01:02:03');
    expect([host.readBack('mac'), host.readBack('bridge'), host.readBack('handle'), host.readBack('ip'), host.readBack('type')]).toEqual(['00:16:3e:01:02:03', 'xenbr0', '0', '10.0.0.2', 'vif']);
    expect(host.ask('READ', `${front}/mtu|`)).toBe('READ 1500');
    expect(host.ask('WRITE', `${front}/mtu|9000`)).toBe('ERROR EACCES|');
  });

  test.each<[string, number | undefined]>([
    ['xvda', 51712], ['xvda1', 51713], ['xvdb', 51728], ['xvdp15', 51967], ['xvdq', 268439552], ['xvda16', 268435472], ['xvdaa', 268442112], ['sda', 2048], ['sdb3', 2067], ['hda', 768], ['hdc1', 5633], ['hdd', 5696],
    ['d0', 51712], ['d1p2', 51730], ['sdq', undefined], ['hde', undefined], ['xvd', undefined], ['vda', undefined], ['', undefined], ['xvdA', undefined],
  ])('the disk %s has the number %s', (vdev, number) => {
    expect(diskNumber(vdev)).toBe(number);
  });
});

describe('the dance', () => {
  test('initWait at birth, connected when the frontend is, closed when it closes, and again', () => {
    const { host, driver } = built();
    expect(host.readBack('state')).toBe(String(S.initWait));
    host.writeFront('state', S.initialised);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.connected));
    expect(driver.calls.slice(0, 3)).toEqual(['probe', 'connect', 'announce']);
    host.writeFront('state', S.connected);
    host.kick();
    host.settle();
    expect(driver.calls.at(-1)).toBe('run');
    host.writeFront('state', S.closing);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.closing));
    driver.calls.length = 0;
    host.kick();
    host.settle();
    expect(driver.calls, 'requests under way are carried out while the frontend closes').toEqual(['run']);
    host.writeFront('state', S.closed);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.closed));
    expect(driver.calls).toEqual(['run', 'disconnect']);
    host.kick();
    host.settle();
    expect(driver.calls).toEqual(['run', 'disconnect']);
    host.writeFront('state', S.initialising);
    host.settle();
    host.writeFront('state', S.initialised);
    host.settle();
    expect(states(host)).toEqual([S.initialising, S.initWait, S.connected, S.closing, S.closed, S.initWait, S.connected]);
  });

  test('a frontend that is faster than the hotplug script waits for it', () => {
    const driver = new NotingDriver();
    const host = new DeviceHost([DISK], () => driver);
    host.toolstack.command(GUEST, { do: 'attach', device: 'xvda' }, 1_000_000);
    host.writeFront('state', S.initialised);
    host.settle(500_000);
    expect([host.readBack('state'), host.readBack('hotplug-status'), driver.calls]).toEqual([String(S.initWait), undefined, ['probe', 'connect']]);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.connected));
    expect(driver.calls.filter((call) => call === 'connect')).toHaveLength(1);
  });

  test('what a frontend has wrong is said in error/, and a frontend that mends it may come again', () => {
    const { host, driver } = built();
    driver.problem = 'reading ring-ref';
    host.writeFront('state', S.initialised);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.closing));
    expect(host.store.readAsDom0('/local/domain/0/error/backend/vbd/1/51712/error')).toBe('-22 reading ring-ref');
    driver.problem = undefined;
    host.writeFront('state', S.closed);
    host.settle();
    host.writeFront('state', S.initialising);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.initWait));
    host.writeFront('state', S.connected);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.connected));
  });

  test.each(['7', '8', '2'])('a frontend that says %s has lost its way', (state) => {
    const { host } = built();
    host.writeFront('state', state);
    host.settle();
    expect(host.readBack('state')).toBe(String(S.closing));
  });

  test('a frontend that removes its directory, or writes no state, loses the device for good', () => {
    for (const op of ['RM', 'WRITE'] as const) {
      const { host, driver } = built();
      host.writeFront('state', S.connected);
      host.settle();
      host.ask(op, op === 'RM' ? `${frontendPath(GUEST, DISK)}|` : `${frontendPath(GUEST, DISK)}/state|banana`);
      host.settle();
      expect(host.backend?.gone).toBe(true);
      expect(driver.calls.at(-1)).toBe('disconnect');
      driver.calls.length = 0;
      host.kick();
      host.settle();
      expect(driver.calls).toEqual([]);
    }
  });

  test('state survives being saved, in the middle of a connection', () => {
    const { host, driver } = built();
    host.writeFront('state', S.connected);
    host.settle();
    const saved = JSON.parse(JSON.stringify(host.backend?.save()));
    host.backend?.restore(saved);
    expect(host.backend?.state).toBe(S.connected);
    host.writeFront('state', S.closed);
    host.settle();
    expect(driver.calls.at(-1)).toBe('disconnect');
  });
});

describe('unplugging', () => {
  test('the guest is asked, gives back, and the directories go', () => {
    const { host, driver } = built();
    host.writeFront('state', S.connected);
    host.settle();
    host.toolstack.command(GUEST, { do: 'detach', device: 'xvda' }, 0);
    expect([host.readBack('online'), host.readBack('state')]).toEqual(['0', String(S.closing)]);
    host.settle();
    expect(host.backend?.gone, 'nothing happens without the guest').toBe(false);
    host.writeFront('state', S.closing);
    host.settle();
    host.writeFront('state', S.closed);
    host.settle();
    expect(host.backend?.gone).toBe(true);
    expect(driver.calls.at(-1)).toBe('disconnect');
    expect(host.store.readAsDom0(frontendPath(GUEST, DISK))).toBeUndefined();
    expect(host.store.readAsDom0(backendPath(GUEST, DISK))).toBeUndefined();
    host.toolstack.command(GUEST, { do: 'attach', device: 'xvda' }, 1000);
    host.settle();
    expect(host.readBack('state'), 'and it may be plugged in again').toBe(String(S.initWait));
  });

  test.each([false, true])('a guest that does not answer keeps the device unless it is taken by force (%s)', (force) => {
    const { host } = built();
    host.writeFront('state', S.connected);
    host.settle();
    host.toolstack.command(GUEST, { do: 'detach', device: 'xvda', ...(force ? { force } : {}) }, 0);
    host.settle(host.nowNs + 11_000_000_000);
    expect(host.backend?.gone).toBe(force);
    expect(host.store.readAsDom0(backendPath(GUEST, DISK)) === undefined).toBe(force);
    expect(host.notes).toEqual(force ? [] : ['xvda was not given back by the guest in time; it stays']);
  });

  test('a guest that does not hear that it is to be saved has a minute; then the request is withdrawn, and the log says so', () => {
    const { host } = built();
    const word = (): string | undefined => host.store.readAsDom0(`/local/domain/${GUEST}/control/shutdown`);
    host.toolstack.command(GUEST, { do: 'save-restore' }, 0);
    host.settle(host.nowNs + 59_000_000_000);
    expect([word(), host.notes]).toEqual(['suspend', []]);
    host.settle(host.nowNs + 2_000_000_000);
    expect(word()).toBe('');
    expect(host.notes).toEqual([expect.stringContaining('the request is withdrawn')]);
    expect(host.toolstack.domainShutdown(GUEST, 2), 'nobody saves it any more').toBe(false);
  });

  test('a guest that hears it and does not suspend, as Linux 2.6.24, has another minute', () => {
    const { host } = built();
    host.toolstack.command(GUEST, { do: 'save-restore' }, 0);
    host.store.writeAsDom0(`/local/domain/${GUEST}/control/shutdown`, '');
    host.settle(host.nowNs + 119_000_000_000);
    expect(host.notes).toEqual([]);
    host.settle(host.nowNs + 2_000_000_000);
    expect(host.notes).toEqual([expect.stringContaining('has not suspended for a minute')]);
    expect(host.toolstack.domainShutdown(GUEST, 2), 'nobody saves it any more').toBe(false);
  });

  test('a toolstack whom nobody has asked to save a domain saves what it always did, so that older recordings have the same digests', () => {
    const { host } = built();
    const fields = (): string[] => Object.keys(host.toolstack.save() as object).sort();
    expect(fields()).toEqual(['comingBack', 'ends', 'nextMinor', 'removals', 'scripts']);
    host.toolstack.command(GUEST, { do: 'save-restore' }, 0);
    expect(fields()).toContain('asked');
    const saved = host.toolstack.save();
    host.toolstack.domainShutdown(GUEST, 2);
    expect(host.toolstack.save()).not.toHaveProperty('asked');
    host.toolstack.restore(saved);
    expect(host.toolstack.save()).toEqual(saved);
  });

  test('a guest that ends while it is to be saved has not been saved, and the log says so', () => {
    const { host } = built();
    host.toolstack.command(GUEST, { do: 'save-restore' }, 0);
    host.toolstack.domainShutdown(GUEST, 0);
    expect(host.notes).toEqual([expect.stringContaining('has ended without suspending: its kernel has not taken')]);
  });

  test('commands that make no sense are remarks in the log', () => {
    const { host } = built();
    host.toolstack.command(GUEST, { do: 'attach', device: 'xvda' }, 0);
    host.toolstack.command(GUEST, { do: 'attach', device: 'xvdz' }, 0);
    host.toolstack.command(GUEST, { do: 'detach', device: 'xvda' }, 0);
    host.toolstack.command(GUEST, { do: 'detach', device: 'xvda' }, 0);
    expect(host.notes).toEqual(['xvda is attached already', 'the domain has no device xvdz', 'xvda is being detached already']);
  });

  test('a command in the log is one of the known, or none', () => {
    expect(parseCommand('{"do":"detach","device":"xvda","force":true}')).toEqual({ do: 'detach', device: 'xvda', force: true });
    for (const text of ['', '{', '[]', 'null', '{"do":"explode"}', '{"do":"attach"}', '{"do":"balloon","targetKib":-1}', '{"do":"shutdown","how":"now"}']) expect(parseCommand(text), text).toBeUndefined();
  });
});
