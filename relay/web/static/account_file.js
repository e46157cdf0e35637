// An account's line (`Account.exported`) behind a passphrase, for its owner to keep.

import { base64url, fromBase64url, utf8 } from "./bytes.js";

const HEAD = "montana-sealed";
const ITERATIONS = 600_000; // OWASP's figure for PBKDF2 with SHA-256.
const SALT_BYTES = 16;
const NONCE_BYTES = 12;

/** `montana-sealed:SALT:NONCE:CIPHERTEXT`. */
export async function sealAccount(line, passphrase) {
  const salt = crypto.getRandomValues(new Uint8Array(SALT_BYTES));
  const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const key = await deriveKey(passphrase, salt);
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv: nonce }, key, utf8(line));
  return [HEAD, ...[salt, nonce, new Uint8Array(sealed)].map(base64url)].join(":");
}

export const isSealed = (text) => text.trim().startsWith(`${HEAD}:`);

/** The line again. Raises TypeError where the text or the passphrase is wrong. */
export async function openAccount(text, passphrase) {
  const [salt, nonce, sealed] = text.trim().split(":").slice(1).map(fromBase64url);
  if (!sealed) throw new TypeError("this is no account");
  const key = await deriveKey(passphrase, salt);
  try {
    const opened = await crypto.subtle.decrypt({ name: "AES-GCM", iv: nonce }, key, sealed);
    return new TextDecoder().decode(opened);
  } catch {
    throw new TypeError("the passphrase does not open it");
  }
}

async function deriveKey(passphrase, salt) {
  const secret = await crypto.subtle.importKey("raw", utf8(passphrase), "PBKDF2", false, [
    "deriveKey",
  ]);
  const how = { name: "PBKDF2", hash: "SHA-256", salt, iterations: ITERATIONS };
  return crypto.subtle.deriveKey(how, secret, { name: "AES-GCM", length: 256 }, false, [
    "encrypt",
    "decrypt",
  ]);
}
