"""What the data plane asks of the kernel about one UDP socket: options, binding, drops."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from relay.dataplane.packet cimport Addr, to_sockaddr
from relay.dataplane.system cimport *

import os


cdef int set_option(int fd, int level, int name, int value) noexcept nogil:
    """0, or -1 where this kernel does not have the option or this process may not use it."""
    return setsockopt(fd, level, name, &value, sizeof(int))


cdef int get_option(int fd, int level, int name) noexcept nogil:
    """0 where this kernel does not have the option."""
    cdef int value = 0
    cdef socklen_t size = sizeof(int)
    getsockopt(fd, level, name, &value, &size)
    return value


cdef int new_socket(int family, int buffer_bytes, bint shared) except -1:
    """A UDP socket with everything set that listeners and relays have in common.

    Raises:
        OSError: no descriptor or memory is left, or the address family is missing.
    """
    cdef int domain = AF_INET if family == 4 else AF_INET6
    cdef int fd = socket(domain, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    if shared:
        set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1)
    # The forced form passes net.core.rmem_max, for which a capability is needed.
    if set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes) < 0:
        set_option(fd, SOL_SOCKET, SO_RCVBUF, buffer_bytes)
    if set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, buffer_bytes) < 0:
        set_option(fd, SOL_SOCKET, SO_SNDBUF, buffer_bytes)
    set_option(fd, SOL_UDP, UDP_GRO, 1)
    if family == 6:
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
    let_fragment(fd, family)
    return fd


cdef int bind_socket(int fd, const Addr *address) except -1:
    """Bind, and close the socket when that fails.

    Raises:
        OSError: with the kernel's reason.
    """
    cdef uint8_t name[32]
    cdef int error
    if bind(fd, <sockaddr *>name, to_sockaddr(address, name)) < 0:
        error = errno
        close(fd)
        raise OSError(error, os.strerror(error))
    return 0


cdef void let_fragment(int fd, int family) noexcept nogil:
    """A relay passes packets on as they are: the kernel may fragment, as a router would.

    Of the modes without DF the one is taken in which a router's "fragmentation needed" comes to
    the socket, for an earlier packet that had it.
    """
    if family == 6:
        set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DONT)
    elif set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT) < 0:
        set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)


cdef void forbid_fragments(int fd, int family) noexcept nogil:
    """With DF, whatever MTU the kernel remembers: routers answer, and the client is told."""
    if family == 6:
        set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    else:
        set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)


cdef uint64_t dropped_by_kernel(int fd) noexcept nogil:
    """Datagrams that the socket's receive buffer had no room for."""
    cdef uint32_t values[16]
    cdef socklen_t size = sizeof(values)
    memset(values, 0, sizeof(values))
    if getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &size) < 0:
        return 0
    return values[<int>SK_MEMINFO_DROPS]
