"""The workers' counters as Python has them: arrays of flows and sessions, and totals by name."""

from libc.stdint cimport uint32_t

from relay.dataplane.tables cimport Tables
from relay.dataplane.worker cimport Worker

cdef object living_flows(const Tables *tables)
cdef object living_sessions(const Tables *tables)
cdef object harvest_flows(Tables *tables)
cdef object harvest_sessions(Tables *tables)
cdef dict sum_totals(Worker **workers, uint32_t count)
