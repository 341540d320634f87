// MMX and SSE as state and units: what control registers make of them, what outlives a checkpoint, code that they overwrite.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import { STATE } from '../../src/x86/state-layout.ts';

const TIERS = ['evaluate', 'translate'] as const;
const CODE = 0x1000;
const IMAGE = 0x8000;
const OSFXSR = 0x200;
const OSXMMEXCPT = 0x400;
/** PE, ET, NE. */
const CR0 = 0x31;

function machineWith(tier: (typeof TIERS)[number], hex: string, cr4 = OSFXSR | OSXMMEXCPT, cr0 = CR0) {
  const machine = new MachineMemory({ frameCount: 32, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0x07880000], tier });
  machine.writeBytes(CODE, Buffer.from(hex.replaceAll(' ', ''), 'hex'));
  cpu.setCr(0, cr0);
  cpu.setCr(4, cr4);
  cpu.setEip(CODE);
  const xmm = (index: number): string => Buffer.from(machine.u8.subarray(cpu.stateBase + STATE.xmm + 16 * index, cpu.stateBase + STATE.xmm + 16 * index + 16)).toString('hex');
  const setXmm = (index: number, ...words: number[]): void => words.forEach((word, i) => cpu.core.set32(STATE.xmm + 16 * index + 4 * i, word));
  return { machine, cpu, xmm, setXmm };
}

describe.each(TIERS)('with the tier set to %s,', (tier) => {
  test('an unmasked exception of SSE is #XM, or #UD while CR4.OSXMMEXCPT is off; its flag is noted, its result is not', () => {
    for (const [cr4, vector] of [[OSFXSR | OSXMMEXCPT, 19], [OSFXSR, 6]] as const) {
      const { cpu, xmm, setXmm } = machineWith(tier, '0f5ec1 f4', cr4); // divps xmm0, xmm1
      setXmm(0, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000);
      setXmm(1, 0x3f800000, 0, 0x40400000, 0x3f800000);
      cpu.core.set32(STATE.mxcsr, 0x1f80 & ~0x200);
      const before = xmm(0);
      expect(cpu.run(10)).toEqual({ kind: 'exception', exception: { vector } });
      expect(cpu.eip()).toBe(CODE);
      expect(xmm(0)).toBe(before);
      // A division by zero is found before 1/3 is computed: PE is not there.
      expect(cpu.core.get32(STATE.mxcsr)).toBe((0x1f80 & ~0x200) | 4);
    }
  });

  test('FXSAVE and FXRSTOR leave XMM registers and MXCSR alone while CR4.OSFXSR is off', () => {
    // fxsave [IMAGE]; fxrstor [IMAGE]; hlt
    const code = '0fae05 00800000 0fae0d 00800000 f4';
    const off = machineWith(tier, code, 0);
    off.setXmm(3, 1, 2, 3, 4);
    off.machine.writeBytes(IMAGE, new Uint8Array(512).fill(0xee));
    off.cpu.core.set32(STATE.mxcsr, 0x1fa5);
    expect(off.cpu.run(2).kind).toBe('budget');
    expect(off.xmm(3)).toBe('01000000020000000300000004000000');
    expect(off.cpu.core.get32(STATE.mxcsr)).toBe(0x1fa5);
    expect(Buffer.from(off.machine.readBytes(IMAGE + 24, 8)).toString('hex')).toBe('eeeeeeeeeeeeeeee');
    expect(Buffer.from(off.machine.readBytes(IMAGE + 160, 352)).every((byte) => byte === 0xee)).toBe(true);
    const on = machineWith(tier, code);
    on.setXmm(3, 1, 2, 3, 4);
    on.machine.writeBytes(IMAGE, new Uint8Array(512).fill(0xee));
    expect(on.cpu.run(2).kind).toBe('budget');
    expect(Buffer.from(on.machine.readBytes(IMAGE + 24, 8)).toString('hex')).toBe('801f0000ffff0000');
    expect(Buffer.from(on.machine.readBytes(IMAGE + 160 + 48, 16)).toString('hex')).toBe('01000000020000000300000004000000');
    // Eight registers; the rest of the image is the program's.
    expect(Buffer.from(on.machine.readBytes(IMAGE + 288, 224)).every((byte) => byte === 0xee)).toBe(true);
  });

  test('an x87 exception left behind comes out at an MMX instruction, with CR0.NE', () => {
    for (const [cr0, exit] of [[CR0, { kind: 'exception', exception: { vector: 16 } }], [CR0 & ~0x20, { kind: 'halt' }]] as const) {
      const { cpu } = machineWith(tier, '0fefc0 f4', 0, cr0); // pxor mm0, mm0
      cpu.core.set32(STATE.fpuControl, 0x37e);
      cpu.core.set32(STATE.fpuStatus, 0x8081);
      expect(cpu.run(10)).toEqual(exit);
    }
  });

  test('an MMX instruction makes all x87 registers full and the stack top 0, EMMS empties them', () => {
    const { cpu } = machineWith(tier, 'd9e8 0f6ec0 0f77 f4'); // fld1; movd mm0, eax; emms
    cpu.setReg(0, 0x12345678);
    cpu.run(2);
    expect([cpu.core.get32(STATE.fpuFull), cpu.core.get32(STATE.fpuStatus) & 0x3800, cpu.core.get32(STATE.fpuReg), cpu.core.get32(STATE.fpuReg + 4), cpu.core.get32(STATE.fpuReg + 8)]).toEqual([0xff, 0, 0x12345678, 0, 0xffff]);
    cpu.run(1);
    expect(cpu.core.get32(STATE.fpuFull)).toBe(0);
  });

  test('a vector stored over the next instruction is what runs next', () => {
    // movups [next], xmm0; next: sixteen bytes of INC EAX become DEC EAX; hlt
    const { cpu, setXmm } = machineWith(tier, `0f1105 07100000 ${'40'.repeat(16)} f4`);
    setXmm(0, 0x48484848, 0x48484848, 0x48484848, 0x48484848);
    cpu.setReg(0, 100);
    expect(cpu.run(100).kind).toBe('halt');
    expect(cpu.reg(0)).toBe(84);
  });

  test('vectors and MXCSR are part of a saved state', () => {
    const first = machineWith(tier, '660fefc0 f4');
    first.setXmm(15, 0xdeadbeef, 1, 2, 3);
    first.setXmm(7, 4, 5, 6, 7);
    first.cpu.core.set32(STATE.mxcsr, 0x3fa1);
    const bytes = first.cpu.saveState();
    const second = machineWith(tier, 'f4');
    second.cpu.restoreState(bytes);
    expect([second.xmm(15), second.xmm(7), second.cpu.core.get32(STATE.mxcsr)]).toEqual(['efbeadde010000000200000003000000', '04000000050000000600000007000000', 0x3fa1]);
  });
});

test('no vector register has anything in it at first, and everything is masked', () => {
  const { cpu, xmm } = machineWith('evaluate', 'f4');
  for (let i = 0; i < 16; i++) expect(xmm(i)).toBe('0'.repeat(32));
  expect([cpu.core.get32(STATE.mxcsr), cpu.core.get32(STATE.fpuControl)]).toEqual([0x1f80, 0x37f]);
});
