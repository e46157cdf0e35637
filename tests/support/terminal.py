"""Commands run in this process against a real socket, whose answers a test gives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from core.api.server import ApiServer
from core.api.serving import Handler
from relay import cli


class Terminal:
    """Runs commands in this process, whose trio is in another thread."""

    def __init__(self, capsys: pytest.CaptureFixture[str], socket: Path) -> None:
        self.capsys = capsys
        self.socket = socket

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = await trio.to_thread.run_sync(self._exit_code, list(words))
        return (code, *self.capsys.readouterr())

    def _exit_code(self, words: list[str]) -> int:
        with pytest.raises(SystemExit) as exited:
            cli.main([*words, "--socket", str(self.socket)])
        code = exited.value.code
        assert isinstance(code, int)
        return code


@asynccontextmanager
async def terminal(
    capsys: pytest.CaptureFixture[str], folder: Path, answer: Handler
) -> AsyncIterator[Terminal]:
    """A terminal whose commands `answer` replies to, through a socket in `folder`."""
    path = folder / "node.sock"
    async with ApiServer(path, software="test") as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, answer)
        yield Terminal(capsys, path)
        nursery.cancel_scope.cancel()
