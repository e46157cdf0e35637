"""The packet path: receive a batch, look each packet up, send what results in few system calls."""

from libc.stdint cimport int16_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from relay.dataplane.atomic cimport (
    bump_64, exchange_32, load_acquire_32, load_relaxed_32, load_relaxed_64, load_sequential_32,
    load_sequential_64, store_sequential_64, swap_64,
)
from relay.dataplane.packet cimport (
    CHANNEL_HEADER_BYTES, MIX, PACKET_CHANNEL_DATA, PACKET_MALFORMED, PACKET_SEND, Addr,
    PacketClass, SendIndication, build_data_header, classify_packet, crc_prepare, fold,
    from_sockaddr, get_16, get_ip, is_link_local, parse_send, put_16, same_address, set_ip,
    to_sockaddr,
)
from relay.dataplane.ring cimport RECORD_DATAGRAM, RECORD_ICMP, RING_BYTES, Record, put_record
from relay.dataplane.system cimport *
from relay.dataplane.tables cimport (
    OWN_NO, OWN_RELAYS_ONLY, Allocation, Flow, FlowCounters, Relay, Tables, find_allocation,
    find_channel, find_peer, find_relay, is_endpoint, may_relay, to_inner, within_second,
)
from relay.dataplane.udp_socket cimport forbid_fragments, let_fragment

cdef uint8_t[4] ZEROS = [0, 0, 0, 0]

cdef enum:
    RATE_BURST_NS = 100000000   # a limited allocation may send this much time's bytes at once
    TIMER_SLACK_NS = 1000
    MIN_SLEEP_NS = 30000


cdef Worker *create_worker(Tables *tables, uint32_t index, bint low_latency) noexcept:
    """NULL when there is no memory or descriptor for it."""
    cdef Worker *worker = <Worker *>calloc(1, sizeof(Worker))
    cdef uint32_t i
    if worker == NULL:
        return NULL
    crc_prepare()
    worker.tables = tables
    worker.index = index
    worker.counters = tables.counters[index]
    worker.low_latency = low_latency
    worker.epoll_fd = -1
    worker.stop_fd = -1
    worker.slots = <uint8_t *>calloc(RECEIVE_SLOTS, SLOT_BYTES + HEADROOM_BYTES)
    worker.rings[0].bytes = <uint8_t *>calloc(1, RING_BYTES)
    worker.rings[1].bytes = <uint8_t *>calloc(1, RING_BYTES)
    worker.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    worker.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if (
        worker.slots == NULL or worker.rings[0].bytes == NULL or worker.rings[1].bytes == NULL
        or worker.epoll_fd < 0 or worker.stop_fd < 0
    ):
        destroy_worker(worker)
        return NULL
    for i in range(RECEIVE_SLOTS):
        worker.received_parts[i].iov_base = (
            worker.slots + i * (SLOT_BYTES + HEADROOM_BYTES) + HEADROOM_BYTES
        )
        worker.received_parts[i].iov_len = 65535
        worker.received[i].msg_hdr.msg_name = &worker.received_names[i][0]
        worker.received[i].msg_hdr.msg_iov = &worker.received_parts[i]
        worker.received[i].msg_hdr.msg_iovlen = 1
        worker.received[i].msg_hdr.msg_control = &worker.received_control[i][0]
    for i in range(GROUP_HASH):
        worker.group_hash[i] = -1
    return worker


cdef void destroy_worker(Worker *worker) noexcept:
    cdef uint32_t i
    if worker == NULL:
        return
    for i in range(worker.listener_count):
        close(worker.listen_fds[i])
    if worker.epoll_fd >= 0:
        close(worker.epoll_fd)
    if worker.stop_fd >= 0:
        close(worker.stop_fd)
    free(worker.slots)
    free(worker.rings[0].bytes)
    free(worker.rings[1].bytes)
    free(worker)


# ---------------------------------------------------------------- time

cdef inline void set_now(Worker *worker, uint64_t now_ns) noexcept nogil:
    worker.now_ns = now_ns
    worker.now_s = now_ns // NS_PER_S


cdef inline void count(Worker *worker, Total total, uint64_t amount) noexcept nogil:
    bump_64(&worker.totals[<int>total], amount)


# ---------------------------------------------------------------- sending

cdef Packet *new_packet(Worker *worker) noexcept nogil:
    """Room for one more packet; what waits is sent first when there is none."""
    cdef Packet *packet
    if worker.packet_count == MAX_PACKETS or worker.group_count == MAX_GROUPS:
        flush(worker)
    packet = &worker.packets[worker.packet_count]
    packet.part_count = 0
    packet.size = 0
    packet.next = -1
    return packet


cdef inline void add_part(Packet *packet, const uint8_t *bytes, uint32_t size) noexcept nogil:
    packet.parts[packet.part_count].iov_base = <void *>bytes
    packet.parts[packet.part_count].iov_len = size
    packet.part_count += 1
    packet.size += size


cdef inline uint32_t bucket_of(const Addr *destination, int fd) noexcept nogil:
    """Where `group_hash` names the run that leaves by `fd` for a destination."""
    return <uint32_t>fold(
        destination.low ^ <uint64_t>fd << 32, destination.high ^ destination.port ^ MIX
    ) & (GROUP_HASH - 1)


cdef void submit(
    Worker *worker, Packet *packet, int fd, int listener, const Addr *destination,
    const Addr *source, bint dont_fragment
) noexcept nogil:
    """Put the packet into the run of its destination, so that one send carries them all.

    With UDP_SEGMENT all packets of a run are of one size, but the last, which may be shorter.
    """
    cdef int16_t index = <int16_t>worker.packet_count
    cdef uint32_t bucket = bucket_of(destination, fd)
    cdef int16_t place = worker.group_hash[bucket]
    cdef Group *group
    worker.packet_count += 1
    if place >= 0:
        group = &worker.groups[place]
        if (
            group.fd == fd and not group.full and same_address(&group.destination, destination)
            and group.dont_fragment == dont_fragment
            # An empty datagram can't be told from the end of the run that carries it.
            and 0 < packet.size <= group.segment_bytes
            and group.total_bytes + packet.size <= 65000
            and (listener < 0 or same_address(&group.source, source))
        ):
            worker.packets[group.last].next = index
            group.last = index
            group.count += 1
            group.total_bytes += packet.size
            group.full = packet.size < group.segment_bytes or group.count == MAX_SEGMENTS
            return
    place = <int16_t>worker.group_count
    worker.group_count += 1
    worker.group_hash[bucket] = place
    group = &worker.groups[place]
    group.destination = destination[0]
    if listener >= 0:
        group.source = source[0]
    group.fd = fd
    group.listener = listener
    group.dont_fragment = dont_fragment
    group.segment_bytes = packet.size
    group.total_bytes = packet.size
    group.first = index
    group.last = index
    group.count = 1
    group.full = not worker.segmentation or packet.size == 0


cdef size_t put_control(
    uint8_t *control, const Worker *worker, const Group *group, uint32_t segment_bytes
) noexcept nogil:
    """Ancillary data of one send: segment size, and the source address where the socket's own
    does not tell it. Returns its length."""
    cdef size_t size = 0
    cdef cmsghdr *header
    cdef in_pktinfo *v4
    cdef in6_pktinfo *v6
    cdef uint8_t ip[16]
    if segment_bytes:
        header = <cmsghdr *>control
        header.cmsg_level = SOL_UDP
        header.cmsg_type = UDP_SEGMENT
        header.cmsg_len = CMSG_LEN(2)
        (<uint8_t *>CMSG_DATA(header))[0] = segment_bytes & 0xFF
        (<uint8_t *>CMSG_DATA(header))[1] = (segment_bytes >> 8) & 0xFF
        size += CMSG_SPACE(2)
    if group.listener >= 0 and worker.listeners[group.listener].wildcard:
        header = <cmsghdr *>(control + size)
        get_ip(&group.source, ip)
        if group.source.family == 4:
            header.cmsg_level = IPPROTO_IP
            header.cmsg_type = IP_PKTINFO
            header.cmsg_len = CMSG_LEN(sizeof(in_pktinfo))
            v4 = <in_pktinfo *>CMSG_DATA(header)
            memset(v4, 0, sizeof(in_pktinfo))
            memcpy(&v4.ipi_spec_dst, ip, 4)
            size += CMSG_SPACE(sizeof(in_pktinfo))
        else:
            header.cmsg_level = IPPROTO_IPV6
            header.cmsg_type = IPV6_PKTINFO
            header.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
            v6 = <in6_pktinfo *>CMSG_DATA(header)
            memset(v6, 0, sizeof(in6_pktinfo))
            memcpy(&v6.ipi6_addr, ip, 16)
            size += CMSG_SPACE(sizeof(in6_pktinfo))
    return size


cdef void count_failed(Worker *worker, int error, uint32_t packets) noexcept nogil:
    if error == EAGAIN or error == ENOBUFS or error == ENOMEM:
        count(worker, DROP_SEND_BUFFER, packets)
    elif error == EMSGSIZE:
        count(worker, DROP_MESSAGE_SIZE, packets)
    else:
        count(worker, DROP_SEND_ERROR, packets)


cdef void send_singly(Worker *worker, const Group *group) noexcept nogil:
    """A run that the kernel would not segment (a packet over the path's MTU, or a device that
    can't): each packet by itself, which the kernel may fragment."""
    cdef msghdr message
    cdef uint8_t name[32]
    cdef uint8_t control[CONTROL_BYTES]
    cdef int16_t index = group.first
    cdef Packet *packet
    memset(&message, 0, sizeof(message))
    message.msg_name = name
    message.msg_namelen = to_sockaddr(&group.destination, name)
    message.msg_controllen = put_control(control, worker, group, 0)
    if message.msg_controllen:
        message.msg_control = control
    while index >= 0:
        packet = &worker.packets[index]
        message.msg_iov = packet.parts
        message.msg_iovlen = packet.part_count
        count(worker, TOTAL_SEND_CALLS, 1)
        count(worker, TOTAL_SENT_SINGLY, 1)
        # An error left by an earlier packet's ICMP is reported once, so a second try tells.
        if sendmsg(group.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 and (
            sendmsg(group.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0
        ):
            count_failed(worker, errno, 1)
        index = packet.next


cdef void send_run(Worker *worker, int fd, uint32_t messages) noexcept nogil:
    """sendmmsg until all is sent or counted as dropped."""
    cdef uint32_t done = 0
    cdef int sent, error
    cdef bint tried = False
    cdef Group *group
    while done < messages:
        count(worker, TOTAL_SEND_CALLS, 1)
        sent = sendmmsg(fd, &worker.sent[done], messages - done, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent > 0:
            done += sent
            tried = False
            continue
        error = errno
        group = &worker.groups[worker.sent_groups[done]]
        if error == EINTR:
            count(worker, TOTAL_INTERRUPTED, 1)
            continue
        if group.count > 1 and (error == EMSGSIZE or error == EINVAL or error == EIO):
            if error == EIO:
                worker.segmentation = False
            send_singly(worker, group)
        elif error == EAGAIN or error == ENOBUFS or error == ENOMEM or tried:
            count_failed(worker, error, group.count)
        else:
            # What an earlier packet's ICMP error may have left on the socket; it is told once.
            tried = True
            continue
        tried = False
        done += 1


cdef uint32_t put_message(
    Worker *worker, uint32_t place, int16_t index, uint32_t part
) noexcept nogil:
    """Make group `index` the message `place` of the next sendmmsg; returns the next free part."""
    cdef Group *group = &worker.groups[index]
    cdef msghdr *message = &worker.sent[place].msg_hdr
    cdef Packet *packet
    cdef int16_t next_packet = group.first
    cdef uint32_t i
    worker.sent_groups[place] = index
    message.msg_name = &worker.sent_names[place][0]
    message.msg_namelen = to_sockaddr(&group.destination, message.msg_name)
    message.msg_iov = &worker.sent_parts[part]
    message.msg_iovlen = 0
    while next_packet >= 0:
        packet = &worker.packets[next_packet]
        for i in range(packet.part_count):
            worker.sent_parts[part] = packet.parts[i]
            part += 1
        message.msg_iovlen += packet.part_count
        next_packet = packet.next
    message.msg_controllen = put_control(
        &worker.sent_control[place][0], worker, group,
        group.segment_bytes if group.count > 1 else 0,
    )
    message.msg_control = &worker.sent_control[place][0] if message.msg_controllen else NULL
    message.msg_flags = 0
    if group.count > 1:
        count(worker, TOTAL_SEGMENTED_SENDS, 1)
    return part


cdef void send_from_relay(
    Worker *worker, int fd, int family, bint dont_fragment, uint32_t messages
) noexcept nogil:
    """The option is the socket's: what another thread sends from it meanwhile may get or lose DF.
    One thread alone sends for a client, but where some of his Sends go the long way."""
    if dont_fragment:
        forbid_fragments(fd, family)
    send_run(worker, fd, messages)
    if dont_fragment:
        let_fragment(fd, family)


cdef void flush(Worker *worker) noexcept nogil:
    """Send all that waits: one sendmmsg a listening socket, one a run of the same relay."""
    cdef uint32_t place, part, listener
    cdef int16_t i
    cdef int fd, family = 0
    cdef bint dont_fragment = False
    cdef Group *group
    if worker.packet_count == 0:
        return
    for listener in range(worker.listener_count):
        place = 0
        part = 0
        for i in range(<int16_t>worker.group_count):
            if worker.groups[i].listener == <int>listener:
                part = put_message(worker, place, i, part)
                place += 1
        if place:
            send_run(worker, worker.listen_fds[listener], place)
    place = 0
    part = 0
    fd = -1
    for i in range(<int16_t>worker.group_count):
        group = &worker.groups[i]
        if group.listener >= 0:
            continue
        if place and (group.fd != fd or group.dont_fragment != dont_fragment):
            send_from_relay(worker, fd, family, dont_fragment, place)
            place = 0
            part = 0
        fd = group.fd
        family = group.destination.family
        dont_fragment = group.dont_fragment
        part = put_message(worker, place, i, part)
        place += 1
    if place:
        send_from_relay(worker, fd, family, dont_fragment, place)
    if worker.group_count > 32:
        for i in range(GROUP_HASH):
            worker.group_hash[i] = -1
    else:
        for i in range(<int16_t>worker.group_count):
            group = &worker.groups[i]
            worker.group_hash[bucket_of(&group.destination, group.fd)] = -1
    worker.packet_count = 0
    worker.group_count = 0


# ---------------------------------------------------------------- routing

cdef inline bint within_rate(
    const Worker *worker, uint64_t *until_ns, uint64_t picoseconds_per_byte, uint32_t size
) noexcept nogil:
    """A token bucket as one number: the time until which what has passed would take at the limit.
    Workers share it."""
    cdef uint64_t until, begin
    if picoseconds_per_byte == 0:
        return True
    while True:
        until = load_relaxed_64(until_ns)
        begin = until if until > worker.now_ns else worker.now_ns
        if begin > worker.now_ns + RATE_BURST_NS:
            return False
        if swap_64(until_ns, until, begin + <uint64_t>size * picoseconds_per_byte // 1000):
            return True


cdef inline void count_to_peer(Worker *worker, uint32_t flow, uint32_t size) noexcept nogil:
    cdef FlowCounters *counters = &worker.counters[flow]
    bump_64(&counters.packets_to_peer, 1)
    bump_64(&counters.bytes_to_peer, size)
    count(worker, TOTAL_PACKETS_TO_PEER, 1)
    count(worker, TOTAL_BYTES_TO_PEER, size)


cdef void to_client(
    Worker *worker, uint32_t allocation_slot, const Addr *peer, const Addr *shown_peer,
    uint8_t *payload, uint32_t size, bint in_place
) noexcept nogil:
    """A payload that `peer` has sent to the allocation's relayed address, on to its client:
    as ChannelData where a channel is bound to the peer, else as a Data indication.

    Args:
        shown_peer: the peer as the client knows it; another than `peer` behind 1:1 NAT.
        in_place: the four bytes before the payload may be written over.
    """
    cdef Tables *tables = worker.tables
    cdef Allocation *allocation = &tables.allocations[allocation_slot]
    cdef uint32_t slot
    cdef Flow *flow
    cdef Addr permission
    cdef FlowCounters *counters
    cdef Packet *packet
    cdef uint8_t *header
    cdef uint32_t header_bytes
    if load_relaxed_64(&allocation.expires_ns) <= worker.now_ns:
        count(worker, DROP_EXPIRED, 1)
        return
    slot = find_peer(tables, allocation_slot, peer)
    if slot:
        flow = &tables.flows[slot]
        if load_relaxed_64(&flow.expires_ns) <= worker.now_ns:
            slot = 0    # the channel's time is over; its permission may still stand
    if not slot:
        permission = peer[0]
        permission.port = 0
        slot = find_peer(tables, allocation_slot, &permission)
        if not slot:
            count(worker, DROP_NO_PERMISSION, 1)
            return
        flow = &tables.flows[slot]
    if load_relaxed_64(&flow.permission_expires_ns) <= worker.now_ns:
        count(worker, DROP_EXPIRED, 1)
        return
    if not within_rate(
        worker, &allocation.received_until_ns,
        load_relaxed_64(&allocation.picoseconds_per_byte), size,
    ):
        count(worker, DROP_RATE, 1)
        return
    if not may_relay(&tables.sessions[allocation.session], worker.now_s, payload, size):
        count(worker, DROP_UNPAID, 1)
        return
    packet = new_packet(worker)
    if flow.channel:
        if in_place:
            header = payload - CHANNEL_HEADER_BYTES
            add_part(packet, header, size + CHANNEL_HEADER_BYTES)
        else:
            header = &worker.headers[worker.packet_count][0]
            add_part(packet, header, CHANNEL_HEADER_BYTES)
            if size:
                add_part(packet, payload, size)
        put_16(header, <uint16_t>flow.channel)
        put_16(header + 2, <uint16_t>size)
    else:
        if size > 65535 - 20 - 24 - 4 - 28:
            count(worker, DROP_MESSAGE_SIZE, 1)
            return
        header = &worker.headers[worker.packet_count][0]
        # Transaction ids of indications answer nothing; they need to differ, not to be secret.
        worker.random_a += MIX
        header_bytes = build_data_header(
            header, shown_peer, size, fold(worker.random_a, worker.random_b), worker.random_a
        )
        add_part(packet, header, header_bytes)
        if size:
            add_part(packet, payload, size)
        if size & 3:
            add_part(packet, ZEROS, 4 - (size & 3))
    counters = &worker.counters[slot]
    bump_64(&counters.packets_to_client, 1)
    bump_64(&counters.bytes_to_client, size)
    count(worker, TOTAL_PACKETS_TO_CLIENT, 1)
    count(worker, TOTAL_BYTES_TO_CLIENT, size)
    submit(
        worker, packet, worker.listen_fds[allocation.listener], allocation.listener,
        &allocation.client, &allocation.server, False,
    )


cdef void to_peer(
    Worker *worker, uint32_t allocation_slot, uint32_t flow_slot, const Addr *peer,
    uint8_t *payload, uint32_t size, bint dont_fragment
) noexcept nogil:
    """A payload from an allocation's client to `peer`, which `flow_slot` permits; the four bytes
    before it may be written over.

    A peer that is one of the node's own relayed addresses is reached right here: what would
    leave one of our sockets and come in by another is sent to the far client at once, with the
    far side's permission checked as if it had travelled. No network is between the two that
    `dont_fragment` could concern.
    """
    cdef Tables *tables = worker.tables
    cdef Allocation *allocation = &tables.allocations[allocation_slot]
    cdef Flow *flow = &tables.flows[flow_slot]
    cdef Relay *relay
    cdef uint32_t own_relay, far_relay = 0, far_allocation = 0
    cdef uint32_t own = load_relaxed_32(&flow.own)
    cdef Packet *packet
    if load_relaxed_64(&flow.permission_expires_ns) <= worker.now_ns or (
        load_relaxed_64(&flow.expires_ns) <= worker.now_ns
        or load_relaxed_64(&allocation.expires_ns) <= worker.now_ns
    ):
        count(worker, DROP_EXPIRED, 1)
        return
    own_relay = load_sequential_32(
        &allocation.relay_v4 if peer.family == 4 else &allocation.relay_v6
    )
    if not own_relay:
        count(worker, DROP_FORBIDDEN, 1)
        return
    relay = &tables.relays[own_relay]
    if own != OWN_NO:
        far_relay = find_relay(tables, peer)
        if far_relay:
            far_allocation = load_sequential_32(&tables.relays[far_relay].allocation)
        if not far_allocation and (own == OWN_RELAYS_ONLY or is_endpoint(tables, peer)):
            count(worker, DROP_FORBIDDEN, 1)
            return
    if not within_rate(
        worker, &allocation.sent_until_ns,
        load_relaxed_64(&allocation.picoseconds_per_byte), size,
    ):
        count(worker, DROP_RATE, 1)
        return
    if not may_relay(&tables.sessions[allocation.session], worker.now_s, payload, size):
        count(worker, DROP_UNPAID, 1)
        return
    count_to_peer(worker, flow_slot, size)
    if far_allocation:
        count(worker, TOTAL_SHORT_CUTS, 1)
        to_client(
            worker, far_allocation, &relay.address, &relay.public, payload, size, True
        )
        return
    packet = new_packet(worker)
    add_part(packet, payload, size)
    submit(worker, packet, relay.fd, -1, peer, NULL, dont_fragment)


# ---------------------------------------------------------------- receiving

cdef void to_control(
    Worker *worker, uint32_t listener, const Addr *client, const Addr *server,
    const uint8_t *data, uint32_t size, uint32_t allocation
) noexcept nogil:
    """Hand a datagram to the control plane. Strangers have a ring of their own, so that a flood
    of theirs does not crowd out the requests of living allocations; and of those none may crowd
    out the others: what is over its share takes its chance among the strangers. It isn't dropped,
    since nobody has asked yet whether the client has sent it."""
    cdef Record record
    cdef int ring = 0
    if allocation and within_second(
        &worker.tables.allocations[allocation].asked_in_second, worker.now_s,
        (size + STRANGER_BYTES - 1) // STRANGER_BYTES, CONTROL_PER_SECOND,
    ):
        ring = 1
    elif size > STRANGER_BYTES:
        # A few would fill the ring, and each costs its sender nothing and us its HMAC.
        count(worker, DROP_CONTROL_QUEUE if allocation else DROP_MALFORMED, 1)
        return
    memset(&record, 0, sizeof(record))
    record.kind = RECORD_DATAGRAM
    record.listener = listener
    record.payload_bytes = size
    record.client = client[0]
    record.server = server[0]
    if put_record(&worker.rings[ring], &record, data):
        worker.ring_written = True
        count(worker, TOTAL_CONTROL, 1)
    else:
        count(worker, DROP_CONTROL_QUEUE, 1)


cdef void from_client(
    Worker *worker, uint32_t listener, const Addr *client, const Addr *server,
    uint8_t *data, uint32_t size
) noexcept nogil:
    """One datagram on a listening socket."""
    cdef Tables *tables = worker.tables
    cdef PacketClass kind = classify_packet(data, size)
    cdef uint32_t allocation, flow
    cdef SendIndication send
    if kind == PACKET_MALFORMED:
        count(worker, DROP_MALFORMED, 1)
        return
    allocation = find_allocation(tables, client, server, listener)
    if kind == PACKET_CHANNEL_DATA:
        if not allocation:
            count(worker, DROP_NO_ALLOCATION, 1)
            return
        flow = find_channel(tables, allocation, get_16(data))
        if not flow:
            count(worker, DROP_NO_CHANNEL, 1)
            return
        to_peer(
            worker, allocation, flow, &tables.flows[flow].peer,
            data + CHANNEL_HEADER_BYTES, get_16(data + 2), False,
        )
    elif kind == PACKET_SEND and parse_send(data, size, &send):
        if not allocation:
            count(worker, DROP_NO_ALLOCATION, 1)
            return
        to_inner(tables, &send.peer)
        send_to_peer(
            worker, allocation, &send.peer, <uint8_t *>send.payload, send.payload_bytes,
            send.dont_fragment,
        )
    else:
        to_control(worker, listener, client, server, data, size, allocation)


cdef void send_to_peer(
    Worker *worker, uint32_t allocation, const Addr *peer, uint8_t *payload, uint32_t size,
    bint dont_fragment
) noexcept nogil:
    """A Send indication's payload: permitted by the peer's IP address alone. Its four bytes before
    the payload are DATA's own header, so a ChannelData header may be written there."""
    cdef Addr permission = peer[0]
    cdef uint32_t flow
    permission.port = 0
    flow = find_peer(worker.tables, allocation, &permission)
    if not flow:
        count(worker, DROP_NO_PERMISSION, 1)
        return
    to_peer(worker, allocation, flow, peer, payload, size, dont_fragment)


cdef uint32_t segment_size(msghdr *message, uint32_t size) noexcept nogil:
    """How the kernel has joined datagrams (UDP_GRO): the size of each but the last."""
    cdef cmsghdr *header = CMSG_FIRSTHDR(message)
    cdef int joined = 0
    while header != NULL:
        if header.cmsg_level == SOL_UDP and header.cmsg_type == UDP_GRO:
            memcpy(&joined, CMSG_DATA(header), sizeof(int))
            if joined > 0:
                return <uint32_t>joined
        header = CMSG_NXTHDR(message, header)
    return size


cdef bint asked_address(msghdr *message, Addr *server) noexcept nogil:
    """The local address that a datagram on a wildcard listener was sent to; its port stays."""
    cdef cmsghdr *header = CMSG_FIRSTHDR(message)
    while header != NULL:
        if header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_PKTINFO:
            set_ip(
                server, <uint8_t *>&(<in_pktinfo *>CMSG_DATA(header)).ipi_spec_dst, 4
            )
            return True
        if header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_PKTINFO:
            set_ip(
                server, <uint8_t *>&(<in6_pktinfo *>CMSG_DATA(header)).ipi6_addr, 16
            )
            return True
        header = CMSG_NXTHDR(message, header)
    return False


cdef int receive_batch(Worker *worker, int fd, uint32_t room) noexcept nogil:
    """Fill the next receive slots from a socket; returns how many, 0 for nothing or an error."""
    cdef uint32_t i
    cdef int got
    for i in range(worker.slots_used, worker.slots_used + room):
        worker.received[i].msg_hdr.msg_namelen = 32
        worker.received[i].msg_hdr.msg_controllen = CONTROL_BYTES
    count(worker, TOTAL_RECEIVE_CALLS, 1)
    got = recvmmsg(fd, &worker.received[worker.slots_used], room, MSG_DONTWAIT, NULL)
    if got < 0:
        if errno == EINTR:
            count(worker, TOTAL_INTERRUPTED, 1)
        return 0
    return got


cdef bint read_listener(Worker *worker, uint32_t index) noexcept nogil:
    """Take a batch from a listening socket; True when more may be waiting there."""
    cdef Listener *listener = &worker.listeners[index]
    cdef uint32_t room = RECEIVE_SLOTS - worker.slots_used
    cdef int got = receive_batch(worker, worker.listen_fds[index], room)
    cdef int i
    cdef uint32_t size, segment, offset
    cdef Addr client, server
    cdef msghdr *message
    cdef uint8_t *data
    for i in range(worker.slots_used, worker.slots_used + got):
        message = &worker.received[i].msg_hdr
        data = <uint8_t *>worker.received_parts[i].iov_base
        size = worker.received[i].msg_len
        from_sockaddr(&client, message.msg_name)
        server = listener.address
        if (message.msg_flags & MSG_TRUNC) or client.port == 0 or (
            listener.wildcard and not asked_address(message, &server)
        ):
            count(worker, DROP_MALFORMED, 1)
            continue
        if is_link_local(&client):
            # Without its interface it can't be answered, and five-tuples name none: two clients
            # of one address on two links would be one to us.
            count(worker, DROP_LINK_LOCAL, 1)
            continue
        segment = segment_size(message, size)
        offset = 0
        while True:
            worker.cycle_packets += 1
            from_client(
                worker, index, &client, &server, data + offset,
                segment if segment < size - offset else size - offset,
            )
            offset += segment
            if offset >= size:
                break
    worker.slots_used += got
    return got == <int>room


cdef void read_relay(Worker *worker, uint32_t slot, uint32_t room) noexcept nogil:
    """Take a batch from a relay socket: packets of peers."""
    cdef Relay *relay = &worker.tables.relays[slot]
    cdef uint32_t allocation = load_sequential_32(&relay.allocation)
    cdef int got, i
    cdef uint32_t size, segment, offset
    cdef Addr peer
    cdef msghdr *message
    cdef uint8_t *data
    got = receive_batch(worker, relay.fd, room)
    for i in range(worker.slots_used, worker.slots_used + got):
        message = &worker.received[i].msg_hdr
        data = <uint8_t *>worker.received_parts[i].iov_base
        size = worker.received[i].msg_len
        from_sockaddr(&peer, message.msg_name)
        if not allocation or (message.msg_flags & MSG_TRUNC) or peer.port == 0:
            count(worker, DROP_MALFORMED, 1)
            continue
        segment = segment_size(message, size)
        offset = 0
        while True:
            worker.cycle_packets += 1
            # The first one has headroom before it; the others have their forerunner's bytes.
            to_client(
                worker, allocation, &peer, &peer, data + offset,
                segment if segment < size - offset else size - offset, offset == 0,
            )
            offset += segment
            if offset >= size:
                break
    worker.slots_used += got


cdef void icmp_to_control(
    Worker *worker, uint32_t allocation_slot, const Addr *peer, const sock_extended_err *failure
) noexcept nogil:
    """Tell the control plane of an ICMP error, if the client may send to the peer at all."""
    cdef Allocation *allocation = &worker.tables.allocations[allocation_slot]
    cdef Addr permission = peer[0]
    cdef uint32_t flow
    cdef Record record
    permission.port = 0
    flow = find_peer(worker.tables, allocation_slot, &permission)
    if not flow or load_relaxed_64(&worker.tables.flows[flow].expires_ns) <= worker.now_ns:
        count(worker, DROP_NO_PERMISSION, 1)
        return
    if not within_second(
        &allocation.errors_in_second, worker.now_s, 1, CONTROL_PER_SECOND
    ):
        count(worker, DROP_ICMP_RATE, 1)
        return
    memset(&record, 0, sizeof(record))
    record.kind = RECORD_ICMP
    record.listener = allocation_slot
    record.generation = allocation.generation
    record.client = peer[0]
    record.icmp_type = failure.ee_type
    record.icmp_code = failure.ee_code
    record.icmp_data = failure.ee_info
    if put_record(&worker.rings[1], &record, ZEROS):
        worker.ring_written = True
    else:
        count(worker, DROP_CONTROL_QUEUE, 1)


cdef void read_errors(Worker *worker, uint32_t slot) noexcept nogil:
    """ICMP errors that packets of a relay drew, for the control plane (RFC 8656 section 11.5).

    Anybody can forge them, so they are heard of peers with a permission alone, and in a window of
    their own: what they cost is no share of the client's.
    """
    cdef Relay *relay = &worker.tables.relays[slot]
    cdef uint32_t allocation = load_sequential_32(&relay.allocation)
    cdef msghdr message
    cdef iovec part
    cdef uint8_t name[32]
    cdef uint8_t control[512]
    cdef uint8_t data[64]
    cdef Addr peer
    cdef cmsghdr *header
    cdef sock_extended_err *failure
    cdef int i, error = 0
    cdef socklen_t error_bytes = sizeof(int)
    for i in range(16):
        memset(&message, 0, sizeof(message))
        part.iov_base = data
        part.iov_len = sizeof(data)
        message.msg_name = name
        message.msg_namelen = sizeof(name)
        message.msg_iov = &part
        message.msg_iovlen = 1
        message.msg_control = control
        message.msg_controllen = sizeof(control)
        if recvmsg(relay.fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0:
            if i == 0:
                # The kernel sets the socket's error after it has queued what it is about. Where
                # we were quicker it is left without, and is reported until somebody reads it.
                getsockopt(relay.fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes)
            return
        header = CMSG_FIRSTHDR(&message)
        while header != NULL:
            if (header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_RECVERR) or (
                header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_RECVERR
            ):
                failure = <sock_extended_err *>CMSG_DATA(header)
                if allocation and message.msg_namelen >= sizeof(sockaddr_in) and (
                    failure.ee_origin == SO_EE_ORIGIN_ICMP
                    or failure.ee_origin == SO_EE_ORIGIN_ICMP6
                ):
                    from_sockaddr(&peer, name)
                    icmp_to_control(worker, allocation, &peer, failure)
            header = CMSG_NXTHDR(&message, header)


# ---------------------------------------------------------------- the loop

cdef void finish_batch(Worker *worker) noexcept nogil:
    """Send what waits and wake the control plane if it has something to read."""
    cdef uint64_t one = 1
    flush(worker)
    worker.slots_used = 0
    if worker.ring_written:
        worker.ring_written = False
        if exchange_32(&worker.notified, 1) == 0:
            write(worker.control_fd, &one, 8)


cdef bint drain_listeners(Worker *worker) noexcept nogil:
    """One batch of each listening socket; True when one of them may hold more."""
    cdef uint32_t i
    cdef bint more = False
    for i in range(worker.listener_count):
        if worker.slots_used == RECEIVE_SLOTS:
            finish_batch(worker)
        more = read_listener(worker, i) or more
    return more


cdef void handle_event(Worker *worker, const epoll_event *event) noexcept nogil:
    cdef uint32_t slot = <uint32_t>event.data.u64
    cdef uint32_t generation = <uint32_t>(event.data.u64 >> 32)
    cdef Relay *relay = &worker.tables.relays[slot]
    # The event may be older than the slot's present owner.
    if load_sequential_32(&relay.generation) != generation:
        return
    if not load_sequential_32(&relay.allocation):
        return
    if event.events & EPOLLERR:
        read_errors(worker, slot)
    if event.events & EPOLLIN:
        if worker.slots_used == RECEIVE_SLOTS:
            finish_batch(worker)
        read_relay(worker, slot, min(RECEIVE_SLOTS - worker.slots_used, 32))


cdef uint64_t gather_ns(Worker *worker, uint64_t woken_ns, uint64_t now_ns) noexcept nogil:
    """How long to let packets gather before the next look, like a network card's interrupt
    moderation: 0 unless at least one more would come in the meantime."""
    cdef uint64_t cycle_ns = now_ns - worker.cycle_start_ns
    cdef uint64_t spent_ns = now_ns - woken_ns
    worker.cycle_start_ns = now_ns
    # A long silence says nothing about the burst that ends it.
    if cycle_ns > 10 * GATHER_NS:
        cycle_ns = 10 * GATHER_NS
    # Averages over about eight cycles, the packets in units of 1/256.
    worker.average_packets += (<uint64_t>worker.cycle_packets << 5) - (worker.average_packets >> 3)
    worker.average_cycle_ns += (cycle_ns >> 3) - (worker.average_cycle_ns >> 3)
    if (worker.average_packets * GATHER_NS >> 8) < worker.average_cycle_ns:
        return 0
    # What is left of the interval; sleeping less than a wake-up takes would only cost.
    return GATHER_NS - spent_ns if spent_ns < GATHER_NS - MIN_SLEEP_NS else 0


cdef void run_worker(Worker *worker) noexcept nogil:
    """The thread's life: until `stop` is set and `stop_fd` written."""
    cdef epoll_event events[EVENTS]
    cdef uint64_t *seen_epoch = &worker.tables.worker_epochs[worker.index * 8]
    cdef int ready, i, timeout_ms = -1
    cdef uint64_t woken_ns, now_ns, wait_ns
    cdef bint more, listeners_ready
    cdef timespec pause
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS)
    worker.average_cycle_ns = 10 * GATHER_NS
    worker.cycle_start_ns = monotonic_ns()
    while not load_acquire_32(&worker.stop):
        ready = epoll_wait(worker.epoll_fd, events, EVENTS, timeout_ms)
        # From here to the end of the batch nothing that can be seen in the tables is reused.
        store_sequential_64(seen_epoch, load_sequential_64(&worker.tables.epoch))
        woken_ns = monotonic_ns()
        set_now(worker, woken_ns)
        worker.cycle_packets = 0
        count(worker, TOTAL_WAKEUPS, 1)
        more = False
        listeners_ready = False
        for i in range(ready):
            if events[i].data.u64 < MAX_LISTENERS:
                listeners_ready = True
            elif events[i].data.u64 != STOP_EVENT:
                handle_event(worker, &events[i])
        if listeners_ready:
            more = drain_listeners(worker)
        finish_batch(worker)
        store_sequential_64(seen_epoch, 0)
        now_ns = monotonic_ns()
        timeout_ms = -1
        if worker.cycle_packets:
            worker.last_packet_ns = now_ns
            count(worker, TOTAL_PACKETS_RECEIVED, worker.cycle_packets)
        if worker.low_latency:
            if now_ns - worker.last_packet_ns < SPIN_NS:
                timeout_ms = 0
            continue
        wait_ns = gather_ns(worker, woken_ns, now_ns)
        if wait_ns and not more and ready < EVENTS:
            count(worker, TOTAL_GATHERS, 1)
            pause.tv_sec = 0
            pause.tv_nsec = <long>wait_ns
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL)


# ---------------------------------------------------------------- the control plane's own sends

cdef void send_from_control(
    Worker *worker, uint32_t allocation, const Addr *peer, uint8_t *payload,
    uint32_t payload_bytes, bint dont_fragment, uint64_t now_ns
) noexcept nogil:
    """A Send indication that came another way. `worker` is the control plane's own lane; four
    bytes before the payload may be written over. Its thread is the tables' writer, so that no
    epoch is needed."""
    set_now(worker, now_ns)
    send_to_peer(worker, allocation, peer, payload, payload_bytes, dont_fragment)
    flush(worker)


cdef void queue_reply(
    Worker *worker, uint32_t listener, const Addr *client, const Addr *server,
    uint8_t *payload, uint32_t payload_bytes
) noexcept nogil:
    """One datagram for a client, sent by `flush` at the latest; `payload` stays until then."""
    cdef Packet *packet = new_packet(worker)
    add_part(packet, payload, payload_bytes)
    submit(worker, packet, worker.listen_fds[listener], <int>listener, client, server, False)
