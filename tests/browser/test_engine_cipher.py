"""What the pages encrypt is what another implementation says it should be."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Page

from tests.support.browser import browser
from tests.support.signaling_server import signaling_server

TRANSCRIPT = bytes(range(32))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with signaling_server() as server, browser() as chromium:
        opened = chromium.new_page()
        opened.goto(f"{server.url}/test")
        yield opened


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def data_of(written: str) -> bytes:
    return base64.urlsafe_b64decode(written + "=" * (-len(written) % 4))


def framed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


class Other:
    """The far side, written anew in Python."""

    def __init__(self, role: str, key: ec.EllipticCurvePrivateKey, public: bytes) -> None:
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
        secret = key.exchange(ec.ECDH(), point)
        self.role = role
        self.keys = {
            direction: AESGCM(
                HKDF(
                    hashes.SHA256(), 32, TRANSCRIPT, f"montana channels 1 {direction}".encode()
                ).derive(secret)
            )
            for direction in "ab"
        }

    def nonce(self, channel: int, counter: int) -> bytes:
        return channel.to_bytes(4, "big") + counter.to_bytes(8, "big")

    def additional(self, direction: str, channel: int, counter: int) -> bytes:
        nonce = self.nonce(channel, counter)
        return framed(direction.encode(), nonce[:4], nonce[4:])

    def seal(self, channel: int, counter: int, data: bytes) -> bytes:
        additional = self.additional(self.role, channel, counter)
        sealed = self.keys[self.role].encrypt(self.nonce(channel, counter), data, additional)
        return counter.to_bytes(8, "big") + sealed

    def open(self, channel: int, counter: int, message: bytes) -> bytes:
        direction = {"a": "b", "b": "a"}[self.role]
        assert message[:8] == counter.to_bytes(8, "big")
        additional = self.additional(direction, channel, counter)
        nonce = self.nonce(channel, counter)
        return self.keys[direction].decrypt(nonce, message[8:], additional)


def paired(page: Page, role: str) -> Other:
    """Have the page make a cipher; its far side."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    theirs = page.evaluate(
        """async ([role, other, transcript]) => {
          const [bytes, module] = await Promise.all([
            import("/static/bytes.js"), import("/static/cipher.js"),
          ]);
          const pair = await module.ephemeralPair();
          const [key, salt] = [other, transcript].map(bytes.fromBase64url);
          window.cipher = await module.Cipher.create(role, pair.privateKey, key, salt);
          window.seal = async (channel, data) =>
            bytes.base64url(await cipher.seal(channel, bytes.fromBase64url(data)));
          window.unseal = (channel, message) =>
            cipher.open(channel, bytes.fromBase64url(message).buffer).then(
              bytes.base64url, (error) => error.name,
            );
          const raw = await crypto.subtle.exportKey("raw", pair.publicKey);
          return bytes.base64url(new Uint8Array(raw));
        }""",
        [role, text(public), text(TRANSCRIPT)],
    )
    return Other({"a": "b", "b": "a"}[role], key, data_of(theirs))


def unseal(page: Page, channel: int, message: bytes) -> Any:
    return page.evaluate("([channel, data]) => unseal(channel, data)", [channel, text(message)])


@pytest.mark.parametrize("role", ["a", "b"])
def test_both_implementations_read_each_other(page: Page, role: str) -> None:
    other = paired(page, role)
    for counter, data in enumerate([b"", b"x", os.urandom(70_000)]):
        sealed = page.evaluate("([channel, data]) => seal(channel, data)", [2, text(data)])
        assert other.open(2, counter, data_of(sealed)) == data
        assert unseal(page, 1, other.seal(1, counter, data)) == text(data)


def test_what_is_repeated_or_left_out_or_changed_is_refused(page: Page) -> None:
    other = paired(page, "a")
    first, second, third = (other.seal(1, counter, b"data") for counter in range(3))
    assert unseal(page, 1, second) == "CipherFailure"
    assert unseal(page, 1, first) == text(b"data")
    assert unseal(page, 1, first) == "CipherFailure"
    assert unseal(page, 1, third) == "CipherFailure"
    # Of another channel, and one's own sent back.
    assert unseal(page, 2, first) == "CipherFailure"
    own = page.evaluate("([channel, data]) => seal(channel, data)", [3, text(b"own")])
    assert unseal(page, 3, data_of(own)) == "CipherFailure"
    assert unseal(page, 1, second[:-1] + bytes([second[-1] ^ 1])) == "CipherFailure"
    assert unseal(page, 4, b"short") == "CipherFailure"


def test_a_hash_in_pieces_is_the_hash_of_all(page: Page) -> None:
    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 4096, 100_003]
    found = page.evaluate(
        """async (sizes) => {
          const [{ Sha256 }, { hex }] = await Promise.all([
            import("/static/sha256.js"), import("/static/bytes.js"),
          ]);
          return sizes.map((size) => {
            const data = new Uint8Array(size).map((_, index) => index * 7);
            const hash = new Sha256();
            for (let at = 0, piece = 1; at < size; at += piece, piece = (piece * 5) % 997) {
              hash.update(data.subarray(at, Math.min(size, at + piece)));
            }
            return hex(hash.digest());
          });
        }""",
        sizes,
    )
    whole = [bytes(index * 7 & 255 for index in range(size)) for size in sizes]
    assert found == [hashlib.sha256(data).hexdigest() for data in whole]


def test_an_account_is_taken_along_and_proves_itself(page: Page) -> None:
    address, exported, taken, proof, key = page.evaluate(
        """async () => {
          const { Account } = await import("/static/identity.js");
          const made = await Account.make();
          const exported = await made.exported();
          await Account.forget();
          const taken = await Account.take(exported);
          const again = await Account.load();
          const proof = await again.prove("challenge");
          return [made.address, exported, taken.address, proof, again.key];
        }"""
    )
    assert address == taken == f"key:{key}"
    public = base64.b32decode(key.upper() + "====")
    assert data_of(exported.rsplit(":", 1)[1]) == public
    signed = "\n".join(["montana sign-in 1", page.evaluate("location.origin"), "challenge"])
    Ed25519PublicKey.from_public_bytes(public).verify(data_of(proof["signature"]), signed.encode())
    wrong = page.evaluate(
        """() => import("/static/identity.js").then(({ Account }) =>
          Account.take("montana-account:no").catch((error) => error.name))"""
    )
    assert wrong == "TypeError"
