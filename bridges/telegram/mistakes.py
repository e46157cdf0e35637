"""What nobody has foreseen, in the log."""

from __future__ import annotations

import logging

from core.log import log_event, stack_of

_log = logging.getLogger("montana.bridge.telegram")


def log_mistake(event: str, error: Exception, **fields: object) -> None:
    """Log what nobody has foreseen; what it says may quote what somebody has written."""
    log_event(
        _log,
        logging.ERROR,
        event,
        error=type(error).__name__,
        **fields,
        exception=stack_of(error),
    )
