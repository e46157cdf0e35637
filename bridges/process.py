"""What every bridge's process does: it reads the configuration, holds a lock so that it is the only
one of its name, opens its spool, and keeps a connection to the node.

A bridge is a module with `async def run(context)`, which serves until it is cancelled.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import anyio

from bridges.node_link import NodeLink
from bridges.spool import Spool, open_spool
from core.bridge_config import BRIDGES
from core.clock import Clock, SystemClock
from core.config import NodeConfig
from core.config_file import load
from core.errors import ConfigError, MontanaError, OperationError, own_error
from core.lock_file import LockFile
from core.log import log_event, set_up_logging
from core.node_files import bridge_folder, socket_path

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_HELD: Final = 3
"""Another process is this bridge already."""
_ON_ASYNCIO: Final = frozenset({"telegram"})
"""Those whose library knows nothing else."""

_log = logging.getLogger("montana.bridge")


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeContext:
    """What a bridge works with."""

    name: str
    config: NodeConfig
    node: NodeLink
    spool: Spool
    clock: Clock


def main(name: str, config_path: Path, parent: int | None = None) -> int:
    """Run a bridge until a signal ends it; returns the exit code.

    Args:
        parent: the process that has started this one, and without which it ends.
    """
    try:
        return run_bridge(name, config_path, parent)
    except (MontanaError, ExceptionGroup) as error:
        # A group is what the bridge's tasks have raised.
        cause = own_error(error)
        if cause is None:
            raise
    sys.stderr.write(f"montana bridge {name}: {cause}\n")
    return EXIT_USAGE if isinstance(cause, ConfigError) else EXIT_FAILED


def run_bridge(name: str, config_path: Path, parent: int | None = None) -> int:
    """Run the bridge `name` of a configuration; `parent` as in `main`.

    Raises:
        ConfigError: the file can't be used, or has no such bridge.
        OperationError: it can't be started.
    """
    if name not in BRIDGES:
        raise ConfigError(f"there is no bridge {name!r}; there are {', '.join(BRIDGES)}")
    # What the environment says over it is about rooms and pages alone, which no bridge has.
    config = load(config_path, name)
    if name not in config.bridges.names:
        raise ConfigError(
            f"{config_path} has no [bridges.{name}]; deploy/node.toml shows what belongs there"
        )
    set_up_logging(sys.stderr, level=config.log.level, as_json=config.log.format == "json")
    folder = bridge_folder(config.data_dir, name)
    with contextlib.ExitStack() as cleanup:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = LockFile(
                folder.with_name(f"{name}.lock"),
                f"the bridge {name} is running already",
                "stop that one first",
            )
        except OSError as error:
            raise OperationError(f"{folder} can't be used: {error.strerror}") from error
        except OperationError as error:
            sys.stderr.write(f"montana bridge {name}: {error}\n")
            return EXIT_HELD
        cleanup.callback(lock.release)
        context = BridgeContext(
            name=name,
            config=replace(config, data_dir=config.data_dir.absolute()),
            node=NodeLink(socket_path(config.data_dir), name),
            spool=cleanup.enter_context(open_spool(folder)),
            clock=SystemClock(),
        )
        anyio.run(_serve, context, parent, backend="asyncio" if name in _ON_ASYNCIO else "trio")
    return 0


async def _serve(context: BridgeContext, parent: int | None) -> None:
    module = importlib.import_module(f"bridges.{context.name}.bridge")
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            if parent is not None:
                tasks.start_soon(_end_with, parent)
            tasks.start_soon(context.node.run)
            tasks.start_soon(module.run, context)
            log_event(_log, logging.INFO, "bridge started", bridge=context.name)
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()
    log_event(_log, logging.INFO, "bridge ended", bridge=context.name)


async def _end_with(parent: int) -> None:
    """End this process with the one that has started it: the next node starts bridges of its own.

    Not by prctl's PR_SET_PDEATHSIG, which is about the thread that has started it: trio lets that
    go some seconds later.
    """
    try:
        with open(os.pidfd_open(parent), "rb", buffering=0) as ended:
            if os.getppid() == parent:
                await anyio.wait_readable(ended)
    except ProcessLookupError:
        pass
    signal.raise_signal(signal.SIGTERM)
