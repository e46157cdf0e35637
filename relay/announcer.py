"""What `montana up` says on standard output: JSON events for programs, sentences for people."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence

from core.version import VERSION
from relay.language import text

_log = logging.getLogger("montana.node")


class Announcer:
    """Tells standard output what becomes of the node; a reader that has left is not missed."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def ready(
        self,
        *,
        turn: list[str],
        http: str | None,
        socket: str,
        metrics: str | None,
        check_is_open: bool,
        bridges: Sequence[str],
        fingerprint: str | None,
        room_link: str | None = None,
        invitation_link: str | None = None,
    ) -> None:
        """The node takes requests from now on.

        Args:
            turn: such as ``udp://127.0.0.1:3478``.
            http: where the pages are, such as ``http://127.0.0.1:8790``.
            socket: the path of the Unix socket.
            metrics: such as ``http://127.0.0.1:9641``.
            check_is_open: the check page needs no link.
            bridges: those that are configured.
            fingerprint: SHA-256 of a certificate that the node has made itself.
            room_link: opens a room to try, as its host. For a node in development alone: of a
                service, standard output is kept in a journal, and a link is a secret.
            invitation_link: opens the same room to somebody else.
        """
        if self._as_json:
            self._event(
                "ready",
                turn=turn,
                http=http,
                socket=socket,
                metrics=metrics,
                bridges=list(bridges),
                room_link=room_link,
                invitation_link=invitation_link,
            )
            return
        self._say(text("ready", version=VERSION, turn=", ".join(turn)))
        if room_link is not None:
            self._say(text("room_link", url=room_link))
        if invitation_link is not None:
            self._say(text("invitation_link", url=invitation_link))
        if http is not None and check_is_open:
            self._say(text("open_check", url=f"{http}/check"))
        elif http is not None:
            self._say(text("make_link"))
        if fingerprint is not None:
            self._say(text("fingerprint", fingerprint=fingerprint))
        if bridges:
            self._say(text("bridges_start", names=", ".join(bridges)))
        else:
            self._say(text("no_bridges"))
        self._say(text("ctrl_c"))

    def draining(self, *, allocations: int, timeout_s: int) -> None:
        """No new allocations; those that live end within `timeout_s`."""
        if self._as_json:
            self._event("draining", allocations=allocations, timeout_s=timeout_s)
        elif allocations:
            self._say(text("draining", allocations=allocations, timeout_s=timeout_s))

    def stopped(self) -> None:
        """The last word."""
        if self._as_json:
            self._event("stopped")
        else:
            self._say(text("stopped"))

    def _event(self, name: str, **fields: object) -> None:
        self._say(json.dumps({"event": name, **fields}))

    def _say(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            _log.debug("nobody reads standard output")
            # What is buffered must not fail once more when the process ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
