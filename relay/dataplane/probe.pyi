"""What the packet path reads in a datagram and writes before one, as Python values."""

CLASSES: tuple[str, ...]

def classify(datagram: bytes) -> str:
    """The name in `CLASSES` of what a datagram from a client is."""

def counts_as_stun(datagram: bytes) -> bool:
    """Whether a relayed payload is STUN, which makes no second an active one."""

def counts_as_link_local(ip: bytes) -> bool:
    """Whether a client of this address is not served."""

def read_send(datagram: bytes) -> tuple[bytes, int, bytes, bool] | None:
    """(peer IP, peer port, payload, whether DF is asked for) of what `classify` has called "send";
    None where the packet path leaves it to the control plane."""

def write_data(
    peer_ip: bytes, peer_port: int, payload: bytes, random_a: int, random_b: int
) -> bytes:
    """A whole Data indication, padded."""
