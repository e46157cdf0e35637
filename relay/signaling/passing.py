"""What of a page's signal may pass to the other one."""

from __future__ import annotations

from core.errors import SignalingError
from relay.signaling.descriptions import (
    IsOwn,
    relayed_candidate_untrusted,
    relayed_description_untrusted,
)
from relay.signaling.messages import Candidate, Description, Passed, Signal


def pass_on_untrusted(sender: str, message: Signal, is_own_relay: IsOwn | None) -> Passed | None:
    """The message as the other one gets it; None where nothing of it is left.

    Args:
        sender: the peer's id.
        is_own_relay: where nothing may pass that names another address than a relay's of this
            node; None where all may.

    Raises:
        SignalingError: ``malformed``, ``bad-description``, ``too-large``.
    """
    description, candidates = message.description, message.candidates
    if description is None and not candidates:
        raise SignalingError("malformed", "a signal has a description or candidates")
    if is_own_relay is not None:
        if description is not None:
            stripped = relayed_description_untrusted(description.sdp, is_own_relay)
            description = Description(description.type, stripped)
        candidates = relayed_candidates_untrusted(candidates, is_own_relay)
        if description is None and not candidates:
            return None
    return Passed(sender, message.connection, description, candidates)


def relayed_candidates_untrusted(
    candidates: list[Candidate], is_own_relay: IsOwn
) -> list[Candidate]:
    """Those of them that are of this node's relays, and say nothing else."""
    kept = []
    for candidate in candidates:
        text = relayed_candidate_untrusted(candidate.candidate, is_own_relay)
        if text is not None:
            kept.append(
                Candidate(
                    text,
                    candidate.sdp_mid,
                    candidate.sdp_m_line_index,
                    candidate.username_fragment,
                )
            )
    return kept
