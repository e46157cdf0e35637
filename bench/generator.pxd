"""What the load generator takes from Linux, and the shape of its state."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <arpa/inet.h>
    #include <errno.h>
    #include <netinet/in.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <time.h>
    #include <unistd.h>
    """
    ctypedef unsigned int socklen_t

    struct sockaddr_storage:
        unsigned short ss_family
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr

    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct timespec:
        long tv_sec
        long tv_nsec

    union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data

    ssize_t send(int fd, const void *data, size_t size, int flags)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int limit, int timeout_ms)
    int clock_gettime(int clock, timespec *result)
    int close(int fd)
    uint16_t htons(uint16_t value)
    int errno
    int AF_INET, AF_INET6, CLOCK_MONOTONIC
    int EPOLLIN, EPOLLET, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int MSG_DONTWAIT, MSG_TRUNC, EAGAIN, ECONNREFUSED


cdef enum:
    BURST_MAXIMUM = 64
    RECEIVE_BATCH = 64
    HEAD_BYTES = 64  # how much of a received datagram is looked at
    DATAGRAM_MAXIMUM = 2048
    WINDOW_BITS = 8192
    WINDOW_WORDS = WINDOW_BITS // 64
    HISTOGRAM_BUCKETS = 64 * 60


cdef struct PathState:
    int send_fd
    int receive_fd
    uint16_t send_channel
    uint16_t receive_channel
    int32_t answered_by  # the path that carries the echo, -1 for none
    bint is_answer
    bint active
    socklen_t destination_bytes  # 0: the socket is connected
    sockaddr_storage destination
    uint64_t sent
    uint64_t delivered
    uint64_t highest  # the greatest sequence number seen
    uint64_t seen[WINDOW_WORDS]


cdef struct Totals:
    uint64_t sent
    uint64_t delivered
    uint64_t duplicates
    uint64_t beyond_window
    uint64_t misdirected
    uint64_t other
    uint64_t send_failures
    uint64_t missed
    uint64_t send_calls
    uint64_t receive_calls
    uint64_t polls


cdef class Generator:
    cdef PathState *paths
    cdef int path_count
    cdef int32_t *order  # the active paths that start traffic, in the caller's order
    cdef int order_count
    cdef int cursor
    cdef int epoll
    cdef int payload_bytes
    cdef int burst
    cdef double rate
    cdef uint32_t tag
    cdef uint64_t next_due_ns
    cdef Totals totals
    cdef uint64_t histogram[HISTOGRAM_BUCKETS]
    cdef dict watched  # receiving descriptor -> how many paths end there
    cdef uint8_t *send_buffers
    cdef uint8_t *answer_buffers
    cdef uint8_t *heads
    cdef mmsghdr send_messages[BURST_MAXIMUM]
    cdef mmsghdr answer_messages[RECEIVE_BATCH]
    cdef mmsghdr receive_messages[RECEIVE_BATCH]
    cdef iovec send_vectors[BURST_MAXIMUM]
    cdef iovec answer_vectors[RECEIVE_BATCH]
    cdef iovec receive_vectors[RECEIVE_BATCH]

    cdef int loop(self, uint64_t until_ns, uint64_t quiet_ns, bint sending) noexcept nogil
    cdef int send_burst(self, PathState *path, int index, uint64_t now_ns) noexcept nogil
    cdef int transmit(
        self, PathState *path, mmsghdr *messages, int count
    ) noexcept nogil
    cdef int receive(self, int fd) noexcept nogil
    cdef int take(self, int fd, uint8_t *head, unsigned int size, uint64_t now_ns) noexcept nogil
    cdef int rebuild_order(self) except -1
    cdef int set_path(self, int index, object path) except -1
