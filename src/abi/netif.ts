// The network device's rings: what a frontend asks for and what it is answered.
// Source: xen/include/public/io/netif.h.
import { layout } from '../base/layout.ts';

export const NETIF_TX_REQUEST = layout({
  sizeBytes: 12, source: 'xen/include/public/io/netif.h struct netif_tx_request',
  fields: { gref: { at: 0, type: 'u32' }, offset: { at: 4, type: 'u16' }, flags: { at: 6, type: 'u16' }, id: { at: 8, type: 'u16' }, size: { at: 10, type: 'u16' } },
});
export const NETIF_TX_RESPONSE = layout({ sizeBytes: 4, source: 'xen/include/public/io/netif.h struct netif_tx_response', fields: { id: { at: 0, type: 'u16' }, status: { at: 2, type: 'u16' } } });
export const NETIF_RX_REQUEST = layout({ sizeBytes: 8, source: 'xen/include/public/io/netif.h struct netif_rx_request', fields: { id: { at: 0, type: 'u16' }, gref: { at: 4, type: 'u32' } } });
export const NETIF_RX_RESPONSE = layout({
  sizeBytes: 8, source: 'xen/include/public/io/netif.h struct netif_rx_response',
  fields: { id: { at: 0, type: 'u16' }, offset: { at: 2, type: 'u16' }, flags: { at: 4, type: 'u16' }, status: { at: 6, type: 'u16' } },
});
/** Stands in the place of a request or response; only the gso part and the address of the union are used. */
export const NETIF_EXTRA = layout({
  sizeBytes: 8, source: 'xen/include/public/io/netif.h struct netif_extra_info',
  fields: { type: { at: 0, type: 'u8' }, flags: { at: 1, type: 'u8' }, gso_size: { at: 2, type: 'u16' }, gso_type: { at: 4, type: 'u8' }, gso_pad: { at: 5, type: 'u8' }, gso_features: { at: 6, type: 'u16' } },
});
export const NETIF_MCAST_ADDRESS_AT = 2;

export const NETTXF = { csum_blank: 1, data_validated: 2, more_data: 4, extra_info: 8 } as const;
export const NETRXF = { data_validated: 1, csum_blank: 2, more_data: 4, extra_info: 8 } as const;
export const NETIF_EXTRA_TYPE = { none: 0, gso: 1, mcast_add: 2, mcast_del: 3, hash: 4, xdp: 5 } as const;
/** XEN_NETIF_EXTRA_TYPE_MAX: this and what is above is no type. */
export const NETIF_EXTRA_TYPE_MAX = 6;
export const NETIF_EXTRA_FLAG_MORE = 1;
export const NETIF_GSO_TYPE = { none: 0, tcpv4: 1, tcpv6: 2 } as const;
export const NETIF_RSP = { dropped: -2, error: -1, okay: 0, null: 1 } as const;
/** Slots that every back end takes for one packet; Linux's XEN_NETBK_LEGACY_SLOTS_MAX. */
export const NETIF_SLOTS_MIN = 18;
