"""Both ends of the node's Unix socket.

`framing` cuts the byte stream, `messages` and `bridge_messages` say what may be said, `connection`
is the protocol without I/O. `server` (`admission`: who is let in, `serving`: what is answered)
joins it to trio, `client` to trio and asyncio.
"""
