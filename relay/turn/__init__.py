"""Sans-I/O TURN server (RFC 8656)."""
