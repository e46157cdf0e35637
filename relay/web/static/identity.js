// Two kinds of key that live in this browser. The identity says in a call that this is the same
// browser as last time; it can't be read out and nothing else hangs on it. The account is money:
// the node knows it as `key:...`, and its owner may take it along.

import { base32, base64url, hex, utf8 } from "./bytes.js";
import { dropKey, keepFirstKey, keepKey, readKey } from "./store.js";

const IDENTITY = "identity";
const ACCOUNT = "account";
const ED25519 = { name: "Ed25519" };
const P256 = { name: "ECDSA", namedCurve: "P-256" };
const P256_SIGNING = { name: "ECDSA", hash: "SHA-256" };
const SIGN_IN = "montana sign-in 1";

/** The algorithms by the number that stands for them beside a key; keys and signatures in bytes. */
const ALGORITHMS = new Map([
  [1, { key: ED25519, signing: ED25519, key_bytes: 32 }],
  [2, { key: P256, signing: P256_SIGNING, key_bytes: 65 }],
]);
export const SIGNATURE_BYTES = 64;

/** How long the key of that algorithm is; undefined where there is no such algorithm. */
export const keyBytes = (algorithm) => ALGORITHMS.get(algorithm)?.key_bytes;

/** Whether `signature` over `data` is that key's. */
export async function isSignedBy(algorithm, key, signature, data) {
  const { key: name, signing } = ALGORITHMS.get(algorithm);
  try {
    const imported = await crypto.subtle.importKey("raw", key, name, false, ["verify"]);
    return await crypto.subtle.verify(signing, imported, signature, data);
  } catch {
    return false; // No point of the curve.
  }
}

/** SHA-256 of a public identity key in hexadecimal digits: what it is kept and compared under. */
export async function identityName(algorithm, key) {
  const data = new Uint8Array([algorithm, ...key]);
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));
}

/** The first 8 bytes of SHA-256 of a public identity key, for people: `ab12 cd34 ef56 7890`. */
export async function identityLabel(key) {
  const digest = hex(new Uint8Array(await crypto.subtle.digest("SHA-256", key)));
  return digest.slice(0, 16).match(/.{4}/g).join(" ");
}

/** This browser's identity: {algorithm, key: raw bytes, name, label, sign(bytes)}. */
export class Identity {
  constructor(algorithm, pair, key) {
    this.algorithm = algorithm;
    this.pair = pair;
    this.key = key;
  }

  /** The one that is kept, made where there is none. A browser that keeps nothing (private
   * windows of some) has one for as long as the page is open. */
  static async load() {
    let kept = null;
    try {
      kept = await readKey(IDENTITY);
      kept ??= await keepFirstKey(IDENTITY, await generated());
    } catch {
      kept ??= await generated();
    }
    const raw = await crypto.subtle.exportKey("raw", kept.pair.publicKey);
    const identity = new Identity(kept.algorithm, kept.pair, new Uint8Array(raw));
    identity.name = await identityName(identity.algorithm, identity.key);
    identity.label = await identityLabel(identity.key);
    return identity;
  }

  async sign(data) {
    const { signing } = ALGORITHMS.get(this.algorithm);
    return new Uint8Array(await crypto.subtle.sign(signing, this.pair.privateKey, data));
  }
}

async function generated() {
  for (const [algorithm, { key }] of ALGORITHMS) {
    try {
      const pair = await crypto.subtle.generateKey(key, false, ["sign", "verify"]);
      return { algorithm, pair };
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
    }
  }
  throw new DOMException("no algorithm to sign with", "NotSupportedError");
}

/** An account of the node's that is a key pair of this browser's. `address` is `key:...`. */
export class Account {
  constructor(pair, publicKey) {
    this.pair = pair;
    this.key = base32(publicKey);
    this.address = `key:${this.key}`;
  }

  /** The account that is kept here, or null. */
  static async load() {
    const pair = await readKey(ACCOUNT);
    return pair ? Account.of(pair) : null;
  }

  /** The account that is kept here, made where there is none. */
  static async make() {
    const fresh = await crypto.subtle.generateKey(ED25519, true, ["sign", "verify"]);
    return Account.of(await keepFirstKey(ACCOUNT, fresh));
  }

  /** Take over what `exported` has written, in place of what was kept here. Raises TypeError
   * where it isn't that. */
  static async take(text) {
    const parts = /^montana-account:([\w-]{43}):([\w-]{43})$/.exec(text.trim());
    if (!parts) throw new TypeError("this is no account");
    const open = { kty: "OKP", crv: "Ed25519", x: parts[2] };
    const make = (key, use) => crypto.subtle.importKey("jwk", key, ED25519, true, [use]);
    let pair;
    try {
      const privateKey = await make({ ...open, d: parts[1] }, "sign");
      pair = { privateKey, publicKey: await make(open, "verify") };
    } catch {
      throw new TypeError("this is no account");
    }
    const probe = crypto.getRandomValues(new Uint8Array(16));
    const signature = await crypto.subtle.sign(ED25519, pair.privateKey, probe);
    if (!(await crypto.subtle.verify(ED25519, pair.publicKey, signature, probe))) {
      throw new TypeError("this is no account");
    }
    await keepKey(ACCOUNT, pair);
    return Account.of(pair);
  }

  /** Forget the account in this browser. Without what `exported` wrote it is gone for good. */
  static forget() {
    return dropKey(ACCOUNT);
  }

  static async of(pair) {
    const raw = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
    return new Account(pair, raw);
  }

  /** The account with its secret, as one line for its owner. */
  async exported() {
    const { d, x } = await crypto.subtle.exportKey("jwk", this.pair.privateKey);
    return `montana-account:${d}:${x}`;
  }

  /** AccountProof for `Welcome.challenge`, good for this page's origin. */
  async prove(challenge) {
    const data = utf8([SIGN_IN, location.origin, challenge].join("\n"));
    const signature = await crypto.subtle.sign(ED25519, this.pair.privateKey, data);
    return { key: this.key, signature: base64url(new Uint8Array(signature)) };
  }
}
