"""What a bridge does about an address that it can't listen on: it says so, and tries again, for the
rest of it serves on."""

from __future__ import annotations

import logging
from errno import EADDRINUSE
from typing import Final

from core.log import log_event
from core.stun.address import Address

LISTEN_RETRY_S: Final = 2.0

_log = logging.getLogger("montana.bridge")


class ListenTrouble:
    """What is wrong with an address, logged once until it is another thing.

    Args:
        key: of the configuration, by which the address is changed.
    """

    def __init__(self, listen: Address, key: str) -> None:
        self._listen = listen
        self._key = key
        self._told = ""

    def advice(self, error: OSError) -> str:
        """What the operator has to do."""
        # asyncio tells the number alone as it is; its text names the address once more.
        reason = "it is in use" if error.errno == EADDRINUSE else error.strerror or str(error)
        said = f"can't listen on {self._listen}: {reason}; end what uses it, or change {self._key}"
        if said != self._told:
            log_event(_log, logging.ERROR, "a bridge can't listen", advice=said)
        self._told = said
        return said
