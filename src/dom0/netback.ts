// The network back end: one interface of one guest, plugged into a switch while both ends are connected.
//
//   guest ─► tx ring ─► netback-tx ─► checkPacket ─► switch ─► … ─► fit ─► netback-rx ─► rx ring ─► guest
//
// What the two ends agree on stands in xenstore: copying receive only, scatter-gather, checksum and
// segmentation offloads in both directions, one event channel or two, one queue.
// A frontend that breaks the protocol loses its interface until it connects anew; why is in the log.
// Source: drivers/net/xen-netback/xenbus.c, interface.c in Linux; xen/include/public/io/netif.h.
// Not here: several queues, the control ring (hashing), XDP headroom, rate limits.
import { CHECKSUM_STATE, DEVICE, EVENT, FRAME_WAY, GSO_TYPE, valueIndex } from '../abi/events.ts';
import { NETIF_RX_REQUEST, NETIF_TX_REQUEST } from '../abi/netif.ts';
import { BackRing, type BackRingState } from './back-ring.ts';
import { DeviceDirectories, type DeviceDriver } from './device-backend.ts';
import type { DeviceConfig } from './device-spec.ts';
import type { Plug } from './net/network.ts';
import { checkPacket, fit, type Offloads } from './net/offload.ts';
import { ETHER, isGroupMac, MAC_BROADCAST, macAt, type Packet } from './net/packet.ts';
import type { SwitchClient } from './net/switch.ts';
import { RxQueue, POLL_NS } from './netback-rx.ts';
import { takePacket, type TxPort } from './netback-tx.ts';
import type { DevicePort, GrantedPage } from './ports.ts';

/** What it says it can, in the order in which Linux says it. */
const FEATURES: readonly (readonly [string, number])[] = [
  ['feature-sg', 1], ['feature-gso-tcpv4', 1], ['feature-gso-tcpv6', 1], ['feature-ipv6-csum-offload', 1], ['feature-rx-copy', 1], ['feature-rx-flip', 0], ['feature-multicast-control', 1],
  ['feature-split-event-channels', 1], ['multi-queue-max-queues', 1], ['feature-ctrl-ring', 0],
];
/** XEN_NETBK_MCAST_MAX. */
const MOST_MULTICAST = 64;
/** In `ringRequest.op` of an extra slot: this and its type. */
const EXTRA_OP = 0x1_0000;

/** What the frontend agreed to when it connected: what it writes later does not count. */
interface Agreed {
  readonly txChannel: number;
  readonly rxChannel: number;
  readonly offloads: Offloads;
  /** It rings when it posts buffers. */
  readonly isNotified: boolean;
  readonly filtersMulticast: boolean;
}
interface Link extends Agreed {
  readonly tx: BackRing;
  readonly rx: BackRing;
  readonly txPage: GrantedPage;
  readonly rxPage: GrantedPage;
}
interface SavedLink extends Agreed {
  readonly tx: BackRingState;
  readonly rx: BackRingState;
  readonly txGref: number;
  readonly rxGref: number;
}

interface NetbackState {
  /** Plugged into the switch. */
  isUp: boolean;
  /** The frontend broke the protocol. */
  isDisabled: boolean;
  multicast: number[];
  /** When run() is wanted to look for buffers; 0: not. */
  pollAtNs: number;
}
const FRESH: NetbackState = { isUp: false, isDisabled: false, multicast: [], pollAtNs: 0 };

export class Netback implements DeviceDriver, SwitchClient {
  readonly name: string;
  readonly #port: DevicePort;
  readonly #deviceId: number;
  readonly #directories: DeviceDirectories;
  readonly #plugIn: (client: SwitchClient) => Plug;
  readonly #queue: RxQueue;
  #plug: Plug | undefined;
  #link: Link | undefined;
  #state: NetbackState = { ...FRESH };

  constructor(device: DeviceConfig, port: DevicePort, plugIn: (client: SwitchClient) => Plug) {
    this.name = `vif${port.domId}.${device.deviceId}`;
    this.#port = port;
    this.#deviceId = device.deviceId;
    this.#directories = new DeviceDirectories(port, device);
    this.#plugIn = plugIn;
    this.#queue = new RxQueue({
      nowNs: () => port.nowNs(),
      copyToGrant: (gref, offset, bytes) => port.copyToGrant(gref, offset, bytes),
      requested: (index, id, gref) => this.#emit(EVENT.ringRequest, 'vifRx', [index, 0, id, 0, gref, 0]),
      responded: (index, id, flags, status) => this.#emit(EVENT.ringResponse, 'vifRx', [index, flags, id, 0, status]),
      delivered: (packet) => this.#logFrame(packet, 'toGuest'),
      dropped: (why) => this.#note(`not received: ${why}`),
    });
  }

  probe(): void {
    for (const [name, value] of FEATURES) this.#directories.writeBack(name, value);
  }

  // -- connecting --------------------------------------------------------------------------------

  connect(): string | undefined {
    const front = this.#directories;
    const queues = front.numberOfFront('multi-queue-num-queues') ?? 1;
    if (queues !== 1) return `guest requested ${queues} queues, exceeding the maximum of 1`;
    const txGref = front.numberOfFront('tx-ring-ref');
    const rxGref = front.numberOfFront('rx-ring-ref');
    if (txGref === undefined || rxGref === undefined) return `reading ${front.front}/ring-ref`;
    const both = front.numberOfFront('event-channel');
    const txChannel = front.numberOfFront('event-channel-tx') ?? both;
    const rxChannel = front.numberOfFront('event-channel-rx') ?? both;
    if (txChannel === undefined || rxChannel === undefined) return `reading ${front.front}/event-channel(-tx/rx)`;
    if (front.numberOfFront('request-rx-copy') !== 1) return 'the frontend does not ask for copies (request-rx-copy), and pages are not flipped';
    const where = `mapping shared-frames ${txGref}/${rxGref} port tx ${txChannel} rx ${rxChannel}`;
    const txPage = this.#port.mapGrant(txGref, false);
    if (typeof txPage === 'number') return where;
    const rxPage = this.#port.mapGrant(rxGref, false);
    if (typeof rxPage === 'number') {
      this.#port.unmapGrant(txPage);
      return where;
    }
    this.#link = linkOver(txPage, rxPage, this.#agreed(txChannel, rxChannel));
    const bound = this.#port.bindChannel(txChannel) && (rxChannel === txChannel || this.#port.bindChannel(rxChannel));
    return bound ? undefined : where;
  }

  #agreed(txChannel: number, rxChannel: number): Agreed {
    const says = (name: string): boolean => (this.#directories.numberOfFront(name) ?? 0) !== 0;
    const blankIpv4 = !says('feature-no-csum-offload');
    const blankIpv6 = says('feature-ipv6-csum-offload');
    const gathers = says('feature-sg');
    return {
      txChannel, rxChannel,
      // A large segment is one only with scatter-gather and a blank checksum.
      offloads: { blankIpv4, blankIpv6, gsoTcpv4: gathers && blankIpv4 && says('feature-gso-tcpv4'), gsoTcpv6: gathers && blankIpv6 && says('feature-gso-tcpv6') },
      isNotified: says('feature-rx-notify'), filtersMulticast: says('request-multicast-control'),
    };
  }

  announce(): void {
    this.#state.isUp = true;
    this.#plug = this.#plugIn(this);
  }

  disconnect(): void {
    this.#unplug();
    const link = this.#link;
    if (link !== undefined) {
      this.#port.unbindChannel(link.txChannel);
      if (link.rxChannel !== link.txChannel) this.#port.unbindChannel(link.rxChannel);
      this.#port.unmapGrant(link.txPage);
      this.#port.unmapGrant(link.rxPage);
    }
    this.#link = undefined;
    this.#state = { ...FRESH };
  }

  #unplug(): void {
    this.#plug?.unplug();
    this.#plug = undefined;
    this.#state.isUp = false;
    this.#queue.clear();
  }

  /** xenvif_fatal_tx_err(): the interface stays dead until the frontend connects anew. */
  #disable(why: string): void {
    this.#note(`${why}; fatal error; disabling device`);
    this.#state.isDisabled = true;
    this.#unplug();
  }

  // -- working -----------------------------------------------------------------------------------

  run(): void {
    if (this.#link === undefined || this.#state.isDisabled) return;
    if (this.#state.pollAtNs !== 0 && this.#state.pollAtNs <= this.#port.nowNs()) this.#state.pollAtNs = 0;
    this.#deliver(this.#link);
    this.#transmit(this.#link);
  }

  #transmit({ tx, txChannel }: Link): void {
    const port = this.#txPort();
    do {
      while (!this.#state.isDisabled && tx.available() > 0) {
        const broken = takePacket(tx, port);
        if (broken !== undefined) this.#disable(broken);
      }
      if (tx.broken) this.#disable('impossible number of requests');
    } while (!this.#state.isDisabled && tx.finalCheck());
    if (tx.push()) this.#port.notify(txChannel);
  }

  #txPort(): TxPort {
    return {
      copyFromGrant: (gref, offset, sizeBytes) => this.#port.copyFromGrant(gref, offset, sizeBytes),
      requested: ({ index, flags, id, gref, size }) => this.#emit(EVENT.ringRequest, 'vif', [index, flags, id, 0, gref, size]),
      requestedExtra: (index, type) => this.#emit(EVENT.ringRequest, 'vif', [index, EXTRA_OP + type]),
      responded: (index, id, status) => this.#emit(EVENT.ringResponse, 'vif', [index, 0, id, 0, status]),
      multicast: (mac, wanted) => this.#wantMulticast(mac, wanted),
      dropped: (why) => this.#note(`not sent: ${why}`),
      sent: (packet) => {
        const checked = checkPacket(packet);
        if (typeof checked === 'string') return this.#note(`not sent: ${checked}`);
        this.#logFrame(checked, 'fromGuest');
        this.#plug?.send(checked);
      },
    };
  }

  #wantMulticast(mac: number, wanted: boolean): boolean {
    const others = this.#state.multicast.filter((other) => other !== mac);
    if (wanted && others.length >= MOST_MULTICAST) return false;
    this.#state.multicast = wanted ? [...others, mac] : others;
    return true;
  }

  /** From the switch. */
  receive(packet: Packet): void {
    const link = this.#link;
    if (link === undefined || !this.#state.isUp) return;
    const dest = macAt(packet.bytes, ETHER.destAt);
    if (link.filtersMulticast && isGroupMac(dest) && dest !== MAC_BROADCAST && !this.#state.multicast.includes(dest)) return;
    const parts = fit(packet, link.offloads);
    if (parts.length === 0) this.#note(`not received: a frame of ${packet.bytes.length} bytes does not fit`);
    for (const part of parts) this.#queue.add(part);
    this.#deliver(link);
  }

  #deliver(link: Link): void {
    if (this.#queue.isEmpty) return;
    if (this.#queue.deliver(link.rx, link.rxPage, link.isNotified) && link.rx.push()) this.#port.notify(link.rxChannel);
    if (link.rx.broken) return this.#disable('impossible number of buffers');
    if (this.#queue.isEmpty || link.isNotified || this.#state.pollAtNs !== 0) return;
    this.#state.pollAtNs = this.#port.nowNs() + POLL_NS;
    this.#port.scheduleRun(POLL_NS);
  }

  // -- the log -----------------------------------------------------------------------------------

  #emit(kind: number, device: 'vif' | 'vifRx', values: readonly number[]): void {
    this.#port.emit(kind, [valueIndex(DEVICE, device), this.#deviceId, ...values]);
  }

  #logFrame({ bytes, checksum, gso }: Packet, way: (typeof FRAME_WAY)[number]): void {
    this.#port.emit(EVENT.netFrame, [this.#deviceId, valueIndex(FRAME_WAY, way), valueIndex(CHECKSUM_STATE, checksum), valueIndex(GSO_TYPE, gso?.type ?? 'none'), gso?.size ?? 0], bytes);
  }

  #note(text: string): void {
    this.#port.emit(EVENT.backendNote, [valueIndex(DEVICE, 'vif'), this.#deviceId], new TextEncoder().encode(`${this.name}: ${text}`));
  }

  // -- state -------------------------------------------------------------------------------------

  save(): unknown {
    return { ...this.#state, multicast: [...this.#state.multicast], queue: this.#queue.save(), link: this.#link === undefined ? null : saveLink(this.#link) };
  }

  restore(state: unknown): void {
    const { queue, link, ...own } = state as NetbackState & { queue: unknown; link: SavedLink | null };
    this.#state = { ...own, multicast: [...own.multicast] };
    this.#queue.restore(queue);
    this.#link = link === null ? undefined : linkOver(this.#port.mappedGrant(link.txGref, false), this.#port.mappedGrant(link.rxGref, false), link, link);
    this.#plug = this.#state.isUp ? this.#plugIn(this) : undefined;
  }
}

function linkOver(txPage: GrantedPage, rxPage: GrantedPage, agreed: Agreed, rings?: { readonly tx: BackRingState; readonly rx: BackRingState }): Link {
  const { txChannel, rxChannel, offloads, isNotified, filtersMulticast } = agreed;
  const tx = new BackRing([txPage], NETIF_TX_REQUEST.sizeBytes, rings?.tx);
  const rx = new BackRing([rxPage], NETIF_RX_REQUEST.sizeBytes, rings?.rx);
  return { txChannel, rxChannel, offloads, isNotified, filtersMulticast, tx, rx, txPage, rxPage };
}

function saveLink({ tx, rx, txPage, rxPage, ...agreed }: Link): SavedLink {
  return { ...agreed, tx: tx.save(), rx: rx.save(), txGref: txPage.gref, rxGref: rxPage.gref };
}
