"""The writer's side of the flow table, see tables.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from relay.dataplane.atomic cimport (
    increment_sequential_64, load_relaxed_32, load_relaxed_64, load_sequential_32,
    load_sequential_64, store_relaxed_32, store_relaxed_64, store_sequential_32,
)
from relay.dataplane.packet cimport Addr, same_ip
from relay.dataplane.system cimport close, usleep
from relay.dataplane.tables cimport (
    Allocation, Flow, FlowCounters, Pool, Relay, Retired, Session, Tables, find_peer,
    hash_address, hash_channel,
)

cdef enum RetiredKind:
    RETIRED_ALLOCATION = 1
    RETIRED_FLOW
    RETIRED_RELAY
    RETIRED_SESSION

cdef enum:
    RETIRED_CAPACITY = 16384
    RECLAIM_PAUSE_US = 20       # a worker's batch takes some tens of microseconds


cdef uint32_t _heads(uint32_t entries) noexcept:
    """Heads of a hash table: a power of two, at least two an entry."""
    cdef uint32_t heads = 64
    while heads < 2 * entries and heads < (1 << 24):
        heads *= 2
    return heads


cdef Tables *create_tables(
    uint32_t allocations, uint32_t flows, uint32_t relays, uint32_t workers,
    uint64_t seed_a, uint64_t seed_b
) noexcept:
    """Everything that the table will ever hold; pages cost memory once they are used.

    NULL when the memory can't be reserved.
    """
    cdef Tables *tables = <Tables *>calloc(1, sizeof(Tables))
    cdef uint32_t lane
    cdef bint complete
    if tables == NULL:
        return NULL
    tables.seed_a = seed_a
    tables.seed_b = seed_b
    tables.workers = workers
    tables.epoch = 1
    tables.allocation_pool.capacity = allocations
    tables.flow_pool.capacity = flows
    tables.relay_pool.capacity = relays
    tables.session_pool.capacity = allocations
    # Few allocations have all the flows that they may have: chains grow a little when they do.
    tables.allocation_mask = _heads(allocations) - 1
    tables.flow_mask = _heads(min(flows, 4 * allocations)) - 1
    tables.relay_mask = _heads(relays) - 1
    tables.retired_capacity = RETIRED_CAPACITY
    tables.allocations = <Allocation *>calloc(allocations + 1, sizeof(Allocation))
    tables.flows = <Flow *>calloc(flows + 1, sizeof(Flow))
    tables.relays = <Relay *>calloc(relays + 1, sizeof(Relay))
    tables.sessions = <Session *>calloc(allocations + 1, sizeof(Session))
    tables.client_heads = <uint32_t *>calloc(tables.allocation_mask + 1, sizeof(uint32_t))
    tables.channel_heads = <uint32_t *>calloc(tables.flow_mask + 1, sizeof(uint32_t))
    tables.peer_heads = <uint32_t *>calloc(tables.flow_mask + 1, sizeof(uint32_t))
    tables.relay_heads = <uint32_t *>calloc(tables.relay_mask + 1, sizeof(uint32_t))
    tables.retired = <Retired *>calloc(tables.retired_capacity, sizeof(Retired))
    complete = (
        tables.allocations != NULL and tables.flows != NULL and tables.relays != NULL
        and tables.sessions != NULL and tables.client_heads != NULL
        and tables.channel_heads != NULL and tables.peer_heads != NULL
        and tables.relay_heads != NULL and tables.retired != NULL
    )
    for lane in range(workers + 1):
        tables.counters[lane] = <FlowCounters *>calloc(flows + 1, sizeof(FlowCounters))
        complete = complete and tables.counters[lane] != NULL
    if not complete:
        destroy_tables(tables)
        return NULL
    return tables


cdef void destroy_tables(Tables *tables) noexcept:
    """Free the memory and close every relay's descriptor; no worker runs any more."""
    cdef uint32_t i
    if tables == NULL:
        return
    if tables.relays != NULL:
        for i in range(1, tables.relay_pool.used + 1):
            if tables.relays[i].fd > 0:
                close(tables.relays[i].fd)
    for i in range(tables.workers + 1):
        free(tables.counters[i])
    free(tables.allocations)
    free(tables.flows)
    free(tables.relays)
    free(tables.sessions)
    free(tables.client_heads)
    free(tables.channel_heads)
    free(tables.peer_heads)
    free(tables.relay_heads)
    free(tables.retired)
    free(tables.endpoints)
    free(tables.outer)
    free(tables.inner)
    free(tables)


cdef void _retire(Tables *tables, RetiredKind kind, uint32_t slot) noexcept:
    """The slot is unlinked; it is free once every worker has left the batch it may be in."""
    cdef Retired *entry
    while tables.retired_count == tables.retired_capacity:
        # Workers leave their batches without our help, so this ends.
        reclaim(tables)
        if tables.retired_count == tables.retired_capacity:
            usleep(RECLAIM_PAUSE_US)
    entry = &tables.retired[
        (tables.retired_head + tables.retired_count) % tables.retired_capacity
    ]
    tables.retired_count += 1
    entry.epoch = increment_sequential_64(&tables.epoch)
    entry.kind = kind
    entry.slot = slot


cdef uint64_t _oldest_epoch(Tables *tables) noexcept:
    cdef uint64_t oldest = ~<uint64_t>0
    cdef uint64_t seen
    cdef uint32_t worker
    for worker in range(tables.workers):
        seen = load_sequential_64(&tables.worker_epochs[worker * 8])
        if seen and seen < oldest:
            oldest = seen
    return oldest


cdef void reclaim(Tables *tables) noexcept:
    """Free what no worker can see any more; flows and sessions go to the closed lists, whose
    counters somebody takes."""
    cdef uint64_t oldest
    cdef Retired *entry
    cdef Relay *relay
    cdef Allocation *allocation
    if not tables.retired_count:
        return
    oldest = _oldest_epoch(tables)
    while tables.retired_count:
        entry = &tables.retired[tables.retired_head]
        if entry.epoch > oldest:
            return
        tables.retired_head = (tables.retired_head + 1) % tables.retired_capacity
        tables.retired_count -= 1
        if entry.kind == RETIRED_FLOW:
            tables.flows[entry.slot].next = tables.closed_flows
            tables.closed_flows = entry.slot
            tables.closed_flow_count += 1
        elif entry.kind == RETIRED_RELAY:
            relay = &tables.relays[entry.slot]
            close(relay.fd)
            relay.fd = 0
            relay.next = tables.relay_pool.free
            tables.relay_pool.free = entry.slot
        elif entry.kind == RETIRED_SESSION:
            tables.sessions[entry.slot].next = tables.closed_sessions
            tables.closed_sessions = entry.slot
            tables.closed_session_count += 1
        else:
            allocation = &tables.allocations[entry.slot]
            allocation.next = tables.allocation_pool.free
            tables.allocation_pool.free = entry.slot


cdef uint32_t _take(Pool *pool, uint32_t next_free) noexcept:
    """A slot of the pool, `next_free` being the second of its free list; 0 when none is left."""
    cdef uint32_t slot = pool.free
    if slot:
        pool.free = next_free
    elif pool.used < pool.capacity:
        pool.used += 1
        slot = pool.used
    if slot:
        pool.live += 1
    return slot


cdef uint32_t add_session(Tables *tables, uint64_t granted_seconds) noexcept:
    cdef uint32_t slot
    reclaim(tables)
    slot = _take(&tables.session_pool, tables.sessions[tables.session_pool.free].next)
    if slot:
        store_relaxed_64(&tables.sessions[slot].active, 0)
        store_relaxed_64(&tables.sessions[slot].stun_in_second, 0)
        store_relaxed_64(&tables.sessions[slot].granted_seconds, granted_seconds)
        tables.sessions[slot].references = 1
        tables.sessions[slot].live = True
        tables.sessions[slot].next = 0
    return slot


cdef void release_session(Tables *tables, uint32_t session) noexcept:
    """Drop one reference; the last one retires the session."""
    tables.sessions[session].references -= 1
    if tables.sessions[session].references == 0:
        tables.sessions[session].live = False
        tables.session_pool.live -= 1
        _retire(tables, RETIRED_SESSION, session)


cdef uint32_t add_relay(
    Tables *tables, const Addr *address, const Addr *public, int fd, uint32_t worker
) noexcept:
    """Take a slot for a bound socket; nobody finds it before `join_relay`."""
    cdef uint32_t slot
    cdef Relay *relay
    reclaim(tables)
    slot = _take(&tables.relay_pool, tables.relays[tables.relay_pool.free].next)
    if slot:
        relay = &tables.relays[slot]
        relay.address = address[0]
        relay.public = public[0]
        relay.fd = fd
        relay.worker = worker
        relay.next = 0
        store_relaxed_32(&relay.allocation, 0)
        # Never 0: an event's upper half tells relays from listeners.
        store_sequential_32(&relay.generation, relay.generation % 0xFFFFFFFF + 1)
    return slot


cdef void remove_relay(Tables *tables, uint32_t slot) noexcept:
    cdef Relay *relay = &tables.relays[slot]
    if load_relaxed_32(&relay.allocation):
        _unlink(
            &tables.relay_heads[hash_address(tables, &relay.address, 0) & tables.relay_mask],
            slot, <char *>tables.relays, sizeof(Relay), <char *>&relay.next_address - <char *>relay,
        )
        store_sequential_32(&relay.allocation, 0)
    tables.relay_pool.live -= 1
    _retire(tables, RETIRED_RELAY, slot)


cdef void _link(uint32_t *head, uint32_t slot, uint32_t *link) noexcept:
    store_relaxed_32(link, load_relaxed_32(head))
    store_sequential_32(head, slot)


cdef void _unlink(
    uint32_t *head, uint32_t slot, char *base, size_t slot_bytes, size_t link_offset
) noexcept:
    """Take `slot` out of a chain. Its own link stays, for a reader that stands on it."""
    cdef uint32_t *link = head
    cdef uint32_t index = load_relaxed_32(link)
    while index and index != slot:
        link = <uint32_t *>(base + index * slot_bytes + link_offset)
        index = load_relaxed_32(link)
    if index == slot:
        store_sequential_32(
            link, load_relaxed_32(<uint32_t *>(base + slot * slot_bytes + link_offset))
        )


cdef uint32_t add_allocation(
    Tables *tables, const Addr *client, const Addr *server, uint32_t listener, uint32_t session,
    uint64_t expires_ns, uint64_t picoseconds_per_byte
) noexcept:
    """Take a slot for an allocation, to be joined to its relays and then published; 0 when no slot
    is left."""
    cdef uint32_t slot
    cdef Allocation *allocation
    reclaim(tables)
    slot = _take(&tables.allocation_pool, tables.allocations[tables.allocation_pool.free].next)
    if not slot:
        return 0
    allocation = &tables.allocations[slot]
    allocation.client = client[0]
    allocation.server = server[0]
    allocation.listener = listener
    allocation.generation += 1
    store_relaxed_32(&allocation.relay_v4, 0)
    store_relaxed_32(&allocation.relay_v6, 0)
    allocation.session = session
    allocation.first_flow = 0
    allocation.next = 0
    allocation.live = True
    store_relaxed_64(&allocation.expires_ns, expires_ns)
    store_relaxed_64(&allocation.picoseconds_per_byte, picoseconds_per_byte)
    store_relaxed_64(&allocation.sent_until_ns, 0)
    store_relaxed_64(&allocation.received_until_ns, 0)
    store_relaxed_64(&allocation.asked_in_second, 0)
    store_relaxed_64(&allocation.errors_in_second, 0)
    tables.sessions[session].references += 1
    return slot


cdef void join_relay(Tables *tables, uint32_t slot, uint32_t relay_slot) noexcept:
    """Give a relay to an allocation that is not published yet."""
    cdef Relay *relay = &tables.relays[relay_slot]
    if relay.address.family == 4:
        store_relaxed_32(&tables.allocations[slot].relay_v4, relay_slot)
    else:
        store_relaxed_32(&tables.allocations[slot].relay_v6, relay_slot)
    store_sequential_32(&relay.allocation, slot)
    _link(
        &tables.relay_heads[hash_address(tables, &relay.address, 0) & tables.relay_mask],
        relay_slot, &relay.next_address,
    )


cdef void part_relay(Tables *tables, uint32_t slot, uint32_t relay_slot) noexcept:
    """Remove one of the relays of a living allocation."""
    cdef Allocation *allocation = &tables.allocations[slot]
    # Before it is retired: a worker that still reads it here is in a batch that is waited for.
    if load_relaxed_32(&allocation.relay_v4) == relay_slot:
        store_sequential_32(&allocation.relay_v4, 0)
    else:
        store_sequential_32(&allocation.relay_v6, 0)
    remove_relay(tables, relay_slot)


cdef void publish_allocation(Tables *tables, uint32_t slot) noexcept:
    """From here on the workers find it."""
    cdef Allocation *allocation = &tables.allocations[slot]
    _link(
        &tables.client_heads[
            hash_address(tables, &allocation.client, allocation.listener) & tables.allocation_mask
        ],
        slot, &allocation.next_client,
    )


cdef void remove_allocation(Tables *tables, uint32_t slot) noexcept:
    """Unlink it with its flows and relays, and give up its share of the session."""
    cdef Allocation *allocation = &tables.allocations[slot]
    _unlink(
        &tables.client_heads[
            hash_address(tables, &allocation.client, allocation.listener) & tables.allocation_mask
        ],
        slot, <char *>tables.allocations, sizeof(Allocation),
        <char *>&allocation.next_client - <char *>allocation,
    )
    while allocation.first_flow:
        remove_flow(tables, allocation.first_flow)
    if load_relaxed_32(&allocation.relay_v4):
        remove_relay(tables, load_relaxed_32(&allocation.relay_v4))
    if load_relaxed_32(&allocation.relay_v6):
        remove_relay(tables, load_relaxed_32(&allocation.relay_v6))
    tables.allocation_pool.live -= 1
    allocation.live = False
    _retire(tables, RETIRED_ALLOCATION, slot)
    release_session(tables, allocation.session)


cdef uint32_t add_flow(
    Tables *tables, uint32_t allocation, const Addr *peer, uint32_t channel, uint32_t own,
    uint64_t expires_ns, uint64_t permission_expires_ns
) noexcept:
    """Publish a permission (port and channel 0) or a channel; 0 when no slot is left."""
    cdef uint32_t slot, lane
    cdef Flow *flow
    reclaim(tables)
    slot = _take(&tables.flow_pool, tables.flows[tables.flow_pool.free].next)
    if not slot:
        return 0
    flow = &tables.flows[slot]
    flow.peer = peer[0]
    flow.allocation = allocation
    flow.session = tables.allocations[allocation].session
    flow.channel = channel
    flow.next = 0
    store_relaxed_32(&flow.own, own)
    store_relaxed_64(&flow.expires_ns, expires_ns)
    store_relaxed_64(&flow.permission_expires_ns, permission_expires_ns)
    for lane in range(tables.workers + 1):
        _zero(&tables.counters[lane][slot])
    flow.next_of_allocation = tables.allocations[allocation].first_flow
    tables.allocations[allocation].first_flow = slot
    if channel:
        _link(
            &tables.channel_heads[hash_channel(tables, allocation, channel) & tables.flow_mask],
            slot, &flow.next_channel,
        )
    _link(
        &tables.peer_heads[
            hash_address(tables, peer, <uint64_t>allocation << 16) & tables.flow_mask
        ],
        slot, &flow.next_peer,
    )
    return slot


cdef void _zero(FlowCounters *counters) noexcept:
    store_relaxed_64(&counters.packets_to_peer, 0)
    store_relaxed_64(&counters.bytes_to_peer, 0)
    store_relaxed_64(&counters.packets_to_client, 0)
    store_relaxed_64(&counters.bytes_to_client, 0)


cdef void refresh_permission(
    Tables *tables, uint32_t allocation, const Addr *peer, uint64_t expires_ns, uint32_t own
) noexcept:
    """Move the end of what depends on the permission: itself, and the channels of its address."""
    cdef uint32_t slot = tables.allocations[allocation].first_flow
    cdef Flow *flow
    while slot:
        flow = &tables.flows[slot]
        if same_ip(&flow.peer, peer):
            if flow.channel == 0:
                store_relaxed_64(&flow.expires_ns, expires_ns)
            store_relaxed_64(&flow.permission_expires_ns, expires_ns)
            store_relaxed_32(&flow.own, own)
        slot = flow.next_of_allocation


cdef void remove_flow(Tables *tables, uint32_t slot) noexcept:
    cdef Flow *flow = &tables.flows[slot]
    cdef uint32_t *link = &tables.allocations[flow.allocation].first_flow
    while link[0] != slot:
        link = &tables.flows[link[0]].next_of_allocation
    link[0] = flow.next_of_allocation
    if flow.channel:
        _unlink(
            &tables.channel_heads[
                hash_channel(tables, flow.allocation, flow.channel) & tables.flow_mask
            ],
            slot, <char *>tables.flows, sizeof(Flow), <char *>&flow.next_channel - <char *>flow,
        )
    _unlink(
        &tables.peer_heads[
            hash_address(tables, &flow.peer, <uint64_t>flow.allocation << 16) & tables.flow_mask
        ],
        slot, <char *>tables.flows, sizeof(Flow), <char *>&flow.next_peer - <char *>flow,
    )
    tables.flow_pool.live -= 1
    _retire(tables, RETIRED_FLOW, slot)


cdef void free_closed_flow(Tables *tables, uint32_t slot) noexcept:
    """Its counters have been taken."""
    tables.flows[slot].next = tables.flow_pool.free
    tables.flow_pool.free = slot


cdef void free_closed_session(Tables *tables, uint32_t slot) noexcept:
    """Its counters have been taken."""
    tables.sessions[slot].next = tables.session_pool.free
    tables.session_pool.free = slot
