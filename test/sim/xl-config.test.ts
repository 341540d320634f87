import { describe, expect, test } from 'vitest';
import { looksLikeXlConfig, xlScenario } from '../../src/sim/xl/scenario.ts';
import type { DomainSpec } from '../../src/sim/spec.ts';

const domainOf = (source: string): DomainSpec => xlScenario('guest.cfg', source, 'guest').scenario.spec.domains[0] as DomainSpec;
const withKernel = (line: string): DomainSpec => domainOf(`kernel = "k"\n${line}\n`);
const problemOf = (source: string): string => {
  try {
    domainOf(source);
  } catch (error) {
    return (error as Error).message;
  }
  return 'none';
};

test('an ordinary file of a PV guest is a scenario', () => {
  const source = `
# a guest
name    = 'web'
type = "pv"
kernel  = "/boot/vmlinuz-6.1.0-amd64"; ramdisk = "/boot/initrd.img"
memory  = 0x200
maxmem  = 512
vcpus   = 1
root    = "/dev/xvda1 ro"
extra   = "console=hvc0 "
extra  += "quiet"
disk    = [
  'phy:/dev/vg/web,xvda,w',   # the first
  "format=raw, vdev=xvdb, access=ro, target=/img/a,b.img",
]
vif     = [ 'mac=00:16:3E:aa:bb:cc, bridge=br1, ip=10.0.0.7, model=e1000', '' ]
on_poweroff = "destroy"
on_reboot = "restart"
on_crash = "preserve"
cpus = "2-3"
pci = [ ]
`;
  const { scenario, notes } = xlScenario('web.cfg', source, 'web');
  expect(scenario.name).toBe('web');
  expect(scenario.spec.domains).toEqual([{
    name: 'web', kernel: { name: '/boot/vmlinuz-6.1.0-amd64' }, ramdisk: { name: '/boot/initrd.img' }, cmdline: 'root=/dev/xvda1 ro console=hvc0 quiet', memoryMib: 512,
    disks: [{ vdev: 'xvda', mode: 'w', format: 'raw', image: { name: '/dev/vg/web' } }, { vdev: 'xvdb', mode: 'r', format: 'raw', image: { name: '/img/a,b.img' } }],
    vifs: [{ mac: '00:16:3e:aa:bb:cc', bridge: 'br1', ip: '10.0.0.7' }, { mac: '00:16:3e:00:00:02', bridge: 'xenbr0' }],
  }]);
  expect(notes).toEqual(['on_reboot="restart": the run ends where the domain would be started again']);
});

test('the least is a kernel', () => {
  expect(domainOf('kernel="k"')).toEqual({ name: 'guest', kernel: { name: 'k' }, cmdline: '', memoryMib: 128 });
});

test('what the Xen Test Framework writes for each of its tests is a scenario', () => {
  const source = 'name="test-pv64-some~variation"\n\nvcpus=1 \n\ntype="pv"\nloader="generic" # Legacy for before Xen 4.10\n\nmemory=128\nkernel="k"\n\n# Test Extra Configuration:\nmax_event_channels=4096\nviridian = 1\ncmdline="variation"\n';
  expect(domainOf(source)).toEqual({ name: 'test-pv64-some~variation', kernel: { name: 'k' }, cmdline: 'variation', memoryMib: 128, maxEventChannels: 4096 });
  expect(withKernel('max_event_channels = 0')).toEqual({ name: 'guest', kernel: { name: 'k' }, cmdline: '', memoryMib: 128 });
});

test('what a cmdline makes useless is said', () => {
  expect(xlScenario('g', 'kernel = "k"\ncmdline = "a"\nextra = "b"', 'g').notes).toEqual(['root= and extra= count for nothing beside cmdline=']);
  expect(xlScenario('g', 'kernel = "k"\ncmdline = "a"\nextra = ""', 'g').notes).toEqual([]);
});

test('maxmem above memory is how far the domain may grow', () => {
  expect(withKernel('memory = 64\nmaxmem = 128')).toEqual({ name: 'guest', kernel: { name: 'k' }, cmdline: '', memoryMib: 64, maxMemoryMib: 128 });
  expect(withKernel('maxmem = 256')).toEqual({ name: 'guest', kernel: { name: 'k' }, cmdline: '', memoryMib: 256 });
});

describe('the command line', () => {
  test.each([
    ['extra = "a b"', 'a b'], ['root = "/dev/xvda"', 'root=/dev/xvda'], ['root = "/dev/xvda"\nextra = "ro"', 'root=/dev/xvda ro'], ['cmdline = "c"\nroot = "r"\nextra = "e"', 'c'], ['extra = "say \\"hi\\" \\x41"', 'say "hi" A'], ["extra = 'don\\'t'", "don't"],
  ])('%j is %j', (lines, cmdline) => {
    expect(withKernel(lines).cmdline).toBe(cmdline);
  });
});

describe('a disk', () => {
  const DISK = { vdev: 'xvda', mode: 'w', format: 'raw', image: { name: '/i' } };
  test.each<[string, object]>([
    ['/i,raw,xvda,rw', {}], ['/i,,xvda', {}], ['/i,raw,xvda', {}], ['file:/i,xvda,w', {}], ['phy:/i,xvda,w', {}], ['tap:aio:/i,xvda,w', {}], ['raw:/i,xvda,r', { mode: 'r' }], ['file:/i,xvda,w!', {}],
    ['vdev=xvda,target=/i', {}], ['format=raw,vdev=xvda,access=rw,target=/i', {}], ['/i,vdev=xvda,access=ro', { mode: 'r' }], [' /i , raw , xvda , r ', { mode: 'r' }], ['backendtype=qdisk,vdev=xvda,target=/i', {}],
    ['/i,raw,xvda,devtype=cdrom', { mode: 'r', cdrom: true }], ['/i,raw,xvda,cdrom', { mode: 'r', cdrom: true }], ['file:/i,xvda:cdrom,r', { mode: 'r', cdrom: true }], ['/i,raw,xvda,rw,no-discard', { features: { discard: false } }],
    ['/i,raw,sda1,rw', { vdev: 'sda1' }], ['target=/i,b,c=d', { vdev: undefined }],
  ])('%s', (text, differs) => {
    if (text.startsWith('target=')) return expect(problemOf(`kernel="k"\ndisk=['${text}']`)).toMatch(/has no vdev/);
    expect(withKernel(`disk = [ '${text}' ]`).disks).toEqual([{ ...DISK, ...differs }]);
  });

  test.each<[string, string]>([
    ['/i,qcow2,xvda,rw', 'the format qcow2 is not supported; convert the image (qemu-img convert -O raw)'], ['qcow2:/i,xvda,w', 'the format qcow2 is not supported; convert the image (qemu-img convert -O raw)'], ['/i,floppy,xvda', 'floppy is no format of a disk'],
    ['/i,raw,vda,rw', 'vda is no name of a disk; write xvda, xvdb, ... or sda, hda'], ['/i,raw,xvda,x', 'the access x is not known; write rw or ro'], ['/i,raw,xvda,rw,more', 'there is one part too many: more'],
    ['script=block-iscsi,vdev=xvda,target=/i', 'script= of a disk is not supported'], ['backend=storage,vdev=xvda,target=/i', 'backend= of a disk is not supported'], [',empty,hdc,cdrom', 'a disk without an image is not supported'], ['backendtype=tap,vdev=xvda,target=/i', 'backendtype=tap is not supported'],
    ['/i,raw,xvda:floppy,r', 'xvda:floppy is no name of a disk'],
  ])('%s is refused by name', (text, problem) => {
    expect(problemOf(`kernel="k"\ndisk=['${text}']`)).toBe(`guest.cfg:2: disk: "${text}": ${problem}`);
  });
});

describe('what is not supported is refused by its name and line', () => {
  test.each<[string, string]>([
    ['vcpus = 2', 'vcpus: 2 is not supported; a domain has one vCPU here'], ['loader = "hvmloader"', 'loader: hvmloader is not supported; only PV guests run here'], ['type = "hvm"', 'type: hvm is not supported; only PV guests run here'], ['builder = "hvm"', 'builder: hvm is not supported; only PV guests run here'],
    ['memory = 100000', 'memory: 100000 MiB: a domain may have 4 to 3500'], ['memory = "lots"', 'memory: wants a whole number, not "lots"'], ['disk = "x"', 'disk: wants a list: [ "..." ]'], ['kernel = [ "x" ]', 'kernel: wants a text, not a list'],
    ['vif = [ "mac=12" ]', 'vif: "mac=12": 12 is no MAC address; write 00:16:3e:xx:xx:xx'], ['vif = [ "rate=1Mb/s" ]', 'vif: "rate=1Mb/s": rate= of a network interface is not supported'], ['vif = [ "type=ioemu" ]', 'vif: "type=ioemu": type=ioemu is not supported; a PV guest has type=vif'],
    ['disk = [ "/a,raw,xvda", "/b,raw,xvda" ]', 'disk: two disks are called xvda'], ['on_crash = "explode"', 'on_crash: explode is no action; write destroy'], ['vif = [ ["a"] ]', 'vif: wants a list of texts'],
  ])('%s', (line, problem) => {
    expect(problemOf(`kernel = "k"\n\n${line}`)).toBe(`guest.cfg:3: ${problem}`);
  });
  test.each(['pci = [ "01:00.0" ]', 'vfb = [ "vnc=1" ]', 'uuid = "x"', 'bootloader = "pygrub"', 'toString = 1', 'device_model_version = "qemu-xen"'])('%s', (line) => {
    expect(problemOf(`kernel = "k"\n${line}`)).toMatch(new RegExp(`^guest.cfg:2: ${line.split(' ')[0]}: .*not supported`));
  });
  test('too little', () => {
    expect(problemOf('name = "x"')).toBe('guest.cfg: it names no kernel; write kernel = "/path/to/vmlinuz"');
    expect(problemOf('kernel = "k"\nmemory = 128\nmaxmem = 64')).toBe('guest.cfg: maxmem: 64 MiB are less than the memory that the domain starts with (128 MiB)');
  });
});

describe('bad syntax is one sentence with a line', () => {
  test.each<[string, RegExp]>([
    ['kernel "k"', /^guest.cfg:1: there is "k" where = after kernel should be$/], ['kernel = ', /^guest.cfg:1: there is the end of the file where a text/], ['kernel = "k" "l"', /^guest.cfg:1: there is "l" where the end of the line should be$/],
    ['kernel = "k', /^guest.cfg:1: .* is no xl.cfg syntax/], ['disk = [ "a" "b" ]', /^guest.cfg:1: there is "b" where , or \] should be$/], ['disk = [ "a",\n\n', /^guest.cfg:3: there is the end of the file where a text/], ['= 3', /^guest.cfg:1: there is "=" where a key should be$/],
    ['if True:\n  x = 1', /^guest.cfg:1: /], ['a = 1\na += [ ]', /^guest.cfg:2: a was a text on line 1; a list cannot be added to it$/], ['a = {}', /^guest.cfg:1: .* is no xl.cfg syntax/],
  ])('%j', (source, problem) => {
    expect(problemOf(source)).toMatch(problem);
  });
});

test('a kernel image does not look like one', () => {
  expect(looksLikeXlConfig('# x\n name = "a"\n')).toBe(true);
  expect(looksLikeXlConfig('\x7fELF\0\nname = "a"')).toBe(false);
  expect(looksLikeXlConfig('hello')).toBe(false);
});
