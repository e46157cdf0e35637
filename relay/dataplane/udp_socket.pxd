"""One UDP socket of the data plane: how it is made, bound, and asked."""

from libc.stdint cimport uint64_t

from relay.dataplane.packet cimport Addr

cdef int set_option(int fd, int level, int name, int value) noexcept nogil
cdef int get_option(int fd, int level, int name) noexcept nogil
cdef int new_socket(int family, int buffer_bytes, bint shared) except -1
cdef int bind_socket(int fd, const Addr *address) except -1
cdef void let_fragment(int fd, int family) noexcept nogil
cdef void forbid_fragments(int fd, int family) noexcept nogil
cdef uint64_t dropped_by_kernel(int fd) noexcept nogil
