// The connection to the node: one session over as many WebSockets as it takes.

import { tab_storage } from "./tab_storage.js";

const VERSION = 1;
const SUBPROTOCOL = "montana.1";
const BACK_OFF_MS = [250, 500, 1000, 2000, 3000];
const PING_MS = 10_000;
const PONG_MS = 5_000;
const WELCOME_MS = 10_000;
const ACTS_KEPT = 64; // Told again after a loss; who does more than that in one goes without.

/** What the node has refused, or what kept it from answering (`lost`, `version`). */
export class SignalingFailure extends Error {
  constructor({ code, message, values = {} }) {
    super(message);
    this.name = "SignalingFailure";
    this.code = code;
    this.values = values;
  }
}

/**
 * A session with the node.
 *
 * Events: `message` (detail: what the node says without having been asked), `online`, `offline`,
 * `resumed` (detail: the node's answer to Resume, or to entering anew), `gone` (detail: the
 * SignalingFailure for which the session can't go on), `refused` (detail: the failure of an act).
 */
export class Signaling extends EventTarget {
  /** `url` of the WebSocket; `storage` keeps the session over a reload, under `key`. */
  constructor({ url = defaultUrl(), storage = tab_storage, key = "montana.session" } = {}) {
    super();
    this.url = url;
    this.storage = storage;
    this.key = key;
    this.kept = readKept(storage, key);
    this.socket = null;
    this.online = false;
    this.closed = true;
    this.attempt = 0;
    this.requests = new Map(); // By seq: {resolve, reject, message, again}.
    this.acts = []; // Those that the node may not have heard: {seq, message}.
    this.tryNow = () => this.hurry();
  }

  /** What was kept beside the session by `remember`, or null where there is no session. */
  get remembered() {
    return this.kept?.session ? this.kept.place : null;
  }

  remember(place) {
    this.kept = { ...this.kept, place };
    this.keep();
  }

  /**
   * Enter by what `make(welcome)` returns, a message without `seq`; the node's answer. `again`:
   * when a session can't be resumed later, enter by the same once more.
   */
  enter(make, { again = false } = {}) {
    this.kept = { seq: 0, session: null, place: null };
    return this.begin(make, again ? make : null);
  }

  /** Take up the session that was kept before a reload. `make` as in `enter`, or null. */
  resume(make = null) {
    const { session } = this.kept;
    return this.begin(() => ({ type: "resume", session, fresh: true, ...this.named() }), make);
  }

  /** Ask for something that is answered; its answer, or SignalingFailure. */
  request(message) {
    return new Promise((resolve, reject) => {
      const request = { resolve, reject, message };
      if (this.online) this.requests.set(this.post(message), request);
      else if (this.closed) reject(lost());
      else this.requests.set(`waiting ${this.nextWaiting()}`, request);
    });
  }

  /** Do something that is not answered. It is told again if the connection was lost over it. */
  act(message) {
    const seq = this.online ? this.post(message) : 0;
    this.acts.push({ seq, message });
    if (this.acts.length > ACTS_KEPT) this.acts.shift();
  }

  /** Say something that is worth nothing later; whether it went out. */
  tell(message) {
    if (this.online) this.post(message);
    return this.online;
  }

  /** End all here; with `forget` a reload has nothing to take up. */
  close({ forget = true } = {}) {
    this.closed = true;
    this.unwatch();
    if (forget) {
      this.kept = null;
      this.keep();
    }
    this.dropSocket();
    this.setOnline(false);
    for (const { reject } of this.requests.values()) reject(lost());
    this.requests.clear();
    this.acts = [];
  }

  // ---------------------------------------------------------------- what is behind it

  begin(first, again) {
    this.again = again;
    this.closed = false;
    this.attempt = 0;
    for (const event of ["online", "focus"]) window.addEventListener(event, this.tryNow);
    document.addEventListener("visibilitychange", this.tryNow);
    window.addEventListener("offline", this.leftNetwork);
    return new Promise((resolve, reject) => {
      this.entering = { make: first, resolve, reject };
      this.connect();
    });
  }

  leftNetwork = () => {
    // The browser knows at once what a ping would find out in seconds.
    if (this.socket && !isLocal(this.url)) this.fail();
  };

  unwatch() {
    clearTimeout(this.retry);
    for (const event of ["online", "focus"]) window.removeEventListener(event, this.tryNow);
    document.removeEventListener("visibilitychange", this.tryNow);
    window.removeEventListener("offline", this.leftNetwork);
  }

  nextWaiting() {
    this.waiting = (this.waiting ?? 0) + 1;
    return this.waiting;
  }

  connect() {
    clearTimeout(this.retry);
    const socket = new WebSocket(this.url, SUBPROTOCOL);
    this.socket = socket;
    const current = (handle) => (event) => this.socket === socket && handle(event);
    this.patience = setTimeout(current(() => this.fail()), WELCOME_MS);
    socket.addEventListener("message", current(({ data }) => this.receive(data)));
    socket.addEventListener("close", current(() => this.fail()));
  }

  /** Give the socket up and come back later. */
  fail() {
    this.dropSocket();
    this.setOnline(false);
    if (this.closed) return;
    // What was asked is asked again, but for entering: `connect` does that.
    for (const [seq, request] of [...this.requests]) {
      if (typeof seq !== "number") continue;
      this.requests.delete(seq);
      if (request.message) this.requests.set(`waiting ${this.nextWaiting()}`, request);
    }
    const delay_ms = BACK_OFF_MS[Math.min(this.attempt, BACK_OFF_MS.length - 1)];
    this.attempt += 1;
    // Not all at the same moment when a node comes back.
    this.retry = setTimeout(() => this.connect(), delay_ms * (0.8 + 0.2 * Math.random()));
  }

  hurry() {
    if (this.closed || document.visibilityState === "hidden") return;
    if (!this.socket) this.connect();
    else if (this.online) this.ping();
  }

  dropSocket() {
    clearTimeout(this.patience);
    clearInterval(this.pings);
    clearTimeout(this.pongs);
    this.pongs = null;
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }

  setOnline(online) {
    if (this.online === online) return;
    this.online = online;
    this.dispatchEvent(new Event(online ? "online" : "offline"));
  }

  post(message) {
    const { type, ...rest } = message;
    const seq = (this.kept?.seq ?? 0) + 1;
    this.kept = { ...this.kept, seq };
    this.keep();
    this.socket.send(JSON.stringify({ type, seq, ...rest }));
    return seq;
  }

  keep() {
    try {
      if (this.kept) this.storage.setItem(this.key, JSON.stringify(this.kept));
      else this.storage.removeItem(this.key);
    } catch {
      // Storage that is full or forbidden costs the reload alone.
    }
  }

  receive(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      this.fail();
      return;
    }
    if (message.type === "welcome") {
      this.greet(message);
      return;
    }
    if (typeof message.re === "number") {
      this.acts = this.acts.filter(({ seq }) => seq === 0 || seq > message.re);
    }
    // The node has heard more than this page remembers: go on from there.
    if (message.last > this.kept?.seq) this.kept = { ...this.kept, seq: message.last };
    const request = this.requests.get(message.re);
    if (request) {
      this.requests.delete(message.re);
      if (message.type === "error") request.reject(new SignalingFailure(message));
      else request.resolve(message);
      return;
    }
    if (message.type === "error") {
      this.dispatchEvent(new CustomEvent("refused", { detail: new SignalingFailure(message) }));
      return;
    }
    if (message.session) this.keepSession(message.session);
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  async greet(welcome) {
    clearTimeout(this.patience);
    const { socket } = this;
    this.welcome = welcome;
    if (!welcome.versions.includes(VERSION)) {
      const message = "the node speaks another version of the protocol";
      this.giveUp(new SignalingFailure({ code: "version", message }));
      return;
    }
    const is_first = this.entering !== null;
    const make = this.entering?.make ?? (() => this.resuming());
    try {
      const answer = await this.enterBy(make, welcome);
      if (this.socket === socket) this.entered(answer, is_first);
    } catch (error) {
      if (this.socket === socket) await this.refusedToEnter(error, welcome, is_first);
    }
  }

  resuming() {
    return { type: "resume", session: this.kept.session, fresh: false, ...this.named() };
  }

  /** What one is called: a node that was started anew has kept the session without it. */
  named() {
    const name = this.kept.place?.name;
    return name === undefined ? {} : { name };
  }

  async enterBy(make, welcome) {
    const { socket } = this;
    const message = await make(welcome);
    if (this.socket !== socket) throw lost();
    return new Promise((resolve, reject) => {
      this.requests.set(this.post(message), { resolve, reject, message: null });
    });
  }

  entered(answer, is_first) {
    this.attempt = 0;
    this.keepSession(answer.session);
    this.pings = setInterval(() => this.ping(), PING_MS);
    this.setOnline(true);
    if (is_first) {
      const { resolve } = this.entering;
      this.entering = null;
      resolve(answer);
    } else {
      this.dispatchEvent(new CustomEvent("resumed", { detail: answer }));
    }
    this.catchUp();
  }

  async refusedToEnter(error, welcome, is_first) {
    const { socket } = this;
    const is_refusal = error instanceof SignalingFailure;
    if (is_refusal && error.code === "not-resumable" && this.again) {
      // The session's own count of messages ends with it.
      this.kept = { ...this.kept, seq: 0, session: null };
      const make = this.again;
      if (is_first) this.entering.make = make;
      try {
        const answer = await this.enterBy(make, welcome);
        if (this.socket === socket) this.entered(answer, is_first);
      } catch (second) {
        if (this.socket === socket) this.giveUp(second);
      }
      return;
    }
    const may_pass = ["too-many", "unavailable", "replayed", "out-of-order", "lost"];
    if (!is_first && is_refusal && may_pass.includes(error.code)) this.fail();
    else this.giveUp(error);
  }

  giveUp(error) {
    const { entering } = this;
    this.entering = null;
    this.close();
    if (entering) entering.reject(error);
    else this.dispatchEvent(new CustomEvent("gone", { detail: error }));
  }

  /** Say what was not heard, or may not have been, before the connection was lost. */
  catchUp() {
    const { acts } = this;
    this.acts = [];
    for (const { message } of acts) this.act(message);
    for (const [key, request] of [...this.requests]) {
      if (typeof key === "number") continue;
      this.requests.delete(key);
      this.requests.set(this.post(request.message), request);
    }
  }

  keepSession(session) {
    if (!this.kept || this.kept.session === session) return;
    this.kept = { ...this.kept, session };
    this.keep();
  }

  ping() {
    if (!this.online || this.pongs) return;
    const { socket } = this;
    this.pongs = setTimeout(() => this.socket === socket && this.fail(), PONG_MS);
    const heard = () => {
      clearTimeout(this.pongs);
      this.pongs = null;
    };
    this.requests.set(this.post({ type: "ping" }), { resolve: heard, reject: heard, message: null });
  }
}

function lost() {
  return new SignalingFailure({ code: "lost", message: "the connection to the node is lost" });
}

function defaultUrl() {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
}

/** Whether the address stays reachable when the machine has no network. */
function isLocal(url) {
  return ["localhost", "127.0.0.1", "[::1]"].includes(new URL(url).hostname);
}

function readKept(storage, key) {
  try {
    return JSON.parse(storage.getItem(key));
  } catch {
    return null;
  }
}
