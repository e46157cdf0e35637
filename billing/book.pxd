from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    CURRENCY_COUNT = 2
    BLOCK_ACCOUNTS = 4096

cdef enum:
    FLAG_SYSTEM = 1
    FLAG_FROZEN = 2
    FLAG_CLOSED = 4

cdef struct Undo:
    uint32_t account
    uint32_t currency
    int64_t posted
    int64_t reserved
    int64_t incoming
    uint64_t last

cdef packed struct Record:
    uint8_t id[16]
    uint8_t reference[16]
    int64_t amount
    int64_t pending_amount
    int64_t time_ns
    uint64_t previous_debit
    uint64_t previous_credit
    uint32_t debit
    uint32_t credit
    uint32_t timeout_s
    uint16_t code
    uint16_t flags
    uint8_t kind
    uint8_t currency
    uint8_t unused[6]

cdef class Book:
    cdef readonly Py_ssize_t count
    cdef int64_t[::1] posted
    cdef int64_t[::1] reserved
    cdef int64_t[::1] incoming
    cdef int64_t[::1] held
    cdef uint64_t[::1] last
    cdef uint32_t[::1] flags
    cdef uint8_t[::1] dirty
    cdef Undo *_undo
    cdef Py_ssize_t _undo_count
    cdef Py_ssize_t _undo_capacity
    cdef list _undo_python
    cdef readonly dict pending
    cdef readonly dict refunded
    cdef readonly dict heirs
    cdef readonly dict absorbed

    cdef int _save(self, uint32_t account, uint32_t currency) except -1
    cdef const Record *_earlier(
        self, bytes raw_id, Record *base, dict seen, object existing
    ) except? NULL
    cdef int _remember(self, dict table, object key) except -1
    cdef int _apply_one(
        self, bytes raw_id, Record *record, Record *base, dict seen, object existing
    ) except -1
    cdef int _move(
        self, bytes raw_id, Record *record, Record *base, dict seen, object existing
    ) except -1
    cdef int _resolve(self, Record *record, Record *base, dict seen, object existing) except -1
