"""The bridge's process: webhooks in, requests to Twilio and to the telephone out."""

from __future__ import annotations

import logging

import httpx
import trio

from bridges.node_link import NodeLink
from bridges.process import BridgeContext
from bridges.twilio import android, webhooks
from bridges.twilio.advice import operators_language
from bridges.twilio.carrier import TIMEOUT_S, Carrier
from bridges.twilio.figures import Figures
from bridges.twilio.inbox import Inbox
from bridges.twilio.late_answers import Way
from bridges.twilio.rest import TwilioRest
from bridges.twilio.sending import Sending
from bridges.twilio.statuses import Statuses
from bridges.twilio.webhooks import Webhooks
from core.node_files import socket_path


async def run(context: BridgeContext) -> None:
    """Serve until cancelled."""
    config = context.config.bridges.twilio
    assert config is not None
    # It logs every URL, and theirs hold ids that are nobody else's business.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    language = operators_language()
    figures = Figures(context.node)
    statuses = Statuses(context.node, context.spool, context.clock)
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client, trio.open_nursery() as nursery:
        twilio: Carrier = TwilioRest(config, client, language)
        ways = {webhooks.NAME: Way(twilio, figures), android.NAME: Way(twilio, figures)}
        links = {webhooks.NAME: context.node}
        if config.android is not None and config.android.url:
            link = NodeLink(socket_path(context.config.data_dir), android.NAME)
            links[android.NAME] = link
            ways[android.NAME] = Way(android.AndroidPhone(config.android, client), Figures(link))
            nursery.start_soon(link.run)
        inbox = Inbox(context, ways, figures)
        for name, link in links.items():
            carrier, sent = ways[name]
            sending = Sending(name, link, context.spool, context.clock, carrier, statuses, sent)
            nursery.start_soon(sending.run)
        nursery.start_soon(inbox.run)
        nursery.start_soon(statuses.run)
        nursery.start_soon(
            Webhooks(context, config, inbox, statuses, figures, language).run,
        )
