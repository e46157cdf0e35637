"""Sans-I/O codec of STUN (RFC 8489), TURN (RFC 8656) and ChannelData."""
