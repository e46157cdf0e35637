"""Where datagrams enter and leave the TURN server."""
