"""What deploy/ promises, held against the code and the documents."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from core.bridge_config import BRIDGES
from core.config import TurnConfig
from core.identity import FILE_NAME
from core.node_files import bridge_folder, ledger_folder, socket_path
from relay.cli_audit import BACKUP_FOLDER, ledger_group
from relay.command_line import LocalisedCommand

ROOT = Path(__file__).parents[1]


NODE_UNIT, BRIDGE_UNIT = "montana.service", "montana-bridge@.service"


def unit(name: str = NODE_UNIT) -> dict[str, list[str]]:
    """The [Service] section: every value of every key."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (ROOT / "deploy" / name).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_waits_longer_than_a_node_drains() -> None:
    default = TurnConfig(listen=(), relay_addresses=())
    assert int(unit()["TimeoutStopSec"][0]) > default.drain_timeout_s


def test_the_unit_and_the_sample_agree_on_the_data_directory() -> None:
    sample = (ROOT / "deploy" / "node.toml").read_text()
    assert f'data_dir = "/var/lib/{unit()["StateDirectory"][0]}"' in sample


@pytest.mark.parametrize("name", [NODE_UNIT, BRIDGE_UNIT])
def test_the_unit_gives_no_privilege(name: str) -> None:
    service = unit(name)
    assert service["User"] == ["montana"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == [""]
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "MemoryDenyWriteExecute"):
        assert service[key] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]


@pytest.mark.parametrize("name", [NODE_UNIT, BRIDGE_UNIT])
def test_a_gsm_bridge_reaches_modems_and_no_other_devices(name: str) -> None:
    # Either unit may be the one that runs it.
    service = unit(name)
    assert "PrivateDevices" not in service, "it hides modems"
    assert service["DevicePolicy"] == ["closed"]
    assert service["DeviceAllow"] == ["char-ttyUSB rw", "char-ttyACM rw"]


def test_the_unit_of_bridges_leaves_the_nodes_folder_as_it_is() -> None:
    # systemd sets the mode anew of the folder that stands here, and [api] group needs the node's.
    node, bridges = unit()["StateDirectory"], unit(BRIDGE_UNIT)["StateDirectory"]
    assert not set(node) & set(bridges)
    for name in BRIDGES:
        folder = bridge_folder(Path(node[0]), name)
        assert [str(folder.parent)] == bridges
    assert "ReadWritePaths" not in unit(BRIDGE_UNIT)


def test_a_bridge_sees_nothing_of_the_nodes_that_is_secret() -> None:
    service, sample = unit(BRIDGE_UNIT), (ROOT / "deploy" / "node.toml").read_text()
    data_dir = Path("/var/lib") / unit()["StateDirectory"][0]
    hidden = {path for line in service["InaccessiblePaths"] for path in line.split()}
    (private_key,) = re.findall(r'^#private_key = "(.+)"$', sample, re.MULTILINE)
    # The "-": it may start before they are there, and a node may have none of them.
    assert hidden == {
        f"-{path}"
        for path in (data_dir / FILE_NAME, ledger_folder(data_dir), BACKUP_FOLDER, private_key)
    }
    for name in BRIDGES:
        needed = {bridge_folder(data_dir, name), socket_path(data_dir), Path("/etc/montana")}
        for path in needed:
            assert not {f"-{one}" for one in (path, *path.parents)} & hidden
    assert service["UnsetEnvironment"] == ["ROOM_TOKEN"]


def test_the_unit_of_bridges_runs_the_one_that_it_is_named_after() -> None:
    service = unit(BRIDGE_UNIT)
    (command,) = service["ExecStart"]
    assert command.endswith("/montana bridge %i --config /etc/montana/node.toml")
    node_command = unit()["ExecStart"][0]
    assert command.split()[0] == node_command.split()[0]
    assert command.split()[-1] == node_command.split()[-1]
    assert service["Restart"] == ["always"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    units = []
    for name in (NODE_UNIT, BRIDGE_UNIT):
        text = (ROOT / "deploy" / name).read_text()
        # It asks whether the program is there, which stands where a node is installed.
        changed = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
        assert changed != text
        units.append(tmp_path / name.replace("@.", "@gsm."))
        units[-1].write_text(changed)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_unit_lets_the_node_write_where_the_documents_say() -> None:
    # The "-": a node without that folder starts as well.
    assert unit()["ReadWritePaths"] == [f"-{BACKUP_FOLDER}"]
    # In the node's own /tmp nobody would find what it has written there.
    assert unit()["PrivateTmp"] == ["yes"]
    texts = [(ROOT / name).read_text() for name in ("README.md", "README.ru.md")]
    for command in ledger_group.commands.values():
        assert isinstance(command, LocalisedCommand)
        texts.append("\n".join(command.examples))
    named = [
        re.findall(r"montana ledger (?:backup|restore) (\S+?)(?=[`\s]|$)", text) for text in texts
    ]
    assert all(named[:2])
    assert sum(map(len, named[2:])) == 3
    for path in [path for paths in named for path in paths]:
        assert Path(path).parent == Path(BACKUP_FOLDER)
    for text in texts[:2]:
        assert f"`install -d -o montana -g montana -m 700 {BACKUP_FOLDER}`" in text


def test_the_container_copies_what_a_build_needs() -> None:
    containerfile = (ROOT / "deploy" / "Containerfile").read_text()
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", containerfile, re.MULTILINE))
    names = {name for group in copied for name in group.split()}
    assert names == {
        "pyproject.toml", "setup.py", "README.md", "LICENSE", "core", "billing", "relay", "bridges",
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in names)


def test_socket_buffers_may_be_8_mib() -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[sysctl]\n" + (ROOT / "deploy" / "sysctl.conf").read_text())
    assert dict(parser["sysctl"]) == {
        "net.core.rmem_max": str(8 * 1024 * 1024),
        "net.core.wmem_max": str(8 * 1024 * 1024),
    }


def test_both_readmes_name_the_same_commands_keys_and_files() -> None:
    def spoken_of(name: str) -> list[str]:
        text = (ROOT / name).read_text()
        links = set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.ru.md"}
        code = set(re.findall(r"`([^`\n]+)`", text))
        return sorted(links | code)

    assert spoken_of("README.md") == spoken_of("README.ru.md")
