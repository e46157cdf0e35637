"""A browser that pays by the second, until its account has nothing left."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, Route

from tests.support.browser import browser, take_picture
from tests.support.node import ROOT, RunningNode, run_montana, running_node, write_config

METERED = '[billing]\nturn = "metered"\n'
PAID_S = 6
OVER = "html:is([data-verdict=pass],[data-verdict=fail],[data-verdict=untested])"


def check_longer(route: Route) -> None:
    """The page as it is, but measuring for 25 seconds in place of 6."""
    text = (ROOT / "relay/web/static/probe.js").read_text()
    assert "const MEASURE_MS = 6000;" in text
    route.fulfill(
        body=text.replace("const MEASURE_MS = 6000;", "const MEASURE_MS = 25000;"),
        content_type="text/javascript",
    )


def account(node: RunningNode, *arguments: str) -> dict[str, object]:
    shown: dict[str, object] = json.loads(node.command("account", *arguments, "--json"))
    return shown


def exported_records(node: RunningNode) -> list[dict[str, Any]]:
    """The records of the sessions that have been closed so far."""
    return [
        json.loads(line)
        for line in node.command("ledger", "export", "--format", "jsonl").splitlines()
    ]


def check_proof_offline(config: Path, record: dict[str, Any], proof: Path) -> None:
    """The node that has stopped has signed a root over the record: its proof is accepted without
    node and ledger, and refused once a byte of the record is another."""
    where = ("--config", str(config))
    verified = json.loads(run_montana("ledger", "verify", "--json", *where).stdout)
    assert verified["ok"]
    assert (verified["records"], verified["unchecked_signatures"]) == (1, 0)
    run_montana("ledger", "prove", record["id"], "--output", str(proof), *where)
    # Nothing of a node is here.
    with TemporaryDirectory() as name:
        elsewhere = Path(name)
        printed = run_montana("ledger", "check-proof", str(proof), "--json", cwd=elsewhere).stdout
        shown = json.loads(printed)
        assert shown["record"] == record
        assert shown["is_signed"]
        key = shown["public_key"]
        run_montana("ledger", "check-proof", str(proof), "--public-key", key, cwd=elsewhere)
        document = json.loads(proof.read_bytes())
        leaf = bytearray(base64.b64decode(document["leaf"]))
        place = leaf.index(record["name"].encode())
        leaf[place] = leaf[place] % 9 + ord("1")
        document["leaf"] = base64.b64encode(leaf).decode()
        document["record"]["name"] = chr(leaf[place]) + record["name"][1:]
        forged = elsewhere / "forged.json"
        forged.write_text(json.dumps(document))
        result = run_montana("ledger", "check-proof", str(forged), check=False)
        assert result.returncode == 1
        assert "the audit path doesn't lead from the record" in result.stderr


def test_a_browser_is_cut_when_its_account_runs_dry(tmp_path: Path) -> None:
    config = write_config(tmp_path, more=METERED)
    with running_node(config=config) as node, browser() as chromium:
        account(node, "create", "user:carol")
        account(node, "credit", "user:carol", str(PAID_S))
        made = node.credentials("carol")
        context = chromium.new_context(locale="en-GB")
        page: Page = context.new_page()
        page.route("**/static/*/probe.js", check_longer)
        page.goto(f"{node.http}/check")
        page.wait_for_selector(OVER)
        page.check("input[value=other]")
        page.fill("input[name=url]", made.uris[0])
        page.fill("input[name=username]", made.username)
        page.fill("input[name=password]", made.password)
        page.click("button[type=submit]")
        page.wait_for_selector("html:not([data-verdict=untested])")
        most = 0.0
        while (living := (figures := node.figures())["montana_allocations",]) or not most:
            most = max(most, living)
            if living:
                # Two allocations of one credential are one session.
                assert figures["montana_sessions",] == 1
            page.wait_for_timeout(200)
        assert most == 2
        page.wait_for_selector(OVER, timeout=40_000)
        take_picture(page, "metered-cut")
        shown = account(node, "show", "user:carol")
        assert (shown["balance"], shown["held"]) == ("0.000000", "0.000000")
        history = account(node, "history", "user:carol")
        assert node.log().count("was cut") == 1
        (record,) = exported_records(node)
        assert json.loads(node.command("ledger", "verify", "--json"))["ok"]
        context.close()
    (line,) = [line for line in history["lines"] if line["kind"] == "session"]  # type: ignore[attr-defined]
    assert line["amount"] == f"-{PAID_S}.000000"
    result = run_montana("account", "show", "node", "--config", str(config), "--json")
    assert json.loads(result.stdout)["balance"] == f"{PAID_S}.000000"
    assert (record["cost"], record["seconds"], record["name"]) == (
        f"{PAID_S}.000000",
        PAID_S,
        made.username,
    )
    check_proof_offline(config, record, tmp_path / "proof.json")
