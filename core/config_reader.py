"""Reads one TOML document key by key and keeps every complaint, to make them all at once.

A `Table` hands out values by key and remembers which keys were asked for; what is left in the
end was a typo. The functions below it turn one TOML value each into what the program wants, or
raise `ValueError` with a sentence that completes "the key ...".
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

from core import limits
from core.stun.address import Address

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Table:
    """One table of the document, and the list of problems that all its tables share."""

    def __init__(self, values: Mapping[str, Any], path: str, problems: list[str]) -> None:
        self._values = values
        self._path = path
        self._problems = problems
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fills(self, key: str) -> bool:
        """Whether `key` is there and holds anything, right or wrong."""
        return bool(self._values.get(key))

    def holds_text(self, key: str) -> bool:
        """Whether `key` is text, for keys that take one thing or a list of them."""
        return isinstance(self._values.get(key), str)

    def complain(self, key: str, sentence: str) -> None:
        """Note that `key` of this table is wrong."""
        where = f"{self._path}.{key}" if self._path else key
        self._problems.append(f"{where}: {sentence}")

    def table(self, key: str) -> Table:
        """The table under `key`; an empty one where there is none."""
        self._known.append(key)
        values = self._values.get(key, {})
        if not isinstance(values, dict):
            self.complain(key, f"is a table, not {spoken(values)}; write [{self._join(key)}]")
            values = {}
        return Table(values, self._join(key), self._problems)

    def tables(self, key: str, maximum: int) -> list[Table]:
        """The tables under `key`, written as ``[[key]]``."""
        self._known.append(key)
        values = self._values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
            self.complain(key, f"are tables; write [[{self._join(key)}]]")
            return []
        if len(values) > maximum:
            self.complain(key, f"has {len(values)} entries, {maximum} are allowed")
            return []
        return [
            Table(one, f"{self._join(key)}[{index}]", self._problems)
            for index, one in enumerate(values)
        ]

    def raw(self, key: str) -> Any:
        """What stands under `key`, unread."""
        return self._values.get(key)

    def value(self, key: str, parse: Callable[[Any], T], default: T) -> T:
        """The value of `key`, or `default` where it is absent or wrong."""
        self._known.append(key)
        if key not in self._values:
            return default
        try:
            return parse(self._values[key])
        except ValueError as error:
            self.complain(key, str(error))
            return default

    def items(
        self, key: str, parse: Callable[[Any], T], maximum: int, default: tuple[T, ...] = ()
    ) -> tuple[T, ...]:
        """The list under `key`, each of its entries parsed, none twice.

        The items that are right are returned even where others are wrong.
        """
        self._known.append(key)
        if key not in self._values:
            return default
        values = self._values[key]
        if not isinstance(values, list):
            self.complain(key, f"is a list, not {spoken(values)}; put it in [ ]")
            return default
        if len(values) > maximum:
            self.complain(key, f"has {len(values)} entries, {maximum} are allowed")
            return default
        parsed: list[T] = []
        for index, value in enumerate(values):
            try:
                item = parse(value)
            except ValueError as error:
                self.complain(f"{key}[{index}]", str(error))
                continue
            if item in parsed:
                self.complain(f"{key}[{index}]", "stands in the list twice")
                continue
            parsed.append(item)
        return tuple(parsed)

    def pairs(self, maximum: int) -> Mapping[str, Any]:
        """Every key of a table whose keys the operator chooses."""
        if len(self._values) > maximum:
            self._problems.append(
                f"{self._path}: has {len(self._values)} entries, {maximum} are allowed"
            )
            return {}
        return self._values

    def finish(self) -> None:
        """Complain about every key that nobody has asked for."""
        for key in self._values:
            if key in self._known:
                continue
            near = difflib.get_close_matches(key, self._known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(self._known)}"
            self.complain(key, f"is unknown; {hint}")

    def _join(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def spoken(value: object) -> str:
    """What kind of TOML value this is, for a sentence. Never the value: it may be a secret."""
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number with a point",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


def text(value: object) -> str:
    """Any text that is not empty."""
    if not isinstance(value, str):
        raise ValueError(f"is text in quotes, not {spoken(value)}")
    if not value:
        raise ValueError("is empty")
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def flag(value: object) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError(f"is true or false, not {spoken(value)}")
    return value


def number(minimum: int, maximum: int) -> Callable[[object], int]:
    """A parser of whole numbers from `minimum` to `maximum`."""

    def parse(value: object) -> int:
        # bool is an int to Python, not to whoever wrote `workers = true`.
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"is a whole number, not {spoken(value)}")
        if not minimum <= value <= maximum:
            raise ValueError(f"is {value}, but has to be from {minimum} to {maximum}")
        return value

    return parse


def choice(*options: str) -> Callable[[object], str]:
    """A parser of one of `options`."""

    def parse(value: object) -> str:
        if text(value) not in options:
            raise ValueError(f"is one of {', '.join(options)}")
        return text(value)

    return parse


def secret(value: object) -> str:
    """What others can't guess."""
    written = text(value)
    if len(written.strip()) < limits.SECRET_MINIMUM_CHARACTERS:
        raise ValueError(
            f"is too short to be a secret: {limits.SECRET_MINIMUM_CHARACTERS} characters at "
            "least; take what `openssl rand -base64 32` prints"
        )
    return written


def room_token(value: object) -> str:
    """A secret that people type."""
    token = secret(value)
    if len(token) > limits.ROOM_TOKEN_MAXIMUM_CHARACTERS or not token.isprintable():
        raise ValueError(f"has {limits.ROOM_TOKEN_MAXIMUM_CHARACTERS} printable characters at most")
    return token


def region(value: object) -> str:
    """A country in two letters."""
    # Late: it takes a while, and few files name a region.
    from phonenumbers import SUPPORTED_REGIONS

    written = text(value)
    if written not in SUPPORTED_REGIONS:
        raise ValueError("is a country in two capital letters, such as DE")
    return written


def amount(value: object) -> str:
    """An amount of more than nothing, in Ɉ."""
    written = text(value)
    if not _AMOUNT.fullmatch(written) or not written.strip("0."):
        raise ValueError('is an amount of more than nothing in quotes, such as "5" or "0.5"')
    return written


def price(value: object) -> str:
    """A price in Ɉ, which may be nothing."""
    written = text(value)
    if not _AMOUNT.fullmatch(written):
        raise ValueError('is a price in quotes, such as "1" or "0.05"; "0" for nothing')
    if Decimal(written) > limits.PRICE_MAXIMUM_J:
        raise ValueError(f"is a price of {limits.PRICE_MAXIMUM_J:,} J at most")
    return written


def origin(value: object) -> str:
    """``https://example.org:8443``, as browsers write it (RFC 6454 section 6.2): in small letters,
    without the port that its scheme has anyway."""
    written = text(value).rstrip("/")
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError:
        raise ValueError("is a URL such as https://node.example or https://[::1]:8790") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("is a URL such as https://node.example")
    if not written.isascii() or not written.isprintable() or " " in written:
        raise ValueError("is a URL such as https://node.example, in ASCII without blanks")
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("is a URL without a path, such as https://node.example")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if not _HOST.fullmatch(host):
        raise ValueError("names one host, such as https://node.example")
    shown_port = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{shown_port}"


def ip(value: object) -> bytes:
    """A packed IP address that can be bound or told to others: neither a wildcard nor one
    that needs an interface's name beside it."""
    address = _ip(text(value))
    if address.is_unspecified:
        raise ValueError(f"{address} is a wildcard; name one of the machine's addresses")
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise ValueError(f"{address} is an address of many, not of one machine")
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local:
        raise ValueError(f"{address} is a link-local address, which other networks can't reach")
    return address.packed


def host_port(value: object, default_port: int | None = None) -> Address:
    """``127.0.0.1:8790`` or ``[::1]:8790``; a wildcard IP and port 0 (any free one) may be."""
    written = text(value)
    example = "such as 127.0.0.1:8790 or [::1]:8790"
    if written.startswith("["):
        host, bracket, rest = written[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"is an IP address and a port, {example}")
        port_text = rest[1:]
    else:
        host, _, port_text = written.partition(":")
        if ":" in port_text:
            raise ValueError(f"has an IPv6 address, which stands in brackets, {example}")
    address = _ip(host)
    if bool(address.version == 6) != written.startswith("["):
        raise ValueError(f"is an IP address and a port, {example}")
    if not port_text and default_port is not None and not written.endswith(":"):
        return Address(address.packed, default_port)
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5):
        raise ValueError(f"lacks its port, {example}")
    port = int(port_text)
    if port > limits.PORT_MAXIMUM:
        raise ValueError(f"has port {port}, but ports end at {limits.PORT_MAXIMUM}")
    return Address(address.packed, port)


def network(value: object) -> Network:
    """``192.168.0.0/16``, ``fd00::/8``, or an IP address alone."""
    written = text(value)
    try:
        parsed = ipaddress.ip_network(written, strict=False)
    except ValueError:
        raise ValueError("is a network such as 192.168.0.0/16 or fd00::/8") from None
    if "/" in written and ipaddress.ip_interface(written).ip != parsed.network_address:
        raise ValueError(f"has bits set after its prefix; the network is {parsed}")
    if isinstance(parsed, ipaddress.IPv6Network) and parsed.network_address.ipv4_mapped:
        raise ValueError("is IPv4 in IPv6 form; write it as an IPv4 network, both forms are meant")
    return parsed


def port_range(value: object) -> tuple[int, int]:
    """``[49152, 65535]``: the first and the last port."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("is a list of two ports, the first and the last: [49152, 65535]")
    port = number(limits.RELAY_PORT_MINIMUM, limits.PORT_MAXIMUM)
    first, last = port(value[0]), port(value[1])
    if first > last:
        raise ValueError(f"ends before it begins; write [{last}, {first}]")
    return first, last


def _ip(written: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        raise ValueError(f"{written!r} is no IP address (names are not looked up)") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{written!r} names an interface, which is not supported")
        if address.ipv4_mapped is not None:
            raise ValueError(f"{written!r} is IPv4 in IPv6 form; write {address.ipv4_mapped}")
    return address
