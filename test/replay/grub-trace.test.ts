// PV GRUB makes the same hypercalls here as on real Xen: grub-*-xen.txt.gz are what a real Xen saw of
// the same images in domains of 128 MiB, until the first xenstore answer.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { HYPERCALL } from '../../src/abi/hypercall-numbers.ts';
import { storedImage } from '../../src/node/image-store.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import type { EventSink } from '../../src/sim/world.ts';
import { recordBoot } from './boots.ts';
import { hypercallsOf, realXenCalls, withoutContinuations, type Call } from './hypercall-trace.ts';

/** How many arguments a hypercall has; what stands in the other registers is junk. */
const ARG_COUNT: Readonly<Record<number, number>> = { [HYPERCALL.vm_assist]: 2, [HYPERCALL.grant_table_op]: 3, [HYPERCALL.mmu_update]: 4, [HYPERCALL.mmuext_op]: 4, [HYPERCALL.event_channel_op]: 2 };
const MAPPING_ARGS = { 32: 4, 64: 3 } as const;

/** Frame numbers are a run's own: of a page-table entry only presence and flags are compared. */
function comparable(call: Call, wordBits: 32 | 64): string {
  const isMapping = call.nr === HYPERCALL.update_va_mapping;
  const count = isMapping ? MAPPING_ARGS[wordBits] : (ARG_COUNT[call.nr] ?? 5);
  const args = call.args.slice(0, count).map((arg, index) => (isMapping && index === 1 ? arg & 0xfffn : arg));
  return `${call.nr}(${args.map((arg) => arg.toString(16)).join(',')}) = ${call.result}`;
}

const forwarding = (sink: EventSink): EventSink => ({ event: (...event) => sink.event(...event), stateDigest: (...at) => sink.stateDigest?.(...at) });

const inCi = process.env['CI'] === 'true';

describe('PV GRUB', () => {
  test.for([['grub-i386', 32], ['grub-x86_64', 64]] as const)('%s makes the hypercalls that real Xen saw, in that order, with those results', async ([name, wordBits], { skip }) => {
    if (storedImage(name) === undefined && !inCi) skip(`the image is not here: run \`npx rexen fetch ${name}\``);
    const text = gunzipSync(readFileSync(join(import.meta.dirname, `${name}-xen.txt.gz`))).toString();
    const expected = withoutContinuations(realXenCalls(text)).map((call) => comparable(call, wordBits));
    expect(expected.length).toBeGreaterThan(80);
    let sendsLeft = expected.filter((call) => call.startsWith(`${HYPERCALL.event_channel_op}(`)).length;
    const boot = await recordBoot(name, {
      // The traces end with an event; the rest of the boot is other tests' business.
      wrap: (sink, world) => ({
        ...forwarding(sink),
        event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
          sink.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
          if (kind === EVENT.hypercall && values[0] === HYPERCALL.event_channel_op && --sendsLeft === 0) world.end('stopped', 'the trace ends before this');
        },
      }),
    });
    const calls = withoutContinuations(hypercallsOf(openRecording(bytesSource('grub', boot.bytes), { codec: zlibCodec(1) })));
    expect(calls.slice(0, expected.length).map((call) => comparable(call, wordBits))).toEqual(expected);
  });
});
