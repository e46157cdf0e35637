"""Both ends of the node's Unix socket.

`framing` cuts the byte stream, `messages` and `bridge_messages` say what may be said, `connection`
is the protocol without I/O. `server` (who is let in: `admission`; what is answered: `serving`) joins
it to trio, `client` to trio and asyncio.
"""
