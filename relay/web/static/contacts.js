// Whom one has called: kept in this browser and nowhere else.

import { kept } from "./page.js";

const KEPT = "montana-contacts";
const MAXIMUM = 200;

/** [{address, name}], whom one has called last first. */
export function readContacts() {
  try {
    const found = JSON.parse(kept(KEPT) ?? "[]");
    return Array.isArray(found) ? found.filter(({ address }) => typeof address === "string") : [];
  } catch {
    return [];
  }
}

/** Remember an address, at the top; a name that was given before stays. */
export function keepContact(address, name = null) {
  const all = readContacts();
  const before = all.find((contact) => contact.address === address);
  const contact = { address, name: name ?? before?.name ?? "" };
  write([contact, ...all.filter((other) => other.address !== address)].slice(0, MAXIMUM));
}

export function dropContact(address) {
  write(readContacts().filter((contact) => contact.address !== address));
}

function write(contacts) {
  kept(KEPT, JSON.stringify(contacts));
}
