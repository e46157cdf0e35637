// Files from peer to peer. The sender offers, the receiver accepts from the byte that it has, which
// is 0 at first; after a new connection both say so again, and it goes on from there. The receiver
// confirms what it has written, and no more than a window goes ahead of that, so that nothing
// piles up where a disk is slow. At the end both have the same SHA-256 or it has failed.
//
// A frame is a byte that says what it is, then JSON (0), or a file's id (16 characters), the
// offset (8 bytes) and a piece of it (1).

import { concatenated, hex, randomName, utf8 } from "./bytes.js";
import { Sha256 } from "./sha256.js";
import { keptSink } from "./sinks.js";

const JSON_FRAME = 0;
const PIECE_FRAME = 1;
const ID_CHARACTERS = 16;
const ID = /^[a-z2-7]{16}$/;
const HEAD_BYTES = 1 + ID_CHARACTERS + 8;
const READ_BYTES = 1024 * 1024;
const WINDOW_BYTES = 8 * 1024 * 1024;
const CONFIRM_BYTES = 512 * 1024;
const NAME_MAXIMUM_CHARACTERS = 255;
const TYPE_MAXIMUM_CHARACTERS = 127;
const JSON_MAXIMUM_BYTES = 16 * 1024;
/** Of one peer in one direction that are not over. */
export const AT_ONCE_MAXIMUM = 8;
const LISTED_MAXIMUM = 100;

const decoder = new TextDecoder();
const OVER = ["done", "failed", "declined"];
const isOver = ({ status }) => OVER.includes(status);

/**
 * All files of a meeting. `list` is what the pages show: {id, peer, from, name, size, type,
 * sent_or_received_bytes, direction: "out"|"in", status, reason, sha256, blob}; `reason` of what
 * has failed: `cancelled`, `lost`, `unreadable`, `unwritable`, `damaged`. `blob` is there once a
 * file has come in that the user has chosen no place for.
 */
export class Files extends EventTarget {
  constructor() {
    super();
    this.list = [];
    this.lines = new Map(); // By peer: {send(bytes), drained(), piece_bytes}.
    this.pumping = new Set();
  }

  /** Offer `file` to each of the peers; the transfers' ids. */
  offer(file, you, peers) {
    for (const peer of peers) {
      if (this.open(peer, "out").length >= AT_ONCE_MAXIMUM) {
        throw new RangeError(`${AT_ONCE_MAXIMUM} files at once`);
      }
    }
    return peers.map((peer) => {
      const transfer = this.add({
        id: randomName(ID_CHARACTERS), peer, from: you, name: safeName(file.name),
        size: file.size, type: safeType(file.type), direction: "out",
      });
      transfer.private = { file, position: 0, confirmed: 0, hashed: 0, hash: new Sha256(), run: 0 };
      this.sendOffer(transfer);
      return transfer.id;
    });
  }

  /** Take the file in, into `sink` (see sinks.js) or what this browser keeps for the page. */
  async accept(id, sink = null) {
    const transfer = this.find(id, "in", "offered");
    this.set(transfer, { status: "running" });
    transfer.private = { sink: null, hash: new Sha256(), confirmed: 0 };
    transfer.private.sink = sink ?? (await keptSink(transfer.type));
    if (isOver(transfer)) {
      await transfer.private.sink.abort();
    } else if (this.lines.has(transfer.peer)) {
      this.set(transfer, { status: "running" });
      this.say(transfer, { type: "accept", offset: 0 });
    }
  }

  decline(id) {
    const transfer = this.find(id, "in", "offered");
    this.set(transfer, { status: "declined" });
    this.say(transfer, { type: "decline" });
  }

  /** End it, on either side. */
  cancel(id) {
    const transfer = this.list.find((one) => one.id === id && !isOver(one));
    if (!transfer) return;
    this.say(transfer, { type: "cancel" });
    this.fail(transfer, "cancelled");
  }

  /** A connection to the peer stands. */
  connect(peer, line) {
    this.lines.set(peer, line);
    for (const transfer of this.open(peer, "out")) this.sendOffer(transfer);
    for (const transfer of this.open(peer, "in")) {
      if (transfer.status === "paused" && transfer.private.sink) this.goOn(transfer, line);
    }
  }

  /** Have the sender go on behind what is written, once that is known. */
  async goOn(transfer, line) {
    await transfer.private.writing;
    if (transfer.status !== "paused" || this.lines.get(transfer.peer) !== line) return;
    this.set(transfer, { status: "running" });
    transfer.private.confirmed = transfer.sent_or_received_bytes;
    this.say(transfer, { type: "accept", offset: transfer.sent_or_received_bytes });
  }

  /** The connection to the peer is gone; another one may come. */
  disconnect(peer) {
    this.lines.delete(peer);
    for (const transfer of this.list) {
      if (transfer.peer !== peer || transfer.status !== "running") continue;
      this.set(transfer, { status: "paused" });
      transfer.private.wake?.();
    }
  }

  /** The peer has gone for good. */
  forget(peer) {
    this.lines.delete(peer);
    for (const transfer of this.list) {
      if (transfer.peer === peer && !isOver(transfer)) this.fail(transfer, "lost");
    }
  }

  /** Take a frame of the peer's; false where it is none. The next waits until this is done. */
  async receive(peer, name, bytes) {
    if (bytes[0] === PIECE_FRAME) return this.takePiece(peer, bytes);
    if (bytes[0] !== JSON_FRAME || bytes.byteLength > JSON_MAXIMUM_BYTES) return false;
    let frame;
    try {
      frame = JSON.parse(decoder.decode(bytes.subarray(1)));
    } catch {
      return false;
    }
    if (typeof frame?.id !== "string" || !ID.test(frame.id)) return false;
    if (frame.type === "offer") return this.takeOffer(peer, frame);
    // A peer sees to its own transfers and no other's.
    const transfer = this.list.find((one) => one.id === frame.id && one.peer === peer);
    const is_ours = transfer?.direction === "out";
    if (!transfer) {
      // Of before a reload.
      if (frame.type === "accept") this.send(peer, { type: "cancel", id: frame.id });
    } else if (frame.type === "cancel") {
      if (!isOver(transfer)) this.fail(transfer, "cancelled");
    } else if (is_ours && !isOver(transfer)) {
      return this.takeReply(transfer, frame);
    } else if (!is_ours && frame.type === "end") {
      await this.takeEnd(transfer, frame);
    }
    return true;
  }

  // ---------------------------------------------------------------- the sender's side

  takeReply(transfer, { type, offset }) {
    const state = transfer.private;
    if (type === "decline") {
      this.set(transfer, { status: "declined" });
    } else if (type === "done") {
      this.set(transfer, { status: "done", sent_or_received_bytes: transfer.size });
    } else if (type === "confirm" && isWithin(offset, state.confirmed, state.position)) {
      state.confirmed = offset;
      this.set(transfer, { sent_or_received_bytes: offset });
    } else if (type === "accept" && isWithin(offset, 0, state.hashed)) {
      state.position = offset;
      state.confirmed = offset;
      state.run += 1;
      this.set(transfer, { status: "running", sent_or_received_bytes: offset });
      this.pump(transfer.peer);
    } else {
      return false;
    }
    state.wake?.();
    return true;
  }

  /** Send what is accepted, a file at a time. */
  async pump(peer) {
    if (this.pumping.has(peer)) return;
    this.pumping.add(peer);
    try {
      const next = () =>
        this.open(peer, "out").find((one) => one.status === "running" && !this.isSent(one));
      for (let transfer = next(); transfer && this.lines.has(peer); transfer = next()) {
        await this.sendFrom(transfer, this.lines.get(peer));
      }
    } finally {
      this.pumping.delete(peer);
    }
  }

  isSent({ private: state }) {
    return state.ended === state.run;
  }

  async sendFrom(transfer, line) {
    const state = transfer.private;
    const { run } = state;
    const goes_on = () =>
      state.run === run && transfer.status === "running" && this.lines.get(transfer.peer) === line;
    while (state.position < transfer.size) {
      let block;
      try {
        block = await read(state.file, state.position, READ_BYTES);
      } catch {
        if (!goes_on()) return;
        this.say(transfer, { type: "cancel" });
        this.fail(transfer, "unreadable");
        return;
      }
      for (let at = 0; at < block.byteLength; at += line.piece_bytes) {
        while (goes_on() && state.position - state.confirmed >= WINDOW_BYTES) await woken(state);
        await line.drained();
        if (!goes_on()) return;
        const piece = block.subarray(at, at + line.piece_bytes);
        const fresh = Math.max(0, state.hashed - state.position);
        state.hash.update(piece.subarray(fresh));
        const head = pieceHead(transfer.id, state.position);
        state.position += piece.byteLength;
        state.hashed = Math.max(state.hashed, state.position);
        await line.send(concatenated(head, piece));
      }
    }
    if (!goes_on()) return;
    transfer.sha256 ??= hex(state.hash.digest());
    state.ended = run;
    this.say(transfer, { type: "end", sha256: transfer.sha256 });
  }

  sendOffer(transfer) {
    const { name, size, type: media_type } = transfer;
    this.say(transfer, { type: "offer", name, size, media_type });
  }

  // ---------------------------------------------------------------- the receiver's side

  takeOffer(peer, { id, name, size, media_type }) {
    if (typeof name !== "string" || !Number.isSafeInteger(size) || size < 0) return false;
    if (this.list.some((one) => one.id === id)) {
      const known = this.list.find((one) => one.id === id && one.peer === peer);
      // The sender has not heard how it went.
      if (known?.status === "done") this.say(known, { type: "done" });
      if (known?.status === "declined") this.say(known, { type: "decline" });
      if (known?.status === "failed") this.say(known, { type: "cancel" });
      return true;
    }
    if (this.open(peer, "in").length >= AT_ONCE_MAXIMUM) {
      this.send(peer, { type: "decline", id });
      return true;
    }
    const type = safeType(media_type);
    this.add({ id, peer, from: peer, name: safeName(name), size, type, direction: "in" });
    return true;
  }

  async takePiece(peer, bytes) {
    if (bytes.byteLength <= HEAD_BYTES) return false;
    const id = decoder.decode(bytes.subarray(1, 1 + ID_CHARACTERS));
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const offset = Number(view.getBigUint64(1 + ID_CHARACTERS));
    const transfer = this.list.find((one) => one.id === id && one.peer === peer);
    if (!transfer) return false;
    // It was cancelled while this was on its way, or is resumed elsewhere.
    if (transfer.direction !== "in" || transfer.status !== "running") return true;
    if (offset !== transfer.sent_or_received_bytes) return true;
    const piece = bytes.subarray(HEAD_BYTES);
    if (offset + piece.byteLength > transfer.size) return false;
    transfer.private.writing = this.write(transfer, piece);
    await transfer.private.writing;
    return true;
  }

  async write(transfer, piece) {
    const state = transfer.private;
    try {
      await state.sink.write(piece);
    } catch {
      if (isOver(transfer)) return;
      this.say(transfer, { type: "cancel" });
      this.fail(transfer, "unwritable");
      return;
    }
    state.hash.update(piece);
    const received = transfer.sent_or_received_bytes + piece.byteLength;
    this.set(transfer, { sent_or_received_bytes: received });
    if (received - state.confirmed >= CONFIRM_BYTES) {
      state.confirmed = received;
      this.say(transfer, { type: "confirm", offset: received });
    }
  }

  async takeEnd(transfer, { sha256 }) {
    if (transfer.status !== "running") return;
    // Said before the sender heard from where to go on.
    if (transfer.sent_or_received_bytes !== transfer.size) return;
    const state = transfer.private;
    const digest = hex(state.hash.digest());
    if (digest !== sha256) {
      this.say(transfer, { type: "cancel" });
      this.fail(transfer, "damaged");
      return;
    }
    let blob;
    try {
      blob = await state.sink.close();
    } catch {
      this.say(transfer, { type: "cancel" });
      this.fail(transfer, "unwritable");
      return;
    }
    this.set(transfer, { status: "done", sha256: digest, blob });
    this.say(transfer, { type: "done" });
  }

  // ---------------------------------------------------------------- both

  open(peer, direction) {
    return this.list.filter(
      (one) => one.peer === peer && one.direction === direction && !isOver(one),
    );
  }

  find(id, direction, status) {
    const found = this.list.find((one) => one.id === id && one.direction === direction);
    if (found?.status !== status) throw new RangeError("there is no such file");
    return found;
  }

  add(fields) {
    const transfer = {
      ...fields, sent_or_received_bytes: 0, status: "offered", reason: null, sha256: null, blob: null,
    };
    Object.defineProperty(transfer, "private", { writable: true, enumerable: false, value: {} });
    this.list.push(transfer);
    if (this.list.length > LISTED_MAXIMUM) {
      const oldest = this.list.findIndex(isOver);
      if (oldest >= 0) this.list.splice(oldest, 1);
    }
    this.dispatchEvent(new Event("change"));
    return transfer;
  }

  set(transfer, fields) {
    Object.assign(transfer, fields);
    this.dispatchEvent(new Event("change"));
  }

  fail(transfer, reason) {
    this.set(transfer, { status: "failed", reason });
    transfer.private.wake?.();
    // What was written so far is of no use, and a sink that is broken may not even say so.
    transfer.private.sink?.abort().catch(() => {});
  }

  say(transfer, frame) {
    this.send(transfer.peer, { ...frame, id: transfer.id });
  }

  send(peer, frame) {
    const bytes = concatenated(new Uint8Array([JSON_FRAME]), utf8(JSON.stringify(frame)));
    this.lines.get(peer)?.send(bytes);
  }
}

async function read(file, offset, size) {
  return new Uint8Array(await file.slice(offset, offset + size).arrayBuffer());
}

const isWithin = (offset, least, most) =>
  Number.isInteger(offset) && offset >= least && offset <= most;

function woken(state) {
  return new Promise((resolve) => {
    state.wake = resolve;
  });
}

function pieceHead(id, offset) {
  const head = new Uint8Array(HEAD_BYTES);
  head[0] = PIECE_FRAME;
  head.set(utf8(id), 1);
  new DataView(head.buffer).setBigUint64(1 + ID_CHARACTERS, BigInt(offset));
  return head;
}

/** A name without what separates folders, can't be seen, or turns the order of letters round. */
function safeName(name) {
  const safe = name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}/\\:]/gu, "_").trim();
  const short = [...safe].slice(-NAME_MAXIMUM_CHARACTERS).join("");
  return /^\.*$/.test(short) ? "file" : short;
}

function safeType(type) {
  const is_type = typeof type === "string" && type.length <= TYPE_MAXIMUM_CHARACTERS;
  return is_type && /^[\w.+-]+\/[\w.+-]+$/.test(type) ? type : "application/octet-stream";
}
