"""Atomic loads and stores: the only way in which threads of the data plane share memory.

`sequential` orders publication against reclamation (see tables.pxd), `acquire` and `release`
publish an initialised slot, `relaxed` is for counters with one writer each.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from * nogil:
    """
    #define montana_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define montana_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define montana_load_sequential(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define montana_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define montana_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define montana_store_sequential(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define montana_increment_sequential(p) __atomic_add_fetch((p), 1, __ATOMIC_SEQ_CST)
    #define montana_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
    /* True when *p was `expected` and is `desired` now. */
    #define montana_swap(p, expected, desired) __extension__ ({ \
        __typeof__(*(p)) montana_expected = (expected); \
        __atomic_compare_exchange_n((p), &montana_expected, (desired), 0, \
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED); })
    /* A counter that one thread alone writes: no locked instruction is needed. */
    #define montana_bump(p, v) \
        __atomic_store_n((p), __atomic_load_n((p), __ATOMIC_RELAXED) + (v), __ATOMIC_RELAXED)
    """
    uint32_t load_relaxed_32 "montana_load_relaxed"(const uint32_t *) noexcept
    uint64_t load_relaxed_64 "montana_load_relaxed"(const uint64_t *) noexcept
    uint32_t load_acquire_32 "montana_load_acquire"(const uint32_t *) noexcept
    uint64_t load_acquire_64 "montana_load_acquire"(const uint64_t *) noexcept
    uint32_t load_sequential_32 "montana_load_sequential"(const uint32_t *) noexcept
    uint64_t load_sequential_64 "montana_load_sequential"(const uint64_t *) noexcept
    void store_relaxed_32 "montana_store_relaxed"(uint32_t *, uint32_t) noexcept
    void store_relaxed_64 "montana_store_relaxed"(uint64_t *, uint64_t) noexcept
    void store_release_32 "montana_store_release"(uint32_t *, uint32_t) noexcept
    void store_release_64 "montana_store_release"(uint64_t *, uint64_t) noexcept
    void store_sequential_32 "montana_store_sequential"(uint32_t *, uint32_t) noexcept
    void store_sequential_64 "montana_store_sequential"(uint64_t *, uint64_t) noexcept
    uint64_t increment_sequential_64 "montana_increment_sequential"(uint64_t *) noexcept
    uint32_t exchange_32 "montana_exchange"(uint32_t *, uint32_t) noexcept
    bint swap_64 "montana_swap"(uint64_t *, uint64_t, uint64_t) noexcept
    void bump_64 "montana_bump"(uint64_t *, uint64_t) noexcept
