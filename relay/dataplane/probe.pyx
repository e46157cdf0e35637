"""What the packet path reads in a datagram and writes before one, as Python values.

The inline functions of packet.pxd have no other door; tests hold them against `core.stun`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from relay.dataplane.packet cimport (
    DATA_INDICATION_HEADER_BYTES, Addr, PacketClass, SendIndication, build_data_header,
    classify_packet, crc_prepare, get_ip, is_link_local, is_stun, parse_send, set_ip,
)

CLASSES = ("channel_data", "send", "control", "malformed")
crc_prepare()


def classify(bytes datagram):
    """The name in `CLASSES` of what a datagram from a client is."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(datagram)
    return CLASSES[<int>classify_packet(data, <uint32_t>len(datagram))]


def counts_as_stun(bytes datagram):
    """Whether a relayed payload is STUN, which makes no second an active one."""
    return is_stun(<const uint8_t *>PyBytes_AS_STRING(datagram), <uint32_t>len(datagram))


def counts_as_link_local(bytes ip):
    """Whether a client of this address is not served."""
    cdef Addr address
    set_ip(&address, <const uint8_t *>PyBytes_AS_STRING(ip), <int>len(ip))
    return is_link_local(&address)


def read_send(bytes datagram):
    """(peer IP, peer port, payload, whether DF is asked for) of what `classify` has called "send";
    None where the packet path leaves it to the control plane."""
    cdef SendIndication send
    cdef uint8_t ip[16]
    cdef int ip_bytes
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(datagram)
    memset(&send, 0, sizeof(send))
    if not parse_send(data, <uint32_t>len(datagram), &send):
        return None
    ip_bytes = get_ip(&send.peer, ip)
    return (
        PyBytes_FromStringAndSize(<const char *>ip, ip_bytes),
        send.peer.port,
        PyBytes_FromStringAndSize(<const char *>send.payload, send.payload_bytes),
        send.dont_fragment,
    )


def write_data(bytes peer_ip, int peer_port, bytes payload, uint64_t random_a, uint64_t random_b):
    """A whole Data indication, padded."""
    cdef uint8_t header[DATA_INDICATION_HEADER_BYTES]
    cdef Addr peer
    cdef uint32_t size
    set_ip(&peer, <const uint8_t *>PyBytes_AS_STRING(peer_ip), <int>len(peer_ip))
    peer.port = peer_port
    size = build_data_header(header, &peer, <uint32_t>len(payload), random_a, random_b)
    return (
        PyBytes_FromStringAndSize(<const char *>header, size)
        + payload + bytes(-len(payload) % 4)
    )
