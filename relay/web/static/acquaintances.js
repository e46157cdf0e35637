// Who has been met, by identity key: in this browser alone, and the newest first.

import { dropPerson, keepPerson, readPeople } from "./store.js";

const KEPT_MAXIMUM = 1000;

/**
 * Whether one has met that identity: `new`, `known`, `verified`, or `changed` where somebody of
 * that name or address was verified under another key. Remembers it.
 *
 * Names pass the node: whoever was verified is kept under what people saw when they compared, and
 * is not taken for somebody else whose name they bear today.
 */
export async function meet({ identity, name, address }) {
  try {
    const people = await readPeople();
    const known = people.find((person) => person.identity === identity);
    if (!known) await forgetOldest(people);
    const is_verified = known?.is_verified ?? false;
    const met_ms = Date.now();
    const kept = is_verified ? known : { identity, name, address, is_verified };
    await keepPerson({ ...kept, met_ms });
    const is_same = (person) =>
      (name && person.name === name) || (address && person.address === address);
    if (is_verified && is_same(known)) return "verified";
    if (people.some((person) => person.is_verified && is_same(person))) return "changed";
    if (is_verified) return "verified";
    return known ? "known" : "new";
  } catch {
    return "new"; // A browser that keeps nothing has met nobody.
  }
}

/** Remember that people have compared their strings, or take it back. */
export function setVerified({ identity, name, address }, is_verified) {
  return keepPerson({ identity, name, address, is_verified, met_ms: Date.now() });
}

async function forgetOldest(people) {
  if (people.length < KEPT_MAXIMUM) return;
  // Of those who were verified there is something to lose.
  const by_worth = people.toSorted(
    (one, other) => one.is_verified - other.is_verified || one.met_ms - other.met_ms,
  );
  for (const { identity } of by_worth.slice(0, people.length - KEPT_MAXIMUM + 1)) {
    await dropPerson(identity);
  }
}
