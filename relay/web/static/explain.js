// What has gone wrong, and what to do about it, in plain words.

import { text } from "./text.js";

// What the node refuses; see `Error` in the protocol. Others are told by its own sentence.
const CODES = new Set([
  "bad-secret",
  "expired",
  "used-up",
  "full",
  "locked",
  "not-resumable",
  "token-needed",
  "proof-needed",
  "bad-proof",
  "stale-proof",
  "no-money",
  "quota",
  "busy",
  "blocked",
  "no-account",
  "no-voucher",
  "bad-voucher",
  "voucher-redeemed",
  "unavailable",
  "too-many",
  "version",
  "not-host",
  "bad-description",
  "lost",
]);
// Why a session is over; see `Ended`.
const REASONS = new Set([
  "left",
  "kicked",
  "denied",
  "locked",
  "replaced",
  "room-closed",
  "no-money",
  "quota",
  "hung-up",
  "rejected",
  "missed",
  "failed",
  "silence",
  "account-frozen",
  "account-closed",
  "lost",
  "not-resumable",
]);
const MEDIA = new Set(["refused", "missing", "busy", "insecure", "unsupported"]);

/** {title, advice} of a failure: the node's (`code`), a device's (`reason`), or one of our own. */
export function explainFailure(failure) {
  if (MEDIA.has(failure.reason)) return ofKey(`media_${failure.reason}`);
  if (failure.code === "device-lost") return ofKey(`lost_${failure.values.device}`);
  if (failure.code === "device-replaced")
    return ofKey(`replaced_${failure.values.device}`, failure.values);
  if (CODES.has(failure.code)) return ofKey(`code_${underscored(failure.code)}`, failure.values);
  if (failure.code) return { title: text("code_other"), advice: failure.message ?? failure.code };
  return { title: text("code_internal"), advice: String(failure.message ?? failure) };
}

/** {title, advice} of why a room or call is over. */
export function explainEnd(reason) {
  return ofKey(REASONS.has(reason) ? `over_${underscored(reason)}` : "over_other", { reason });
}

/** Why this browser can make no call at all: a key of texts, or null where it can. */
export function missingAbility() {
  if (!window.isSecureContext) return "insecure";
  if (!("RTCPeerConnection" in window)) return "no_webrtc";
  return null;
}

export function ofKey(key, values = {}) {
  return { title: text(key, values), advice: text(`${key}_advice`, values) };
}

function underscored(code) {
  return code.replaceAll("-", "_");
}
