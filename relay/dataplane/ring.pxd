"""A ring of records from one worker to the control plane: one writer, one reader, no lock."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from relay.dataplane.atomic cimport load_acquire_64, load_relaxed_64, store_release_64
from relay.dataplane.packet cimport Addr

cdef enum:
    RING_BYTES = 262144         # a power of two

cdef enum RecordKind:
    RECORD_SKIP                 # the rest up to the ring's end is not used
    RECORD_DATAGRAM
    RECORD_ICMP

cdef struct Record:
    uint32_t size               # of the whole record, a multiple of 8
    uint32_t kind
    uint32_t listener           # ICMP: the allocation
    uint32_t payload_bytes
    Addr client                 # ICMP: the peer
    Addr server
    uint8_t icmp_type
    uint8_t icmp_code
    uint32_t icmp_data
    uint32_t generation         # ICMP: of the allocation's slot

cdef struct Ring:
    uint8_t *bytes
    uint64_t written            # atomic: bytes ever written
    uint64_t padding[7]         # the two ends on cache lines of their own
    uint64_t taken              # atomic: bytes ever taken

cdef inline bint put_record(Ring *ring, Record *record, const uint8_t *payload) noexcept nogil:
    """False when the control plane has fallen behind and the ring is full."""
    cdef uint64_t written = load_relaxed_64(&ring.written)
    cdef uint64_t room = RING_BYTES - (written - load_acquire_64(&ring.taken))
    cdef uint64_t place = written & (RING_BYTES - 1)
    cdef uint64_t size = (sizeof(Record) + record.payload_bytes + 7) & ~<uint64_t>7
    cdef uint64_t to_end = RING_BYTES - place
    cdef Record *skip
    if size > to_end:
        if to_end + size > room:
            return False
        # Records are multiples of 8 bytes, so the first two fields of a skip always fit.
        skip = <Record *>(ring.bytes + place)
        skip.size = <uint32_t>to_end
        skip.kind = RECORD_SKIP
        written += to_end
        place = 0
    elif size > room:
        return False
    record.size = <uint32_t>size
    memcpy(ring.bytes + place, record, sizeof(Record))
    if record.payload_bytes:
        memcpy(ring.bytes + place + sizeof(Record), payload, record.payload_bytes)
    store_release_64(&ring.written, written + size)
    return True

cdef inline Record *peek_record(Ring *ring) noexcept nogil:
    """The oldest record, valid until `drop_record`; NULL when there is none."""
    cdef uint64_t taken = load_relaxed_64(&ring.taken)
    cdef uint64_t written = load_acquire_64(&ring.written)
    cdef Record *record
    if taken == written:
        return NULL
    record = <Record *>(ring.bytes + (taken & (RING_BYTES - 1)))
    if record.kind == RECORD_SKIP:
        taken += record.size
        store_release_64(&ring.taken, taken)
        record = <Record *>ring.bytes
    return record

cdef inline void drop_record(Ring *ring, const Record *record) noexcept nogil:
    store_release_64(&ring.taken, load_relaxed_64(&ring.taken) + record.size)
