// What people write to each other. A message is kept for a peer until their page has said that it
// has it, and told again over a new connection; the list has a limit.

import { randomName, utf8 } from "./bytes.js";

const TEXT_MAXIMUM_BYTES = 16 * 1024;
const MESSAGES_MAXIMUM = 500;
const ID = /^[a-z2-7]{16}$/;

export class Chat extends EventTarget {
  constructor() {
    super();
    this.messages = []; // {id, from, name, text, at_ms, mine}, the oldest first.
    this.waiting = new Map(); // By peer: messages that they haven't confirmed, by id.
    this.lines = new Map(); // By peer: how to send them a frame.
    this.taken = new Map(); // By peer: ids of what they have said, the oldest first.
  }

  /** Say it to `peerIds`; RangeError where it is too long or empty. */
  say(text, { you, name, peerIds }) {
    const size = utf8(text).byteLength;
    if (!size || size > TEXT_MAXIMUM_BYTES) {
      throw new RangeError(`a message has 1 to ${TEXT_MAXIMUM_BYTES} bytes`);
    }
    const id = randomName(16);
    this.add({ id, from: you, name, text, at_ms: Date.now(), mine: true });
    for (const peer of peerIds) {
      const waiting = this.waiting.get(peer) ?? new Map();
      this.waiting.set(peer, waiting);
      waiting.set(id, text);
      if (waiting.size > MESSAGES_MAXIMUM) waiting.delete(waiting.keys().next().value);
      this.lines.get(peer)?.({ type: "text", id, text });
    }
  }

  /** A connection to that peer stands; `send(frame)` carries an object to them. */
  open(peer, send) {
    this.lines.set(peer, send);
    for (const [id, text] of this.waiting.get(peer) ?? []) send({ type: "text", id, text });
  }

  close(peer) {
    this.lines.delete(peer);
  }

  forget(peer) {
    this.close(peer);
    this.waiting.delete(peer);
    this.taken.delete(peer);
  }

  /** Take a frame of theirs; false where it is none. */
  receive(peer, name, frame) {
    if (typeof frame.id !== "string" || !ID.test(frame.id)) return false;
    if (frame.type === "taken") {
      this.waiting.get(peer)?.delete(frame.id);
      return true;
    }
    const { id, text } = frame;
    if (frame.type !== "text" || typeof text !== "string") return false;
    if (!text || utf8(text).byteLength > TEXT_MAXIMUM_BYTES) return false;
    this.lines.get(peer)?.({ type: "taken", id });
    const taken = this.taken.get(peer) ?? new Set();
    this.taken.set(peer, taken);
    if (taken.has(id)) return true;
    taken.add(id);
    if (taken.size > MESSAGES_MAXIMUM) taken.delete(taken.values().next().value);
    this.add({ id: `${peer}:${id}`, from: peer, name, text, at_ms: Date.now(), mine: false });
    return true;
  }

  add(message) {
    this.messages.push(message);
    if (this.messages.length > MESSAGES_MAXIMUM) this.messages.shift();
    this.dispatchEvent(new Event("change"));
  }
}
