"""Both ends of the node's Unix socket.

`framing` cuts the byte stream, `messages` says what may be said, `connection` is the protocol
without I/O, `server` and `client` join it to trio.
"""
