// Two guests on one switch. Each finds its interface in xenstore, gives dom0 rings for sending and
// receiving, and then has to find the other: a broadcast asks who has the address, and is asked again
// as long as nobody answers, for the other one may not have started yet.
//
// The first pings the second and sends it datagrams that its echo service sends back; meanwhile the
// second pings the first. Which of them runs when is drawn, and so is how long dom0 takes for each
// frame: any seed must do.
import type { DomainSpec } from '../../src/sim/spec.ts';
import type { NetStep } from '../../src/guest/drivers/plan.ts';
import { defineScenario } from '../../src/sim/scenario.ts';

const guest = (name: string, last: number, steps: readonly NetStep[]): DomainSpec => ({
  name, kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 8, vifs: [{ mac: `00:16:3e:00:00:0${last}`, bridge: 'xenbr0' }],
  model: { guest: 'paravirt', backend: 'xen', paging: 'pae', program: [], drivers: { nets: [{ vif: 0, ip: `10.0.0.${last}`, steps }] } },
});

export const scenario = defineScenario({
  name: 'neighbours',
  title: 'Two paravirt_ops kernels find each other through netfront, answer pings and send datagrams back',
  domains: [
    guest('first', 1, [{ do: 'ping', to: '10.0.0.2', times: 10 }, { do: 'udp', to: '10.0.0.2', times: 10 }, { do: 'serve', ns: 5_000_000 }]),
    guest('second', 2, [{ do: 'ping', to: '10.0.0.1', times: 10 }, { do: 'serve', ns: 20_000_000 }]),
  ],
  expect: { outcome: 'poweroff', console: ['vif0: 10.0.0.2 answered 10 pings', 'vif0: 10.0.0.2 sent back 10 datagrams'] },
});
