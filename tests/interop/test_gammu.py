"""Debian's gammu and gammu-smsd, which know modems of all makes, on an emulated one.

What they send is read by the emulator and what they show is what the emulator wrote, so that its
PDUs are held against an implementation that shares nothing with it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.modem_emulator import EmulatedNetwork, ModemEmulator, sms_network
from tests.support.modem_faults import Refuse
from tests.support.modem_sim import SimCard
from tests.support.programs import need_program

NUMBER = "+79990000001"
SENDER = "+491701234567"
RECIPIENT = "+79997776655"
# Of the alphabet's extension too, where a character is two septets.
LONG_LATIN = "A long text that goes {on} and on, ~5 €. " * 9
LONG_EMOJI = "дом 😀 и сад 🌳, " * 12
# A machine that is busy with something else is no failure; one that hangs is.
PATIENCE_S = 300.0
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8"}


class Gateway:
    """A modem, and gammu's configuration for it."""

    def __init__(self, folder: Path, network: EmulatedNetwork, modem: ModemEmulator) -> None:
        self.folder = folder
        self.network = network
        self.modem = modem
        self.config = folder / "gammurc"
        self.config.write_text(
            f"[gammu]\nport = {modem.link}\nconnection = at\natgen_setcnmi = 2,1,2,1\n"
        )

    async def run(self, program: str, *arguments: str, succeeds: bool = True) -> str:
        """What it prints, all blanks as one."""
        ended = await trio.run_process(
            [need_program(program), "-c", str(self.config), *arguments],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            stdin=b"",
            check=False,
            env=ENVIRONMENT,
        )
        printed = ended.stdout.decode()
        assert (ended.returncode == 0) == succeeds, printed
        return " ".join(printed.split())

    async def gammu(self, *arguments: str) -> str:
        """What gammu prints."""
        return await self.run("gammu", *arguments)


@asynccontextmanager
async def gateway(folder: Path, sim: SimCard | None = None) -> AsyncIterator[Gateway]:
    need_program("gammu")
    with trio.fail_after(PATIENCE_S):
        async with sms_network() as network:
            modem = network.plug_in(
                folder / "modem", sim or SimCard(NUMBER), boot_s=0.0, ussd_packed=False
            )
            yield Gateway(folder, network, modem)
            # Nothing that it said was wrong.
            assert modem.refused == []


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.05)


@pytest.mark.trio
async def test_who_it_is_and_where(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        identity = await gate.gammu("identify")
        assert "Manufacturer : Montana" in identity
        assert "IMEI : 356938035640000" in identity
        assert f"SIM IMSI : {gate.modem.sim.imsi}" in identity
        assert f'Number : "{gate.modem.sim.smsc}"' in await gate.gammu("getsmsc")
        network = await gate.gammu("networkinfo")
        assert "Network state : home network" in network
        assert 'LAC 00C3, CID 0000AB12 Name in phone : "MTS RUS"' in network
        gate.modem.registration = 5
        assert "Network state : roaming network" in await gate.gammu("networkinfo")


@pytest.mark.trio
async def test_a_pin_is_entered(tmp_path: Path) -> None:
    async with gateway(tmp_path, SimCard(NUMBER, pin="1234")) as gate:
        assert "Waiting for PIN" in await gate.gammu("getsecuritystatus")
        await gate.gammu("entersecuritycode", "PIN", "1234")
        assert "Nothing to enter" in await gate.gammu("getsecuritystatus")
        assert gate.modem.sim.pin_entries == ["1234"]


@pytest.mark.trio
async def test_it_reads_and_deletes_what_came(tmp_path: Path) -> None:
    texts = ["hello {€}", "", "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ", LONG_LATIN, LONG_EMOJI]
    async with gateway(tmp_path) as gate:
        for text in texts:
            gate.network.deliver(NUMBER, SENDER, text)
        gate.network.deliver(NUMBER, "BANK", "привет 😀")
        gate.network.deliver(NUMBER, "900", LONG_LATIN, wide_reference=True, reference=0x1234)
        shown = await gate.gammu("geteachsms")
        for text in texts:
            assert " ".join(text.split()) in shown
        assert f'Remote number : "{SENDER}"' in shown
        assert 'Remote number : "BANK"' in shown
        assert 'Remote number : "900"' in shown
        assert "привет 😀" in shown
        assert shown.count(LONG_LATIN.strip()) == 2
        parts = len(gate.modem.sim.stores["SM"])
        assert f"{parts} SMS parts in 7 SMS sequences" in await gate.gammu("geteachsms")
        await gate.gammu("deletesms", "1", "1")
        assert len(gate.modem.sim.stores["SM"]) == parts - 1
        await gate.gammu("deleteallsms", "1")
        assert not any(gate.modem.sim.stores.values())


@pytest.mark.trio
@pytest.mark.parametrize(
    ("text", "options", "parts"),
    [
        ("hello {world}", (), 1),
        (LONG_LATIN, (), 3),
        ("привет 😀", ("-unicode",), 1),
        (LONG_EMOJI, ("-unicode",), 4),
    ],
    ids=["latin", "long latin", "emoji", "long emoji"],
)
async def test_it_sends(tmp_path: Path, text: str, options: tuple[str, ...], parts: int) -> None:
    async with gateway(tmp_path) as gate:
        printed = await gate.gammu(
            "sendsms", "TEXT", RECIPIENT, *options, "-report", "-len", "600", "-text", text
        )
        assert f"message reference={parts - 1}" in printed
        [message] = gate.network.messages
        assert (message.recipient, message.text) == (RECIPIENT, text)
        assert len(message.parts) == parts
        assert all(part.report_requested for part in message.parts)


@pytest.mark.trio
async def test_it_understands_a_refusal(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        gate.modem.faults.at_submit.append(Refuse(38))
        printed = await gate.run(
            "gammu", "sendsms", "TEXT", RECIPIENT, "-text", "hello", succeeds=False
        )
        assert "38" in printed
        assert gate.network.parts == []


@pytest.mark.trio
async def test_ussd(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        gate.network.ussd["*100#"] = "Баланс 12.34"
        assert 'Service reply : "Баланс 12.34"' in await gate.gammu("getussd", "*100#")


@pytest.mark.trio
async def test_it_monitors_what_comes(tmp_path: Path) -> None:
    output = tmp_path / "printed"
    async with gateway(tmp_path) as gate:
        with output.open("wb") as printed:
            async with trio.open_nursery() as nursery:
                process = await nursery.start(
                    partial(
                        trio.run_process,
                        [need_program("gammu"), "-c", str(gate.config), "monitor"],
                        stdout=printed,
                        stderr=subprocess.STDOUT,
                        check=False,
                        env=ENVIRONMENT,
                    )
                )
                await until(lambda: any("+CNMI=2,1" in line for line in gate.modem.commands))
                gate.network.deliver(NUMBER, SENDER, "в эфире 😀")
                await until(lambda: "в эфире 😀" in output.read_text(errors="replace"))
                process.kill()
        assert gate.modem.sim.stores["SM"] != {}


@pytest.mark.trio
async def test_the_daemon_receives_sends_and_hears_of_deliveries(tmp_path: Path) -> None:
    need_program("gammu-smsd")
    folders = {name: tmp_path / name for name in ("inbox", "outbox", "sent", "error")}
    for folder in folders.values():
        folder.mkdir()

    def inbox() -> list[str]:
        files = sorted(folders["inbox"].glob("*.txt"))
        # The text ends at its first NUL; what smsd writes behind it is left over from its buffer.
        return [file.read_text("utf-16", "replace").split("\0")[0] for file in files]

    async with gateway(tmp_path) as gate:
        with gate.config.open("a") as config:
            config.write(
                "[smsd]\nservice = files\ninboxformat = unicode\ndeliveryreport = sms\n"
                "receivefrequency = 1\ncommtimeout = 1\ncheckbattery = 0\n"
                f"logfile = {tmp_path / 'smsd.log'}\n"
                f"inboxpath = {folders['inbox']}/\noutboxpath = {folders['outbox']}/\n"
                f"sentsmspath = {folders['sent']}/\nerrorsmspath = {folders['error']}/\n"
            )
        gate.network.deliver(NUMBER, SENDER, "hello {€}")
        gate.network.deliver(NUMBER, SENDER, LONG_EMOJI)
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(
                    trio.run_process,
                    [need_program("gammu-smsd"), "-c", str(gate.config)],
                    check=False,
                    env=ENVIRONMENT,
                )
            )
            await until(lambda: len(inbox()) == 5 and not gate.modem.sim.stores["SM"])
            assert inbox()[0] == "hello {€}"
            assert "".join(inbox()[1:]) == LONG_EMOJI
            message_options = ("-report", "-unicode", "-len", "400", "-text", LONG_EMOJI)
            await gate.run("gammu-smsd-inject", "TEXT", RECIPIENT, *message_options)
            [message] = await gate.network.sent(1)
            assert (message.recipient, message.text) == (RECIPIENT, LONG_EMOJI)
            await until(lambda: inbox().count("Delivered") == len(message.parts) == 4)
            await until(lambda: len(list(folders["sent"].iterdir())) == 1)
            process.terminate()
        assert list(folders["error"].iterdir()) == []
        assert list(folders["outbox"].iterdir()) == []
