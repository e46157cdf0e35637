# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The load generator: sends and counts datagrams over sockets that the caller has set up.

One thread sends, receives and counts, and spins while it waits: it has a core of its own, and a
sleeping receiver would make the server pay for waking it. A browser neither joins datagrams
(UDP_SEGMENT) nor receives joined ones (UDP_GRO), so this does not either.

A payload looks like RTP, since servers look at first bytes:

    0   0x80, 111           version 2, a payload type that Opus often has
    2   uint16              low bits of the sequence number
    4   uint32              low bits of the send time
    8   uint32              index of the path
    12  uint32              tag of this generator; packets of others are not counted
    16  uint64              sequence number of the path, from 1
    24  uint64              send time, CLOCK_MONOTONIC in nanoseconds
    32  filling

Only the first 64 bytes of what arrives are copied out of the kernel; MSG_TRUNC tells the length.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

cdef enum:
    PAYLOAD_MINIMUM = 32
    EVENTS = 256
    POLL_INTERVAL_NS = 1000  # between two looks at the sockets that found nothing
    CATCH_UP_NS = 2_000_000  # what is later than this is not made up for
    FLAT_OUT_POLL_INTERVAL_NS = 100_000  # more packets a call then; latency tells nothing there
    SENT_BETWEEN_LOOKS = 16  # at the clock and the sockets


cdef inline uint64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef inline uint64_t load64(const uint8_t *place) noexcept nogil:
    """Payloads follow a header of four bytes, so they are not aligned to eight."""
    cdef uint64_t value
    memcpy(&value, place, 8)
    return value


cdef inline void store64(uint8_t *place, uint64_t value) noexcept nogil:
    memcpy(place, &value, 8)


cdef inline int bucket_of(uint64_t value) noexcept nogil:
    """Exact below 128, then 64 buckets a power of two: 1.6 % wide at most."""
    cdef int shift = 0
    while value >> shift >= 128:
        shift += 1
    cdef int bucket = shift * 64 + <int>(value >> shift)
    return bucket if bucket < HISTOGRAM_BUCKETS else HISTOGRAM_BUCKETS - 1


def bucket_starts_ns():
    starts = np.empty(HISTOGRAM_BUCKETS, dtype=np.uint64)
    for bucket in range(HISTOGRAM_BUCKETS):
        shift = max(0, bucket // 64 - 1)
        starts[bucket] = min((bucket - shift * 64) << shift, 2**63)
    return starts


cdef class Generator:
    def __cinit__(self):
        self.epoll = -1

    def __init__(self, paths, *, int payload_bytes, int burst=1, double rate=0.0, tag=None):
        cdef int index
        if not PAYLOAD_MINIMUM <= payload_bytes <= DATAGRAM_MAXIMUM - 4:
            raise ValueError(
                f"payload_bytes is from {PAYLOAD_MINIMUM} to {DATAGRAM_MAXIMUM - 4}"
            )
        if not 1 <= burst <= BURST_MAXIMUM:
            raise ValueError(f"burst is from 1 to {BURST_MAXIMUM}")
        if rate < 0:
            raise ValueError("rate is packets a second, 0 for flat out")
        if not paths:
            raise ValueError("without a path there is no traffic")
        assert self.paths == NULL, "initialised once"
        self.payload_bytes = payload_bytes
        self.burst = burst
        self.rate = rate
        # Telling apart is all that a tag is for; the clock's low bits do that.
        self.tag = (monotonic_ns() & 0xFFFFFFFF) if tag is None else tag
        self.watched = {}
        self.path_count = len(paths)
        self.paths = <PathState *>calloc(self.path_count, sizeof(PathState))
        self.order = <int32_t *>calloc(self.path_count, sizeof(int32_t))
        self.send_buffers = <uint8_t *>calloc(BURST_MAXIMUM, DATAGRAM_MAXIMUM)
        self.answer_buffers = <uint8_t *>calloc(RECEIVE_BATCH, DATAGRAM_MAXIMUM)
        self.heads = <uint8_t *>calloc(RECEIVE_BATCH, HEAD_BYTES)
        if (
            self.paths == NULL
            or self.order == NULL
            or self.send_buffers == NULL
            or self.answer_buffers == NULL
            or self.heads == NULL
        ):
            raise MemoryError
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, "epoll_create1")
        for index in range(BURST_MAXIMUM):
            self.send_vectors[index].iov_base = self.send_buffers + index * DATAGRAM_MAXIMUM
            self.send_messages[index].msg_hdr.msg_iov = &self.send_vectors[index]
            self.send_messages[index].msg_hdr.msg_iovlen = 1
            memset(self.send_buffers + index * DATAGRAM_MAXIMUM, 0x5A, DATAGRAM_MAXIMUM)
        for index in range(RECEIVE_BATCH):
            self.answer_vectors[index].iov_base = self.answer_buffers + index * DATAGRAM_MAXIMUM
            self.answer_messages[index].msg_hdr.msg_iov = &self.answer_vectors[index]
            self.answer_messages[index].msg_hdr.msg_iovlen = 1
            memset(self.answer_buffers + index * DATAGRAM_MAXIMUM, 0x5A, DATAGRAM_MAXIMUM)
            self.receive_vectors[index].iov_base = self.heads + index * HEAD_BYTES
            self.receive_vectors[index].iov_len = HEAD_BYTES
            self.receive_messages[index].msg_hdr.msg_iov = &self.receive_vectors[index]
            self.receive_messages[index].msg_hdr.msg_iovlen = 1
        for index, path in enumerate(paths):
            self.set_path(index, path)
        for index, path in enumerate(paths):
            if path.answers is not None:
                answered = &self.paths[<int>path.answers]
                if answered.receive_fd != self.paths[index].send_fd or answered.is_answer:
                    raise ValueError("an answer starts at the socket where what it answers ends")
                answered.answered_by = index
        self.rebuild_order()

    def __dealloc__(self):
        if self.epoll >= 0:
            close(self.epoll)
        free(self.paths)
        free(self.order)
        free(self.send_buffers)
        free(self.answer_buffers)
        free(self.heads)

    cdef int set_path(self, int index, object path) except -1:
        cdef PathState *state = &self.paths[index]
        cdef sockaddr_in *v4 = <sockaddr_in *>&state.destination
        cdef sockaddr_in6 *v6 = <sockaddr_in6 *>&state.destination
        cdef bytes ip
        if path.answers is not None and not 0 <= path.answers < self.path_count:
            raise ValueError("an answer names a path by its index")
        state.send_fd = path.send_fd
        state.receive_fd = path.receive_fd
        state.send_channel = path.send_channel
        state.receive_channel = path.receive_channel
        state.answered_by = -1
        state.is_answer = path.answers is not None
        memset(&state.destination, 0, sizeof(sockaddr_storage))
        state.destination_bytes = 0
        if path.destination is not None:
            ip = path.destination.ip
            if len(ip) == 4:
                v4.sin_family = AF_INET
                v4.sin_port = htons(path.destination.port)
                memcpy(&v4.sin_addr, <const char *>ip, 4)
                state.destination_bytes = sizeof(sockaddr_in)
            else:
                assert len(ip) == 16
                v6.sin6_family = AF_INET6
                v6.sin6_port = htons(path.destination.port)
                memcpy(&v6.sin6_addr, <const char *>ip, 16)
                state.destination_bytes = sizeof(sockaddr_in6)
        state.active = True
        self.watch(state.receive_fd)
        return 0

    def watch(self, int fd):
        cdef epoll_event event
        self.watched[fd] = self.watched.get(fd, 0) + 1
        if self.watched[fd] > 1:
            return
        memset(&event, 0, sizeof(epoll_event))
        # Edge-triggered: `receive` drains a socket, and a ready one is not looked at twice.
        event.events = <uint32_t>(EPOLLIN | EPOLLET)
        event.data.fd = fd
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, f"descriptor {fd} can't be watched")

    def unwatch(self, int fd):
        cdef epoll_event event
        self.watched[fd] -= 1
        if self.watched[fd] == 0:
            del self.watched[fd]
            memset(&event, 0, sizeof(epoll_event))
            if epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, &event) < 0:
                raise OSError(errno, f"descriptor {fd} was not watched")

    cdef int rebuild_order(self) except -1:
        cdef int index
        self.order_count = 0
        for index in range(self.path_count):
            if self.paths[index].active and not self.paths[index].is_answer:
                self.order[self.order_count] = index
                self.order_count += 1
        if self.cursor >= self.order_count:
            self.cursor = 0
        return 0

    def set_active(self, int index, bint active):
        if not 0 <= index < self.path_count:
            raise IndexError(index)
        self.paths[index].active = active
        self.rebuild_order()

    def replace(self, int index, path):
        if not 0 <= index < self.path_count:
            raise IndexError(index)
        if self.paths[index].active:
            raise ValueError("a path is made inactive before it is replaced")
        if path.answers is not None or self.paths[index].answered_by >= 0:
            raise ValueError("paths with answers stay as they are")
        self.unwatch(self.paths[index].receive_fd)
        self.set_path(index, path)
        self.rebuild_order()

    def set_rate(self, double rate):
        if rate < 0:
            raise ValueError("rate is packets a second, 0 for flat out")
        self.rate = rate

    def run(self, double duration_s):
        cdef uint64_t until_ns = monotonic_ns() + <uint64_t>(duration_s * 1e9)
        with nogil:
            self.loop(until_ns, 0, True)

    def drain(self, double quiet_s=0.2, double timeout_s=3.0):
        cdef uint64_t until_ns = monotonic_ns() + <uint64_t>(timeout_s * 1e9)
        cdef uint64_t quiet_ns = <uint64_t>(quiet_s * 1e9)
        with nogil:
            self.loop(until_ns, quiet_ns, False)

    def reset(self):
        memset(&self.totals, 0, sizeof(Totals))
        memset(self.histogram, 0, sizeof(self.histogram))

    def counters(self):
        return {
            "sent": self.totals.sent,
            "delivered": self.totals.delivered,
            "duplicates": self.totals.duplicates,
            "beyond_window": self.totals.beyond_window,
            "misdirected": self.totals.misdirected,
            "other": self.totals.other,
            "send_failures": self.totals.send_failures,
            "missed": self.totals.missed,
            "send_calls": self.totals.send_calls,
            "receive_calls": self.totals.receive_calls,
            "polls": self.totals.polls,
        }

    def path_counters(self):
        counters = np.empty((self.path_count, 2), dtype=np.uint64)
        cdef uint64_t[:, ::1] view = counters
        cdef int index
        for index in range(self.path_count):
            view[index, 0] = self.paths[index].sent
            view[index, 1] = self.paths[index].delivered
        return counters

    def latency_histogram(self):
        counts = np.empty(HISTOGRAM_BUCKETS, dtype=np.uint64)
        cdef uint64_t[::1] view = counts
        memcpy(&view[0], self.histogram, sizeof(self.histogram))
        return counts

    cdef int loop(self, uint64_t until_ns, uint64_t quiet_ns, bint sending) noexcept nogil:
        """Send what is due (when `sending`) and receive, until the clock says `until_ns`, or
        nothing has arrived for `quiet_ns` (0: that does not matter)."""
        cdef epoll_event events[EVENTS]
        cdef uint64_t now_ns = monotonic_ns()
        cdef uint64_t next_poll_ns = 0
        cdef uint64_t last_arrival_ns = now_ns
        cdef uint64_t interval_ns = 0
        cdef uint64_t skipped
        cdef int count, index, turns
        if self.rate > 0:
            interval_ns = <uint64_t>(1e9 * self.burst / self.rate)
            if interval_ns == 0:
                interval_ns = 1
        if sending and (self.next_due_ns == 0 or self.next_due_ns + CATCH_UP_NS < now_ns):
            self.next_due_ns = now_ns
        while now_ns < until_ns:
            if sending and self.order_count > 0:
                turns = 0
                if interval_ns == 0:
                    while turns < SENT_BETWEEN_LOOKS:
                        index = self.order[self.cursor]
                        self.send_burst(&self.paths[index], index, now_ns)
                        self.cursor = self.cursor + 1 if self.cursor + 1 < self.order_count else 0
                        turns += self.burst
                    now_ns = monotonic_ns()
                else:
                    if self.next_due_ns + CATCH_UP_NS < now_ns:
                        skipped = (now_ns - self.next_due_ns) // interval_ns
                        self.totals.missed += skipped * <uint64_t>self.burst
                        self.next_due_ns += skipped * interval_ns
                    while self.next_due_ns <= now_ns and turns < SENT_BETWEEN_LOOKS:
                        index = self.order[self.cursor]
                        self.send_burst(&self.paths[index], index, now_ns)
                        self.cursor = self.cursor + 1 if self.cursor + 1 < self.order_count else 0
                        self.next_due_ns += interval_ns
                        turns += self.burst
                        now_ns = monotonic_ns()
            if now_ns >= next_poll_ns:
                count = epoll_wait(self.epoll, events, EVENTS, 0)
                self.totals.polls += 1
                for index in range(count):
                    self.receive(events[index].data.fd)
                now_ns = monotonic_ns()
                if count > 0:
                    last_arrival_ns = now_ns
                if sending and interval_ns == 0:
                    next_poll_ns = now_ns + FLAT_OUT_POLL_INTERVAL_NS
                elif count > 0:
                    next_poll_ns = now_ns
                else:
                    next_poll_ns = now_ns + POLL_INTERVAL_NS
            else:
                now_ns = monotonic_ns()
            if quiet_ns != 0 and now_ns - last_arrival_ns > quiet_ns:
                break
        return 0

    cdef int send_burst(self, PathState *path, int index, uint64_t now_ns) noexcept nogil:
        """Send `burst` datagrams back to back on one path; what the kernel takes is counted."""
        cdef int slot
        cdef uint64_t sequence
        for slot in range(self.burst):
            sequence = path.sent + 1 + slot
            self.send_vectors[slot].iov_len = write_datagram(
                self.send_buffers + slot * DATAGRAM_MAXIMUM,
                path.send_channel, self.payload_bytes, index, self.tag, sequence, now_ns,
            )
        return self.transmit(path, self.send_messages, self.burst)

    cdef int transmit(self, PathState *path, mmsghdr *messages, int count) noexcept nogil:
        cdef int slot, accepted
        cdef int done = 0
        cdef int refusals = 0
        cdef iovec *vector = messages.msg_hdr.msg_iov
        if count == 1 and path.destination_bytes == 0:  # the cheaper call
            self.totals.send_calls += 1
            if send(path.send_fd, vector.iov_base, vector.iov_len, MSG_DONTWAIT) >= 0:
                path.sent += 1
                self.totals.sent += 1
                return 0
        for slot in range(count):
            if path.destination_bytes:
                messages[slot].msg_hdr.msg_name = &path.destination
                messages[slot].msg_hdr.msg_namelen = path.destination_bytes
            else:
                messages[slot].msg_hdr.msg_name = NULL
                messages[slot].msg_hdr.msg_namelen = 0
        while done < count:
            accepted = sendmmsg(path.send_fd, messages + done, count - done, MSG_DONTWAIT)
            self.totals.send_calls += 1
            if accepted > 0:
                done += accepted
            elif errno == ECONNREFUSED and refusals < 2:
                refusals += 1  # an ICMP error of an earlier datagram, told once
            else:
                break
        path.sent += done
        self.totals.sent += done
        # Sequence numbers have no gap: those of datagrams that were not taken come again.
        self.totals.send_failures += count - done
        return 0

    cdef int receive(self, int fd) noexcept nogil:
        """Take everything that waits at `fd`, and send the answers that it asks for."""
        cdef int count, slot, answers, path_index
        cdef uint64_t now_ns
        cdef PathState *answer
        cdef uint8_t *head
        cdef uint8_t *payload
        while True:
            count = recvmmsg(
                fd, self.receive_messages, RECEIVE_BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL
            )
            self.totals.receive_calls += 1
            if count < 0:
                if errno == ECONNREFUSED:
                    continue  # an ICMP error of an earlier datagram, told once
                return 0
            now_ns = monotonic_ns()
            answers = 0
            answer = NULL
            for slot in range(count):
                head = self.heads + slot * HEAD_BYTES
                path_index = self.take(fd, head, self.receive_messages[slot].msg_len, now_ns)
                if path_index < 0 or self.paths[path_index].answered_by < 0:
                    continue
                path_index = self.paths[path_index].answered_by
                if answer != NULL and answer != &self.paths[path_index]:
                    self.transmit(answer, self.answer_messages, answers)
                    answers = 0
                answer = &self.paths[path_index]
                payload = head + 4 if head[0] < 0x80 else head
                self.answer_vectors[answers].iov_len = write_datagram(
                    self.answer_buffers + answers * DATAGRAM_MAXIMUM,
                    answer.send_channel, self.payload_bytes, path_index, self.tag,
                    answer.sent + 1 + answers, load64(payload + 24),
                )
                answers += 1
            if answers:
                self.transmit(answer, self.answer_messages, answers)
            if count < RECEIVE_BATCH:
                return 0

    cdef int take(self, int fd, uint8_t *head, unsigned int size, uint64_t now_ns) noexcept nogil:
        """Count one received datagram; the index of its path, -1 where it does not count."""
        cdef uint8_t *payload = head
        cdef uint32_t channel = 0
        cdef uint32_t payload_bytes = size
        cdef uint32_t index
        cdef uint64_t sequence, position
        cdef PathState *path
        if size >= 4 and head[0] & 0xC0 == 0x40:
            channel = <uint32_t>head[0] << 8 | head[1]
            payload_bytes = <uint32_t>head[2] << 8 | head[3]
            payload = head + 4
            # Padding is allowed over UDP, not asked for (RFC 8656 section 12.5).
            if size < payload_bytes + 4 or size > payload_bytes + 7:
                self.totals.other += 1
                return -1
        if payload_bytes < PAYLOAD_MINIMUM or payload[0] != 0x80:
            self.totals.other += 1
            return -1
        if (<uint32_t *>(payload + 12))[0] != self.tag:
            self.totals.other += 1
            return -1
        index = (<uint32_t *>(payload + 8))[0]
        if index >= <uint32_t>self.path_count:
            self.totals.misdirected += 1
            return -1
        path = &self.paths[index]
        sequence = load64(payload + 16)
        if (
            path.receive_fd != fd
            or path.receive_channel != channel
            or payload_bytes != <uint32_t>self.payload_bytes
            or sequence == 0
            or sequence > path.sent
        ):
            self.totals.misdirected += 1
            return -1
        if sequence > path.highest:
            if sequence - path.highest >= WINDOW_BITS:
                memset(path.seen, 0, sizeof(path.seen))
            else:
                for position in range(path.highest + 1, sequence):
                    path.seen[position // 64 % WINDOW_WORDS] &= ~(<uint64_t>1 << (position % 64))
            path.highest = sequence
        elif path.highest - sequence >= WINDOW_BITS:
            self.totals.beyond_window += 1
            return -1
        elif path.seen[sequence // 64 % WINDOW_WORDS] >> (sequence % 64) & 1:
            self.totals.duplicates += 1
            return -1
        path.seen[sequence // 64 % WINDOW_WORDS] |= <uint64_t>1 << (sequence % 64)
        path.delivered += 1
        self.totals.delivered += 1
        if path.answered_by < 0:
            self.histogram[bucket_of(now_ns - load64(payload + 24))] += 1
        return <int>index


cdef inline size_t write_datagram(
    uint8_t *buffer, uint16_t channel, int payload_bytes, int index, uint32_t tag,
    uint64_t sequence, uint64_t sent_ns,
) noexcept nogil:
    """Write header and payload, whose filling stands already; returns the datagram's length."""
    cdef uint8_t *payload = buffer
    if channel:
        buffer[0] = channel >> 8
        buffer[1] = channel & 0xFF
        buffer[2] = payload_bytes >> 8
        buffer[3] = payload_bytes & 0xFF
        payload = buffer + 4
    payload[0] = 0x80
    payload[1] = 111
    (<uint16_t *>(payload + 2))[0] = htons(<uint16_t>sequence)
    (<uint32_t *>(payload + 4))[0] = <uint32_t>sent_ns
    (<uint32_t *>(payload + 8))[0] = <uint32_t>index
    (<uint32_t *>(payload + 12))[0] = tag
    store64(payload + 16, sequence)
    store64(payload + 24, sent_ns)
    return payload + payload_bytes - buffer
