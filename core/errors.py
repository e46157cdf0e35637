"""Every error that Montana raises on purpose, as one tree.

    MontanaError
    ├── ConfigError          what the operator wrote can't be used; says what to write instead
    ├── PeerError            what somebody sent over a network can't be used
    │   ├── StunError        not a STUN message, or one that breaks its own rules
    │   ├── SignalingError   not a message of a page that can be carried out
    │   ├── ApiError         not a message of the node's socket
    │   └── WebhookError     not a call that a bridge's webhook takes
    └── OperationError       what the operator asked for can't be done now; says what to do

A broken promise of our own is an assertion, never one of these.
"""

from __future__ import annotations


class MontanaError(Exception):
    """Any of ours."""


class ConfigError(MontanaError):
    """The configuration can't be used; the message names the key and what to write."""


class PeerError(MontanaError):
    """Something that came from a network can't be used."""


class StunError(PeerError):
    """Bytes that are no STUN message, or an attribute that breaks its rules.

    Attributes:
        code: the STUN error code that answers it (RFC 8489 section 14.8), where one does.
    """

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


class SignalingError(PeerError):
    """What a page has sent can't be used, or not now.

    Attributes:
        code: what it is told, see `relay.signaling.messages.Error`.
        values: what stands in the places of the sentence in other languages.
    """

    def __init__(self, code: str, message: str, **values: object) -> None:
        super().__init__(message)
        self.code = code
        self.values = {name: str(value) for name, value in values.items()}


class ApiError(PeerError):
    """Bytes on the node's socket that are no message of its protocol."""


class WebhookError(PeerError):
    """What a webhook was called with can't be used.

    Attributes:
        status: the HTTP status that answers it.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class OperationError(MontanaError):
    """What was asked for can't be done now; the message says what to do.

    Attributes:
        code: names the sentence for who has it in other languages; empty where nobody has.
        values: what stands in its places there.
    """

    def __init__(self, message: str, code: str = "", **values: object) -> None:
        super().__init__(message)
        self.code = code
        self.values = {name: str(value) for name, value in values.items()}


def own_error(error: BaseException) -> MontanaError | None:
    """What an error of ours, or a group of them that tasks have raised, comes down to: the first.
    None where any of it is nobody's on purpose, and its trace tells more."""
    if isinstance(error, MontanaError):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = [own_error(one) for one in error.exceptions]
    return None if None in found else found[0]
