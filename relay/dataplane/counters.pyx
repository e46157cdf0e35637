"""The workers' counters as Python has them: arrays of flows and sessions, and totals by name.

The control plane's thread alone calls this; a reading sums the workers' lanes.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from relay.dataplane.atomic cimport load_relaxed_64
from relay.dataplane.tables cimport (
    Flow, FlowCounters, Tables, active_seconds, free_closed_flow, free_closed_session,
)
from relay.dataplane.worker cimport (
    DROP_CONTROL_QUEUE, DROP_EXPIRED, DROP_FORBIDDEN, DROP_ICMP_RATE, DROP_LINK_LOCAL,
    DROP_MALFORMED, DROP_MESSAGE_SIZE, DROP_NO_ALLOCATION, DROP_NO_CHANNEL, DROP_NO_PERMISSION,
    DROP_RATE, DROP_SEND_BUFFER, DROP_SEND_ERROR, DROP_UNPAID, TOTAL_BYTES_TO_CLIENT,
    TOTAL_BYTES_TO_PEER, TOTAL_CONTROL, TOTAL_GATHERS, TOTAL_INTERRUPTED,
    TOTAL_PACKETS_RECEIVED, TOTAL_PACKETS_TO_CLIENT, TOTAL_PACKETS_TO_PEER, TOTAL_RECEIVE_CALLS,
    TOTAL_SEGMENTED_SENDS, TOTAL_SEND_CALLS, TOTAL_SENT_SINGLY, TOTAL_SHORT_CUTS, TOTAL_WAKEUPS,
    TOTALS, Worker,
)

import numpy as np

FLOW_TYPE = np.dtype(
    [
        ("allocation", "u4"),
        ("session", "u4"),
        ("channel", "u4"),
        ("packets_to_peer", "u8"),
        ("bytes_to_peer", "u8"),
        ("packets_to_client", "u8"),
        ("bytes_to_client", "u8"),
    ]
)
SESSION_TYPE = np.dtype([("session", "u4"), ("active_seconds", "u8")])

cdef packed struct FlowRow:
    uint32_t allocation
    uint32_t session
    uint32_t channel
    uint64_t packets_to_peer
    uint64_t bytes_to_peer
    uint64_t packets_to_client
    uint64_t bytes_to_client

cdef packed struct SessionRow:
    uint32_t session
    uint64_t active_seconds

_TOTAL_NAMES = {
    TOTAL_PACKETS_RECEIVED: "packets_received",
    TOTAL_PACKETS_TO_PEER: "packets_to_peer",
    TOTAL_BYTES_TO_PEER: "bytes_to_peer",
    TOTAL_PACKETS_TO_CLIENT: "packets_to_client",
    TOTAL_BYTES_TO_CLIENT: "bytes_to_client",
    TOTAL_SHORT_CUTS: "short_cuts",
    TOTAL_WAKEUPS: "wakeups",
    TOTAL_GATHERS: "gathers",
    TOTAL_RECEIVE_CALLS: "receive_calls",
    TOTAL_SEND_CALLS: "send_calls",
    TOTAL_SEGMENTED_SENDS: "segmented_sends",
    TOTAL_SENT_SINGLY: "sent_singly",
    TOTAL_INTERRUPTED: "interrupted",
    TOTAL_CONTROL: "control_datagrams",
    DROP_MALFORMED: "drop_malformed",
    DROP_LINK_LOCAL: "drop_link_local",
    DROP_NO_ALLOCATION: "drop_no_allocation",
    DROP_NO_CHANNEL: "drop_no_channel",
    DROP_NO_PERMISSION: "drop_no_permission",
    DROP_EXPIRED: "drop_expired",
    DROP_FORBIDDEN: "drop_forbidden",
    DROP_RATE: "drop_rate",
    DROP_UNPAID: "drop_unpaid",
    DROP_SEND_BUFFER: "drop_send_buffer",
    DROP_MESSAGE_SIZE: "drop_message_size",
    DROP_SEND_ERROR: "drop_send_error",
    DROP_CONTROL_QUEUE: "drop_control_queue",
    DROP_ICMP_RATE: "drop_icmp_rate",
}
assert len(_TOTAL_NAMES) == TOTALS


cdef void read_flow(const Tables *tables, uint32_t slot, FlowRow *row) noexcept:
    cdef const Flow *flow = &tables.flows[slot]
    cdef const FlowCounters *counters
    cdef uint32_t lane
    memset(row, 0, sizeof(FlowRow))
    row.allocation = flow.allocation
    row.session = flow.session
    row.channel = flow.channel
    for lane in range(tables.workers + 1):
        counters = &tables.counters[lane][slot]
        row.packets_to_peer += load_relaxed_64(&counters.packets_to_peer)
        row.bytes_to_peer += load_relaxed_64(&counters.bytes_to_peer)
        row.packets_to_client += load_relaxed_64(&counters.packets_to_client)
        row.bytes_to_client += load_relaxed_64(&counters.bytes_to_client)


cdef void read_session(const Tables *tables, uint32_t slot, SessionRow *row) noexcept:
    row.session = slot
    row.active_seconds = active_seconds(&tables.sessions[slot])


cdef object living_flows(const Tables *tables):
    """One row a living permission or channel, of type `FLOW_TYPE`."""
    cdef uint32_t allocation, slot
    cdef Py_ssize_t row = 0
    cdef FlowRow[::1] rows
    array = np.empty(tables.flow_pool.live, dtype=FLOW_TYPE)
    rows = array
    for allocation in range(1, tables.allocation_pool.used + 1):
        if not tables.allocations[allocation].live:
            continue
        slot = tables.allocations[allocation].first_flow
        while slot:
            read_flow(tables, slot, &rows[row])
            row += 1
            slot = tables.flows[slot].next_of_allocation
    assert row == tables.flow_pool.live
    return array


cdef object living_sessions(const Tables *tables):
    """One row a living session, of type `SESSION_TYPE`."""
    cdef uint32_t session
    cdef Py_ssize_t row = 0
    cdef SessionRow[::1] rows
    array = np.empty(tables.session_pool.live, dtype=SESSION_TYPE)
    rows = array
    for session in range(1, tables.session_pool.used + 1):
        if tables.sessions[session].live:
            read_session(tables, session, &rows[row])
            row += 1
    assert row == tables.session_pool.live
    return array


cdef object harvest_flows(Tables *tables):
    """Read what closed flows counted last, and free their slots."""
    cdef FlowRow[::1] rows
    cdef uint32_t slot
    cdef Py_ssize_t row = 0
    array = np.empty(tables.closed_flow_count, dtype=FLOW_TYPE)
    rows = array
    while tables.closed_flows:
        slot = tables.closed_flows
        tables.closed_flows = tables.flows[slot].next
        read_flow(tables, slot, &rows[row])
        row += 1
        free_closed_flow(tables, slot)
    tables.closed_flow_count = 0
    return array


cdef object harvest_sessions(Tables *tables):
    """Read what closed sessions counted last, and free their slots."""
    cdef SessionRow[::1] rows
    cdef uint32_t slot
    cdef Py_ssize_t row = 0
    array = np.empty(tables.closed_session_count, dtype=SESSION_TYPE)
    rows = array
    while tables.closed_sessions:
        slot = tables.closed_sessions
        tables.closed_sessions = tables.sessions[slot].next
        read_session(tables, slot, &rows[row])
        row += 1
        free_closed_session(tables, slot)
    tables.closed_session_count = 0
    return array


cdef dict sum_totals(Worker **workers, uint32_t count):
    """What so many workers count, summed, by name."""
    cdef uint32_t i
    cdef int which
    cdef uint64_t amount
    cdef dict result = {}
    for which in range(TOTALS):
        amount = 0
        for i in range(count):
            amount += load_relaxed_64(&workers[i].totals[which])
        result[_TOTAL_NAMES[which]] = amount
    return result
