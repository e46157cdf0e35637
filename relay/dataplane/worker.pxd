"""A worker: one thread that moves packets, as a C structure without Python objects."""

from libc.stdint cimport int16_t, uint8_t, uint32_t, uint64_t

from relay.dataplane.packet cimport Addr
from relay.dataplane.ring cimport Ring
from relay.dataplane.system cimport (
    CLOCK_MONOTONIC, clock_gettime, iovec, mmsghdr, timespec,
)
from relay.dataplane.tables cimport MAX_WORKERS, FlowCounters, Tables

cdef enum:
    NS_PER_S = 1000000000
    MAX_LISTENERS = 16
    RECEIVE_SLOTS = 64          # datagrams (or trains of them, with UDP_GRO) a batch
    SLOT_BYTES = 65536 + 192    # a datagram's limit; the odd end spreads slots over cache sets
    HEADROOM_BYTES = 64         # before each datagram, for a header written in place
    CONTROL_BYTES = 128         # ancillary data of one datagram
    MAX_PACKETS = 512           # packets waiting for one flush
    MAX_GROUPS = 128            # runs of packets that one sendmmsg entry carries
    MAX_SEGMENTS = 64           # what the kernel takes in one UDP_SEGMENT send
    GROUP_HASH = 256
    HEADER_BYTES = 48
    EVENTS = 64
    GATHER_NS = 150000          # under load a worker wakes at most this often
    SPIN_NS = 100000000         # how long a low-latency worker spins after the last packet
    CONTROL_PER_SECOND = 500    # what one allocation may have the control plane do before others
    STRANGER_BYTES = 2048       # no request is larger; a client's larger one counts for several
    STOP_EVENT = 0x7FFFFFFF     # what the stop descriptor is called among a worker's events

cdef enum Total:
    TOTAL_PACKETS_RECEIVED
    TOTAL_PACKETS_TO_PEER
    TOTAL_BYTES_TO_PEER
    TOTAL_PACKETS_TO_CLIENT
    TOTAL_BYTES_TO_CLIENT
    TOTAL_SHORT_CUTS
    TOTAL_WAKEUPS
    TOTAL_GATHERS
    TOTAL_RECEIVE_CALLS
    TOTAL_SEND_CALLS
    TOTAL_SEGMENTED_SENDS
    TOTAL_SENT_SINGLY
    TOTAL_INTERRUPTED
    TOTAL_CONTROL
    DROP_MALFORMED
    DROP_LINK_LOCAL
    DROP_NO_ALLOCATION
    DROP_NO_CHANNEL
    DROP_NO_PERMISSION
    DROP_EXPIRED
    DROP_FORBIDDEN
    DROP_RATE
    DROP_SEND_BUFFER
    DROP_MESSAGE_SIZE
    DROP_SEND_ERROR
    DROP_CONTROL_QUEUE
    DROP_ICMP_RATE
    DROP_UNPAID
    TOTALS

cdef struct Packet:
    iovec parts[3]
    uint32_t part_count
    uint32_t size
    int16_t next

cdef struct Group:
    Addr destination
    Addr source                 # the server address, for a listener on a wildcard
    int fd
    int listener                # -1: leaves from a relay
    uint32_t segment_bytes
    uint32_t total_bytes
    int16_t first
    int16_t last
    int16_t count
    bint full
    bint dont_fragment

cdef struct Listener:
    Addr address
    bint wildcard

cdef struct Worker:
    Tables *tables
    uint32_t index              # its lane of counters, and its place in worker_epochs
    bint low_latency
    bint segmentation           # UDP_SEGMENT works here
    int epoll_fd
    int stop_fd
    int control_fd
    uint32_t stop               # atomic
    uint32_t notified           # atomic: control_fd has been written and not yet seen
    uint32_t listener_count
    Listener listeners[MAX_LISTENERS]
    int listen_fds[MAX_LISTENERS]
    FlowCounters *counters
    uint64_t totals[TOTALS]     # atomic, written by this worker alone
    Ring rings[2]               # to the control plane: strangers, clients with an allocation
    bint ring_written
    uint64_t now_ns
    uint64_t now_s
    uint64_t random_a
    uint64_t random_b
    # Load, as moving averages over wake-ups.
    uint64_t average_packets    # 1/256 packets a cycle
    uint64_t average_cycle_ns
    uint64_t cycle_start_ns
    uint32_t cycle_packets
    uint64_t last_packet_ns
    # Receiving.
    uint8_t *slots
    mmsghdr received[RECEIVE_SLOTS]
    iovec received_parts[RECEIVE_SLOTS]
    uint8_t received_names[RECEIVE_SLOTS][32]
    uint8_t received_control[RECEIVE_SLOTS][CONTROL_BYTES]
    uint32_t slots_used
    # Sending.
    Packet packets[MAX_PACKETS]
    uint8_t headers[MAX_PACKETS][HEADER_BYTES]
    uint32_t packet_count
    Group groups[MAX_GROUPS]
    uint32_t group_count
    int16_t group_hash[GROUP_HASH]
    mmsghdr sent[MAX_GROUPS]
    int16_t sent_groups[MAX_GROUPS]
    iovec sent_parts[3 * MAX_PACKETS]
    uint8_t sent_names[MAX_GROUPS][32]
    uint8_t sent_control[MAX_GROUPS][CONTROL_BYTES]

cdef inline uint64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * NS_PER_S + <uint64_t>now.tv_nsec

cdef Worker *create_worker(Tables *tables, uint32_t index, bint low_latency) noexcept
cdef void destroy_worker(Worker *worker) noexcept
cdef void run_worker(Worker *worker) noexcept nogil
cdef void send_from_control(
    Worker *worker, uint32_t allocation, const Addr *peer, uint8_t *payload,
    uint32_t payload_bytes, bint dont_fragment, uint64_t now_ns
) noexcept nogil
cdef void queue_reply(
    Worker *worker, uint32_t listener, const Addr *client, const Addr *server,
    uint8_t *payload, uint32_t payload_bytes
) noexcept nogil
cdef void flush(Worker *worker) noexcept nogil
