// What passes between two pages is encrypted once more within DTLS, under a secret that only the
// pages have: ECDH P-256, HKDF-SHA-256 (RFC 5869) salted with the hash of all that both have said
// before, and AES-256-GCM with a key for each direction.
//
// A message is its counter (8 bytes) and the ciphertext. The nonce is the channel's number and the
// counter; direction, channel and counter are authenticated too. Each channel delivers all in
// order, so that a counter which isn't the next one is refused: nothing can be repeated, moved
// or left out.

import { concatenated, framed, utf8 } from "./bytes.js";

const ECDH = { name: "ECDH", namedCurve: "P-256" };
const INFO = "montana channels 1";
const COUNTER_BYTES = 8;
const TAG_BYTES = 16;

/** By how many bytes a message grows. */
const OVERHEAD_BYTES = COUNTER_BYTES + TAG_BYTES;

/** What was received is no message of the other's, or not the next one. */
export class CipherFailure extends Error {
  constructor(message) {
    super(message);
    this.name = "CipherFailure";
  }
}

export function ephemeralPair() {
  return crypto.subtle.generateKey(ECDH, false, ["deriveBits"]);
}

/** Both directions of one connection's channels. */
export class Cipher {
  constructor(role, keys) {
    this.role = role;
    this.keys = keys;
    this.sent = new Map();
    this.received = new Map();
  }

  /**
   * @param role "a" of the peer whose id is smaller, "b" of the other.
   * @param privateKey one's own ECDH key; `otherKey` the other's, 65 bytes (SEC 1 section 2.3.3).
   * @param transcript SHA-256 of what both have said, 32 bytes.
   */
  static async create(role, privateKey, otherKey, transcript) {
    const open = await crypto.subtle.importKey("raw", otherKey, ECDH, false, []);
    const secret = await crypto.subtle.deriveBits({ name: "ECDH", public: open }, privateKey, 256);
    const base = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveKey"]);
    const keys = {};
    for (const direction of ["a", "b"]) {
      keys[direction] = await crypto.subtle.deriveKey(
        { name: "HKDF", hash: "SHA-256", salt: transcript, info: utf8(`${INFO} ${direction}`) },
        base,
        { name: "AES-GCM", length: 256 },
        false,
        [direction === role ? "encrypt" : "decrypt"],
      );
    }
    return new Cipher(role, keys);
  }

  /** The message for `data` (Uint8Array) on the channel of that number. Those of one channel are
   * to be sent in the order of the calls. */
  async seal(channel, data) {
    const counter = this.sent.get(channel) ?? 0;
    this.sent.set(channel, counter + 1);
    const parameters = parametersOf(this.role, channel, counter);
    const sealed = await crypto.subtle.encrypt(parameters, this.keys[this.role], data);
    return concatenated(counterBytes(counter), new Uint8Array(sealed));
  }

  /** What was sealed. Raises CipherFailure. */
  async open(channel, message) {
    const expected = this.received.get(channel) ?? 0;
    const bytes = new Uint8Array(message);
    if (bytes.byteLength < OVERHEAD_BYTES) throw new CipherFailure("the message is too short");
    const counter = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0));
    if (counter !== expected) throw new CipherFailure("this isn't the next message");
    this.received.set(channel, expected + 1);
    const other = this.role === "a" ? "b" : "a";
    const parameters = parametersOf(other, channel, counter);
    const sealed = bytes.subarray(COUNTER_BYTES);
    try {
      return new Uint8Array(await crypto.subtle.decrypt(parameters, this.keys[other], sealed));
    } catch {
      throw new CipherFailure("the message isn't the other's");
    }
  }
}

function counterBytes(counter) {
  const bytes = new Uint8Array(COUNTER_BYTES);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(counter));
  return bytes;
}

function parametersOf(direction, channel, counter) {
  const iv = new Uint8Array(12);
  new DataView(iv.buffer).setUint32(0, channel);
  iv.set(counterBytes(counter), 4);
  const additionalData = framed(utf8(direction), iv.subarray(0, 4), iv.subarray(4));
  return { name: "AES-GCM", iv, additionalData };
}
