// Figures, times and names as people read them.

import { currentLanguage, number, text } from "./text.js";

/** Seconds as 0:07, 12:34 or 1:02:03. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** An amount of Ɉ that the node has written, as the language writes numbers. */
export function money(written, has_sign = false) {
  const value = Number(written);
  if (!Number.isFinite(value)) return written;
  const sign = has_sign && value > 0 ? "+" : "";
  const said = value.toLocaleString(currentLanguage(), { maximumFractionDigits: 6 });
  return `${sign}${said}\u00a0Ɉ`;
}

const UNITS = ["bytes", "kib", "mib", "gib"];

export function size(bytes) {
  const power = bytes ? Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10)) : 0;
  const value = bytes / 1024 ** power;
  return text(UNITS[power], { value: number(value, power && value < 100 ? 1 : 0) });
}

/** The hour and minute of a time in milliseconds since 1970. */
export function timeOfDay(at_ms) {
  return new Date(at_ms).toLocaleTimeString(currentLanguage(), {
    hour: "2-digit",
    minute: "2-digit",
  });
}

/** Day, hour and minute of what `Date` takes. */
export function moment(when) {
  return new Date(when).toLocaleString(currentLanguage(), {
    dateStyle: "medium",
    timeStyle: "short",
  });
}

/** An address that people can tell from another one: a key has 52 letters. */
export function shortAddress(address) {
  return address.length > 24 ? `${address.slice(0, 10)}…${address.slice(-4)}` : address;
}

/** What to call a peer. */
export function nameOf(peer) {
  return peer?.name ? shortAddress(peer.name) : text("guest");
}

/** One or two letters for whom no picture is shown. */
export function initials(name) {
  const words = name
    .replace(/^\w+:/, "")
    .split(/[\s_.-]+/)
    .filter(Boolean);
  const letters = words
    .slice(0, 2)
    .map((word) => [...word][0])
    .join("");
  return (letters || "?").toLocaleUpperCase();
}
