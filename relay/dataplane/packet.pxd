"""Header parsing and building on raw bytes, for the packet path alone.

`core.stun` is the codec; what stands here is the little of it that every packet needs, tested
against it on random bytes (tests/relay/dataplane/test_packet.py).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from relay.dataplane.system cimport (
    AF_INET, AF_INET6, htons, ntohs, sockaddr, sockaddr_in, sockaddr_in6,
)

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint16_t montana_get_16(const uint8_t *p) {
        uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v);
    }
    static inline uint32_t montana_get_32(const uint8_t *p) {
        uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v);
    }
    static inline void montana_put_16(uint8_t *p, uint16_t v) {
        v = __builtin_bswap16(v); memcpy(p, &v, 2);
    }
    static inline void montana_put_32(uint8_t *p, uint32_t v) {
        v = __builtin_bswap32(v); memcpy(p, &v, 4);
    }
    /* Folded 128-bit product: a keyed hash that an outsider who does not know the seed can't
       fill with collisions. */
    #define MONTANA_MIX 0x9E3779B97F4A7C15ull
    static inline uint64_t montana_fold(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    /* CRC-32 (ISO 3309) as FINGERPRINT wants it, eight bytes a step. */
    static uint32_t montana_crc_table[8][256];
    static void montana_crc_prepare(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
            montana_crc_table[0][i] = c;
        }
        for (uint32_t i = 0; i < 256; i++)
            for (int t = 1; t < 8; t++) {
                uint32_t c = montana_crc_table[t - 1][i];
                montana_crc_table[t][i] = montana_crc_table[0][c & 0xFF] ^ (c >> 8);
            }
    }
    static inline uint32_t montana_crc(const uint8_t *p, size_t n) {
        uint32_t c = 0xFFFFFFFFu;
        for (; n >= 8; p += 8, n -= 8) {
            c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
            c = montana_crc_table[7][c & 0xFF] ^ montana_crc_table[6][c >> 8 & 0xFF]
              ^ montana_crc_table[5][c >> 16 & 0xFF] ^ montana_crc_table[4][c >> 24]
              ^ montana_crc_table[3][p[4]] ^ montana_crc_table[2][p[5]]
              ^ montana_crc_table[1][p[6]] ^ montana_crc_table[0][p[7]];
        }
        for (; n; n--) c = montana_crc_table[0][(c ^ *p++) & 0xFF] ^ (c >> 8);
        return ~c;
    }
    """
    uint16_t get_16 "montana_get_16"(const uint8_t *) noexcept
    uint32_t get_32 "montana_get_32"(const uint8_t *) noexcept
    void put_16 "montana_put_16"(uint8_t *, uint16_t) noexcept
    void put_32 "montana_put_32"(uint8_t *, uint32_t) noexcept
    uint64_t fold "montana_fold"(uint64_t, uint64_t) noexcept
    uint64_t MIX "MONTANA_MIX"
    void crc_prepare "montana_crc_prepare"() noexcept
    uint32_t crc32 "montana_crc"(const uint8_t *, size_t) noexcept

cdef enum:
    STUN_HEADER_BYTES = 20
    STUN_MAX_BYTES = 1280       # of what is relayed: requests of ICE have a tenth of it
    MAGIC_COOKIE = 0x2112A442
    SEND_INDICATION = 0x0016
    DATA_INDICATION = 0x0017
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    DONT_FRAGMENT = 0x001A
    FINGERPRINT = 0x8028
    FINGERPRINT_XOR = 0x5354554E
    DATA_INDICATION_HEADER_BYTES = 48
    CHANNEL_HEADER_BYTES = 4

cdef enum PacketClass:
    PACKET_CHANNEL_DATA
    PACKET_SEND
    PACKET_CONTROL
    PACKET_MALFORMED

cdef struct Addr:
    uint64_t high
    uint64_t low
    uint16_t port
    uint16_t family
    uint32_t unused

cdef struct SendIndication:
    Addr peer
    const uint8_t *payload
    uint32_t payload_bytes
    bint dont_fragment

cdef inline bint same_ip(const Addr *a, const Addr *b) noexcept nogil:
    return a.low == b.low and a.high == b.high and a.family == b.family

cdef inline bint same_address(const Addr *a, const Addr *b) noexcept nogil:
    return a.low == b.low and a.port == b.port and a.high == b.high and a.family == b.family

cdef inline void set_ip(Addr *a, const uint8_t *ip, int ip_bytes) noexcept nogil:
    a.unused = 0
    if ip_bytes == 4:
        a.high = 0
        a.low = 0
        memcpy(&a.low, ip, 4)
        a.family = 4
    else:
        memcpy(&a.high, ip, 8)
        memcpy(&a.low, ip + 8, 8)
        a.family = 6

cdef inline int get_ip(const Addr *a, uint8_t *ip) noexcept nogil:
    """Write the packed address and return its length."""
    if a.family == 4:
        memcpy(ip, &a.low, 4)
        return 4
    memcpy(ip, &a.high, 8)
    memcpy(ip + 8, &a.low, 8)
    return 16

cdef inline bint is_link_local(const Addr *a) noexcept nogil:
    """fe80::/10, which means something only together with an interface."""
    cdef const uint8_t *first = <const uint8_t *>&a.high
    return a.family == 6 and first[0] == 0xFE and (first[1] & 0xC0) == 0x80

cdef inline void from_sockaddr(Addr *a, const void *source) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>source
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>source
    if v4.sin_family == AF_INET:
        set_ip(a, <const uint8_t *>&v4.sin_addr, 4)
        a.port = ntohs(v4.sin_port)
    else:
        set_ip(a, <const uint8_t *>&v6.sin6_addr, 16)
        a.port = ntohs(v6.sin6_port)

cdef inline unsigned int to_sockaddr(const Addr *a, void *target) noexcept nogil:
    """Fill a sockaddr_in or sockaddr_in6 and return its length."""
    cdef sockaddr_in *v4 = <sockaddr_in *>target
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>target
    if a.family == 4:
        memset(v4, 0, sizeof(sockaddr_in))
        v4.sin_family = AF_INET
        v4.sin_port = htons(a.port)
        memcpy(&v4.sin_addr, &a.low, 4)
        return sizeof(sockaddr_in)
    memset(v6, 0, sizeof(sockaddr_in6))
    v6.sin6_family = AF_INET6
    v6.sin6_port = htons(a.port)
    get_ip(a, <uint8_t *>&v6.sin6_addr)
    return sizeof(sockaddr_in6)

cdef inline bint is_stun(const uint8_t *data, uint32_t size) noexcept nogil:
    """What an active second does not count: a whole message of STUN (RFC 8489 section 5) of the
    size that such have, not something else behind its header."""
    return (
        STUN_HEADER_BYTES <= size <= STUN_MAX_BYTES and data[0] < 4
        and get_32(data + 4) == MAGIC_COOKIE
        and <uint32_t>get_16(data + 2) + STUN_HEADER_BYTES == size and (size & 3) == 0
    )

cdef inline PacketClass classify_packet(const uint8_t *data, uint32_t size) noexcept nogil:
    """What a datagram from a client is, by its first bytes (RFC 7983 section 7)."""
    if size < CHANNEL_HEADER_BYTES:
        return PACKET_MALFORMED
    if 0x40 <= data[0] <= 0x7F:
        # RFC 8656 section 12.5: over UDP padding may follow, so the datagram may be longer.
        if <uint32_t>get_16(data + 2) + CHANNEL_HEADER_BYTES > size:
            return PACKET_MALFORMED
        return PACKET_CHANNEL_DATA
    if data[0] > 3 or size < STUN_HEADER_BYTES:
        return PACKET_MALFORMED
    if get_32(data + 4) != MAGIC_COOKIE or (size & 3) != 0:
        return PACKET_MALFORMED
    if <uint32_t>get_16(data + 2) + STUN_HEADER_BYTES != size:
        return PACKET_MALFORMED
    return PACKET_SEND if get_16(data) == SEND_INDICATION else PACKET_CONTROL

cdef inline bint parse_send(
    const uint8_t *data, uint32_t size, SendIndication *send
) noexcept nogil:
    """Read a Send indication (RFC 8656 section 11.2) that `classify_packet` has named so.

    True when it holds XOR-PEER-ADDRESS and DATA and nothing that this path does not know;
    anything else (unknown attributes, a FINGERPRINT that does not fit) is for the control plane,
    which answers or discards it by the book.
    """
    cdef uint32_t offset = STUN_HEADER_BYTES
    cdef uint32_t kind, length
    cdef const uint8_t *value
    cdef uint8_t ip[16]
    cdef int i
    cdef bint has_peer = False
    send.payload = NULL
    send.dont_fragment = False
    while offset < size:
        if size - offset < 4:
            return False
        kind = get_16(data + offset)
        length = get_16(data + offset + 2)
        value = data + offset + 4
        if ((length + 3) & ~<uint32_t>3) > size - offset - 4:
            return False
        if kind == XOR_PEER_ADDRESS:
            if not has_peer:
                if length == 8 and value[1] == 1:
                    for i in range(4):
                        ip[i] = value[4 + i] ^ data[4 + i]
                    set_ip(&send.peer, ip, 4)
                elif length == 20 and value[1] == 2:
                    # Cookie and transaction id lie side by side: bytes 4 to 20.
                    for i in range(16):
                        ip[i] = value[4 + i] ^ data[4 + i]
                    set_ip(&send.peer, ip, 16)
                else:
                    return False
                send.peer.port = get_16(value + 2) ^ <uint16_t>(MAGIC_COOKIE >> 16)
                has_peer = True
        elif kind == DATA:
            if send.payload == NULL:
                send.payload = value
                send.payload_bytes = length
        elif kind == DONT_FRAGMENT and length == 0:
            send.dont_fragment = True
        elif kind == FINGERPRINT:
            if length != 4 or offset + 8 != size:
                return False
            if get_32(value) != (crc32(data, offset) ^ <uint32_t>FINGERPRINT_XOR):
                return False
        elif kind < 0x8000:
            return False
        offset += 4 + ((length + 3) & ~<uint32_t>3)
    return has_peer and send.payload != NULL

cdef inline uint32_t build_data_header(
    uint8_t *header, const Addr *peer, uint32_t payload_bytes, uint64_t random_a, uint64_t random_b
) noexcept nogil:
    """Everything of a Data indication (RFC 8656 section 11.4) before its payload; returns its
    length, 36 or 48. The payload follows, then zeros up to a multiple of four."""
    cdef uint8_t ip[16]
    cdef int ip_bytes = get_ip(peer, ip)
    cdef int i
    cdef uint32_t offset
    put_16(header, DATA_INDICATION)
    put_16(header + 2, <uint16_t>(4 + 4 + ip_bytes + 4 + ((payload_bytes + 3) & ~<uint32_t>3)))
    put_32(header + 4, MAGIC_COOKIE)
    memcpy(header + 8, &random_a, 8)
    memcpy(header + 16, &random_b, 4)
    put_16(header + 20, XOR_PEER_ADDRESS)
    put_16(header + 22, <uint16_t>(4 + ip_bytes))
    header[24] = 0
    header[25] = 1 if ip_bytes == 4 else 2
    put_16(header + 26, peer.port ^ <uint16_t>(MAGIC_COOKIE >> 16))
    for i in range(ip_bytes):
        header[28 + i] = ip[i] ^ header[4 + i]
    offset = 28 + ip_bytes
    put_16(header + offset, DATA)
    put_16(header + offset + 2, <uint16_t>payload_bytes)
    return offset + 4
