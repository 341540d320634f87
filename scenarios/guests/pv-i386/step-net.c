/*
 * A network frontend, and just enough of IPv4 to ping and to be pinged.
 *
 *   xenbus: wait for initWait ── grant two rings ── write what we have ── connected
 *   ping:   ARP until somebody answers ── echo requests of growing length ── compare what comes back
 *   serve:  answer others until nothing has come for a while
 *
 * One packet is sent at a time, from one page; buffers for receiving are posted
 * again as soon as they have been looked at.  No offloads, no scatter-gather.
 */
#include "kernel.h"

#define TX_SLOTS 256
#define RX_SLOTS 256
#define BUFFERS 32
#define FRONT "device/vif/0/"
#define SILENCE_NS 300000000ull
#define PATIENCE_NS 100000000ull

static struct sring *tx, *rx;
static u8 *tx_page, *buffers[BUFFERS];
static u32 tx_ref, buffer_refs[BUFFERS], tx_prod, tx_cons, rx_prod, rx_cons, channel, frames_in, frames_out;
static volatile u32 woken;
static struct xs_reply reply;
static u8 own_mac[6], own_ip[4], peer_mac[6], peer_ip[4];
static int know_peer;
static u32 echo_length, echo_sequence, echo_answered;

#define TX_REQUEST(i) ((struct netif_tx_request *)(tx + 1) + ((i) & (TX_SLOTS - 1)))
#define TX_RESPONSE(i) ((volatile struct netif_tx_response *)TX_REQUEST(i))
#define RX_REQUEST(i) ((struct netif_rx_request *)(rx + 1) + ((i) & (RX_SLOTS - 1)))
#define RX_RESPONSE(i) ((volatile struct netif_rx_response *)RX_REQUEST(i))

static void on_net(u32 port)
{
    (void)port;
    woken = 1;
}

/* ---- numbers ---- */

static u32 get16(const u8 *at) { return (u32)at[0] << 8 | at[1]; }
static void put16(u8 *at, u32 value) { at[0] = (u8)(value >> 8); at[1] = (u8)value; }

static u32 checksum(const u8 *bytes, u32 n)
{
    u32 sum = 0;
    for (u32 i = 0; i + 1 < n; i += 2) sum += get16(bytes + i);
    if (n & 1) sum += (u32)bytes[n - 1] << 8;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static const char *parse_ip(const char *text, u8 *ip)
{
    for (u32 i = 0; i < 4; i++) {
        ip[i] = (u8)parse_number(text);
        while (*text >= '0' && *text <= '9') text++;
        if (i < 3 && *text++ != '.') fail("net: an address is missing or is none");
    }
    return text;
}

static u32 hex_digit(char c) { return c <= '9' ? (u32)(c - '0') : (u32)((c | 32) - 'a') + 10; }

/* ---- connecting ---- */

static void write_front(const char *name, u32 value)
{
    char path[64], digits[12];
    append(append(path, FRONT), name);
    format_decimal(digits, value);
    xs_must(XS_WRITE, path, digits, &reply);
}

static void await_backend(u32 state)
{
    char path[XS_REPLY_MAX + 16];
    xs_must(XS_READ, FRONT "backend", 0, &reply);
    append(append(path, reply.data), "/state");
    for (u32 tries = 0; tries < 5000; tries++) {
        xs_must(XS_READ, path, 0, &reply);
        if (parse_number(reply.data) == state) return;
        sleep_until(now_ns() + 1000000);
    }
    fail("net: the back end is in state %s, not %u", reply.data, state);
}

static void post(u32 buffer)
{
    struct netif_rx_request *request = RX_REQUEST(rx_prod);
    request->id = (u16)buffer;
    request->gref = buffer_refs[buffer];
    rx_prod++;
}

static struct sring *new_ring(const char *name)
{
    struct sring *ring = alloc_page();
    ring->req_event = ring->rsp_event = 1;
    write_front(name, grant_page(ring, 0, 0));
    return ring;
}

static void connect(void)
{
    await_backend(XenbusStateInitWait);
    xs_must(XS_READ, FRONT "mac", 0, &reply);
    for (u32 i = 0; i < 6; i++) own_mac[i] = (u8)(hex_digit(reply.data[i * 3]) << 4 | hex_digit(reply.data[i * 3 + 1]));
    tx = new_ring("tx-ring-ref");
    rx = new_ring("rx-ring-ref");
    tx_page = alloc_page();
    tx_ref = grant_page(tx_page, 0, 1);
    for (u32 i = 0; i < BUFFERS; i++) {
        buffers[i] = alloc_page();
        buffer_refs[i] = grant_page(buffers[i], 0, 0);
        post(i);
    }
    rx->req_prod = rx_prod;
    struct evtchn_alloc_unbound unbound = { DOMID_SELF, 0, 0 };
    CHECK_RC(event_op(EVTCHNOP_alloc_unbound, &unbound), 0);
    channel = unbound.port;
    bind_handler(channel, on_net);
    write_front("event-channel", channel);
    write_front("request-rx-copy", 1);
    write_front("feature-rx-notify", 1);
    write_front("feature-no-csum-offload", 1);
    write_front("state", XenbusStateConnected);
    await_backend(XenbusStateConnected);
    print("net: connected\n");
}

/* ---- frames ---- */

static void send(u32 length)
{
    struct netif_tx_request *request = TX_REQUEST(tx_prod);
    request->gref = tx_ref;
    request->offset = 0;
    request->flags = 0;
    request->id = (u16)tx_prod;
    request->size = (u16)length;
    u32 old = tx_prod++;
    barrier();
    *(volatile u32 *)&tx->req_prod = tx_prod;
    barrier();
    if (tx_prod - *(volatile u32 *)&tx->req_event < tx_prod - old) CHECK_RC(event_notify(channel), 0);
    while (*(volatile u32 *)&tx->rsp_prod == tx_cons)
        if (!wait_for(&woken, 5000000000ull)) fail("net: a frame was not taken for 5 s");
        else if (*(volatile u32 *)&tx->rsp_prod == tx_cons) woken = 0;
    if (TX_RESPONSE(tx_cons)->id != (u16)old || TX_RESPONSE(tx_cons)->status) fail("net: frame %u was answered %d", old, TX_RESPONSE(tx_cons)->status);
    tx_cons++;
    tx->rsp_event = tx_cons + 1;
    frames_out++;
}

static u8 *new_frame(const u8 *dest, u32 type)
{
    memcpy(tx_page, dest, 6);
    memcpy(tx_page + 6, own_mac, 6);
    put16(tx_page + 12, type);
    return tx_page + 14;
}

static const u8 EVERYBODY[6] = { 255, 255, 255, 255, 255, 255 };

static void send_arp(const u8 *dest, u32 operation, const u8 *target_mac, const u8 *target_ip)
{
    static const u8 HEAD[6] = { 0, 1, 8, 0, 6, 4 };
    u8 *arp = new_frame(dest, 0x0806);
    memcpy(arp, HEAD, 6);
    put16(arp + 6, operation);
    memcpy(arp + 8, own_mac, 6);
    memcpy(arp + 14, own_ip, 4);
    memcpy(arp + 18, target_mac, 6);
    memcpy(arp + 24, target_ip, 4);
    send(42);
}

/* The ICMP message stands at tx_page + 34 already. */
static void send_icmp(const u8 *mac, const u8 *ip, u32 length)
{
    u8 *header = new_frame(mac, 0x0800);
    memset(header, 0, 20);
    header[0] = 0x45;
    put16(header + 2, 20 + length);
    header[8] = 64;
    header[9] = 1;
    memcpy(header + 12, own_ip, 4);
    memcpy(header + 16, ip, 4);
    put16(header + 10, checksum(header, 20));
    put16(header + 22, 0);
    put16(header + 22, checksum(header + 20, length));
    send(34 + length);
}

static u8 pattern(u32 sequence, u32 at) { return (u8)(sequence * 7 + at * 3 + (at >> 8)); }

static void take_arp(const u8 *frame, u32 length)
{
    const u8 *arp = frame + 14;
    if (length < 42 || memcmp(arp + 24, own_ip, 4)) return;
    if (get16(arp + 6) == 1) send_arp(arp + 8, 2, arp + 8, arp + 14);
    else if (memcmp(arp + 14, peer_ip, 4) == 0) {
        memcpy(peer_mac, arp + 8, 6);
        know_peer = 1;
    }
}

static void take_ip(const u8 *frame, u32 length)
{
    const u8 *header = frame + 14, *icmp = header + 20;
    u32 total = get16(header + 2), n = total - 20;
    if (length < 42 || header[0] != 0x45 || header[9] != 1 || memcmp(header + 16, own_ip, 4)) return;
    if (total < 28 || 14 + total > length || checksum(header, 20) || checksum(icmp, n)) fail("net: a damaged packet came");
    if (icmp[0] == 8) {
        memcpy(tx_page + 34, icmp, n);
        tx_page[34] = 0;
        u8 mac[6], ip[4];
        memcpy(mac, frame + 6, 6);
        memcpy(ip, header + 12, 4);
        send_icmp(mac, ip, n);
    } else if (icmp[0] == 0 && memcmp(header + 12, peer_ip, 4) == 0 && get16(icmp + 6) == echo_sequence) {
        if (n != 8 + echo_length) fail("net: %u bytes came back of %u", n - 8, echo_length);
        for (u32 i = 0; i < echo_length; i++)
            if (icmp[8 + i] != pattern(echo_sequence, i)) fail("net: byte %u of an echo is wrong", i);
        if (echo_answered++) fail("net: echo %u came back twice", echo_sequence);
    }
}

/* Looks at everything that has come. */
static void receive(void)
{
    while (*(volatile u32 *)&rx->rsp_prod != rx_cons) {
        volatile struct netif_rx_response *response = RX_RESPONSE(rx_cons);
        u32 buffer = response->id;
        s32 length = response->status;
        if (buffer >= BUFFERS || length < 14 || (response->flags & (NETRXF_more_data | NETRXF_extra_info))) fail("net: buffer %u came back with %d bytes and flags %u", buffer, length, response->flags);
        const u8 *frame = buffers[buffer] + response->offset;
        rx_cons++;
        frames_in++;
        if (get16(frame + 12) == 0x0806) take_arp(frame, (u32)length);
        else if (get16(frame + 12) == 0x0800) take_ip(frame, (u32)length);
        post(buffer);
        barrier();
        u32 old = rx->req_prod;
        *(volatile u32 *)&rx->req_prod = rx_prod;
        barrier();
        if (rx_prod - *(volatile u32 *)&rx->req_event < rx_prod - old) CHECK_RC(event_notify(channel), 0);
        rx->rsp_event = rx_cons + 1;
        barrier();
    }
}

/* Receives until the flag is set or the time is over; false: it is over. */
static int receive_until(volatile const u32 *flag, u64 limit_ns)
{
    u64 deadline = now_ns() + limit_ns;
    for (;;) {
        receive();
        if (*flag) return 1;
        u64 now = now_ns();
        if (now >= deadline) return 0;
        woken = 0;
        barrier();
        if (*(volatile u32 *)&rx->rsp_prod == rx_cons) wait_for(&woken, deadline - now);
    }
}

/* ---- the step ---- */

static void ping(void)
{
    static const u32 LENGTHS[] = { 0, 56, 1, 1472, 777 };
    static const u8 NOBODY[6];
    know_peer = 0;
    for (u32 tries = 0; !know_peer; tries++) {
        if (tries == 50) fail("net: nobody answers for %u.%u.%u.%u", peer_ip[0], peer_ip[1], peer_ip[2], peer_ip[3]);
        send_arp(EVERYBODY, 1, NOBODY, peer_ip);
        receive_until((volatile u32 *)&know_peer, PATIENCE_NS);
    }
    for (u32 i = 0; i < ARRAY_SIZE(LENGTHS); i++) {
        echo_length = LENGTHS[i];
        echo_answered = 0;
        echo_sequence++;
        u8 *icmp = tx_page + 34;
        icmp[0] = 8;
        icmp[1] = 0;
        put16(icmp + 4, 0x7265);
        put16(icmp + 6, echo_sequence);
        for (u32 at = 0; at < echo_length; at++) icmp[8 + at] = pattern(echo_sequence, at);
        send_icmp(peer_mac, peer_ip, 8 + echo_length);
        if (!receive_until(&echo_answered, 1000000000ull)) fail("net: an echo of %u bytes did not come back", echo_length);
    }
    print("net: %u.%u.%u.%u answers\n", peer_ip[0], peer_ip[1], peer_ip[2], peer_ip[3]);
}

void step_net(void)
{
    static char list[64];
    const char *value = option("ip");
    if (!value) return;
    parse_ip(value, own_ip);
    grants_init();
    connect();
    value = option("ping");
    if (value) append(list, value);
    for (const char *at = list; *at; at += *at == ',') {
        at = parse_ip(at, peer_ip);
        ping();
    }
    /* Others may still want an answer. */
    static volatile u32 never;
    for (u32 seen = frames_in - 1; seen != frames_in;) {
        seen = frames_in;
        receive_until(&never, SILENCE_NS);
    }
    print("net: %u frames sent, %u received\n", frames_out, frames_in);
}
