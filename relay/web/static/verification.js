// Whether the far page is who it seems: both commit to what they are about to reveal, reveal it,
// and get from it a short string that people compare. Who sits in between has to commit before
// anything is known, and is left with one guess in 2^42.
//
// What is revealed: a nonce, an ephemeral key, and an identity key that signs one's own DTLS
// fingerprint, the ephemeral key and the place. The string hangs on both fingerprints as each side
// sees them: a node that puts its own there is seen even by who has never met the other.

import {
  base64url, concatenated, equalBytes, framed, fromBase64url, fromHex, hex, utf8,
} from "./bytes.js";
import { Cipher, ephemeralPair } from "./cipher.js";
import { EMOJI } from "./emoji.js";
import { SIGNATURE_BYTES, identityLabel, identityName, isSignedBy, keyBytes } from "./identity.js";

const COMMIT = "montana commit 1";
const IDENTITY = "montana identity 1";
const TRANSCRIPT = "montana transcript 1";
const STRING = "montana string 1";
const NONCE_BYTES = 32;
const EPHEMERAL_BYTES = 65;
const SYMBOLS = 7;
const SYMBOL_BITS = 6n;

/** `reason`: `commit`, `signature`, `fingerprint`, or `malformed`. */
export class VerificationFailure extends Error {
  constructor(reason, message) {
    super(message);
    this.name = "VerificationFailure";
    this.reason = reason;
  }
}

/** The one SHA-256 fingerprint in a description, 32 bytes (RFC 8122 section 5). With several, a
 * browser could go by another one than this page shows. */
export function fingerprintOf(description) {
  const lines = description.sdp.match(/^a=fingerprint:.*$/gim) ?? [];
  const values = new Set(lines.map((line) => line.slice("a=fingerprint:".length).trim().toLowerCase()));
  const [algorithm, digest] = [...values][0]?.split(/\s+/) ?? [];
  if (values.size !== 1 || algorithm !== "sha-256" || !/^(?:[0-9a-f]{2}:){31}[0-9a-f]{2}$/.test(digest)) {
    throw new VerificationFailure("fingerprint", "there is not one SHA-256 fingerprint");
  }
  return fromHex(digest.replaceAll(":", ""));
}

/**
 * One side of the handshake over one connection; messages in, messages out.
 *
 * After `receive` of the other's reveal `result` is {emoji, words_index, label, identity_name,
 * cipher, failure: null|reason}. Without `cipher` nothing may be said to the other.
 */
export class Handshake {
  /**
   * @param role "a" of the peer whose id is smaller, "b" of the other.
   * @param place id of the room or call.
   * @param fingerprints {own, other}: 32 bytes each, from the descriptions on this side.
   * @param identity of this browser.
   */
  constructor({ role, place, fingerprints, identity }) {
    this.role = role;
    this.otherRole = role === "a" ? "b" : "a";
    this.place = place;
    this.fingerprints = fingerprints;
    this.identity = identity;
    this.otherCommit = null;
    this.result = null;
  }

  /** What to say first. */
  async start() {
    this.pair = await ephemeralPair();
    const raw = await crypto.subtle.exportKey("raw", this.pair.publicKey);
    const ephemeral = new Uint8Array(raw);
    const { identity } = this;
    const signed = signedData(this.role, this.fingerprints.own, ephemeral, this.place);
    this.reveal = concatenated(
      crypto.getRandomValues(new Uint8Array(NONCE_BYTES)),
      ephemeral,
      new Uint8Array([identity.algorithm]),
      identity.key,
      await identity.sign(signed),
    );
    return { type: "commit", commit: base64url(await commitTo(this.role, this.reveal)) };
  }

  /** Take the other's message; what to say to it, or null. Raises VerificationFailure. */
  async receive(message) {
    if (message.type === "commit" && !this.otherCommit) {
      this.otherCommit = bytesOf(message.commit);
      return { type: "reveal", reveal: base64url(this.reveal) };
    }
    if (message.type === "reveal" && this.otherCommit && !this.result) {
      await this.conclude(bytesOf(message.reveal));
      return null;
    }
    throw new VerificationFailure("malformed", "the message comes at the wrong time");
  }

  async conclude(reveal) {
    if (!equalBytes(await commitTo(this.otherRole, reveal), this.otherCommit)) {
      throw new VerificationFailure("commit", "what is revealed isn't what was committed to");
    }
    const { ephemeral, algorithm, key, signature } = parsedReveal(reveal);
    const data = signedData(this.otherRole, this.fingerprints.other, ephemeral, this.place);
    const is_signed = await isSignedBy(algorithm, key, signature, data);
    const { own, other } = this.fingerprints;
    const sides = [[own, this.reveal], [other, reveal]];
    if (this.role === "b") sides.reverse();
    const said = framed(utf8(TRANSCRIPT), utf8(this.place), ...sides.flat());
    const transcript = new Uint8Array(await crypto.subtle.digest("SHA-256", said));
    const words_index = await shortString(transcript);
    let cipher = null;
    if (is_signed) {
      cipher = await Cipher.create(this.role, this.pair.privateKey, ephemeral, transcript);
    }
    this.result = {
      emoji: words_index.map((index) => EMOJI[index].emoji),
      words_index,
      label: await identityLabel(key),
      identity_name: await identityName(algorithm, key),
      cipher,
      failure: is_signed ? null : "signature",
    };
  }
}

async function commitTo(role, reveal) {
  const data = concatenated(utf8(COMMIT), utf8(role), reveal);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data));
}

function signedData(role, fingerprint, ephemeral, place) {
  return framed(utf8(IDENTITY), utf8(role), fingerprint, ephemeral, utf8(place));
}

/** 42 bits of HKDF-SHA-256 over all that both sides have said, as 7 numbers of 6 bits. */
async function shortString(transcript) {
  const base = await crypto.subtle.importKey("raw", transcript, "HKDF", false, ["deriveBits"]);
  const parameters = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: utf8(STRING) };
  const bits = await crypto.subtle.deriveBits(parameters, base, 48);
  let rest = BigInt(`0x${hex(new Uint8Array(bits))}`) >> 6n;
  const numbers = [];
  for (let count = 0; count < SYMBOLS; count += 1) {
    numbers.unshift(Number(rest & 63n));
    rest >>= SYMBOL_BITS;
  }
  return numbers;
}

function bytesOf(text) {
  try {
    return fromBase64url(text);
  } catch {
    throw new VerificationFailure("malformed", "the message can't be read");
  }
}

function parsedReveal(reveal) {
  const head = NONCE_BYTES + EPHEMERAL_BYTES;
  const algorithm = reveal[head];
  const size = keyBytes(algorithm);
  if (size === undefined || reveal.byteLength !== head + 1 + size + SIGNATURE_BYTES) {
    throw new VerificationFailure("malformed", "what is revealed can't be read");
  }
  return {
    ephemeral: reveal.subarray(NONCE_BYTES, head),
    algorithm,
    key: reveal.subarray(head + 1, head + 1 + size),
    signature: reveal.subarray(head + 1 + size),
  };
}
