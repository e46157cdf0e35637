// A room or a call, without a page: what the pages show is `state`, what people do are methods.

import { Chat } from "./chat.js";
import { Files } from "./files.js";
import { Identity } from "./identity.js";
import {
  LevelMeter, MediaFailure, openCamera, openMicrophone, openScreen, Silence,
} from "./media.js";
import { Participant } from "./participant.js";
import { Signaling, SignalingFailure } from "./signaling.js";

const LEVEL_MS = 200;
const STATS_MS = 1_000;
const HIDDEN_MS = 100;
const RECEIPT_MS = 3_000;
const FAREWELL_MS = 35_000; // Past that the node has ended the session by itself.
const REFRESH_SHARE = 0.75;
const BEFORE_ANSWER = ["pending", "ringing"];
const QUIET_REFUSALS = ["no-peer", "wrong-state"]; // They have gone meanwhile, or it is so already.
const OPENERS = { microphone: openMicrophone, camera: openCamera, screen: openScreen };

/**
 * Events: `change`, after `state` has changed, once for all that changed in a frame; `failure`
 * (detail: the failure), of each that doesn't end the meeting.
 *
 * Methods that open a device raise MediaFailure, those that the node answers SignalingFailure.
 */
export class Meeting extends EventTarget {
  constructor({ url, storage } = {}) {
    super();
    this.signaling = new Signaling({ url, storage, key: "montana.meeting" });
    this.chat = new Chat();
    this.files = new Files();
    this.identity = Identity.load();
    this.people = new Map();
    this.tracks = { microphone: null, camera: null, screen: null };
    this.silence = null;
    this.turns = {
      microphone: Promise.resolve(), camera: Promise.resolve(), screen: Promise.resolve(),
    };
    this.devices = { microphone: null, camera: null };
    this.rosters = new Map();
    this.has_answered = false;
    this.state = {
      phase: "idle", online: false, you: null, role: null, room: null, call: null,
      relayOnly: false, invitation: null, knocking: [],
      local: {
        microphone: false, camera: false, screen: false, cameraStream: null, screenStream: null,
        level: 0,
      },
      peers: [], chat: this.chat.messages, files: this.files.list, warning: null, receipt: null,
      over: null, failure: null,
    };
    this.host = {
      admit: (peer) => this.signaling.act({ type: "admit", peer }),
      deny: (peer) => this.signaling.act({ type: "deny", peer }),
      kick: (peer) => this.signaling.act({ type: "kick", peer }),
      setRoom: (wanted) => this.setRoom(wanted),
      invite: (wanted) => this.invite(wanted),
    };
    for (const part of [this.chat, this.files]) part.addEventListener("change", () => this.changed());
    this.listen();
  }

  // ---------------------------------------------------------------- coming and going

  /** Make a room and be its host. `account` (identity.js) where hosts pay. */
  createRoom({ name = "", token = "", lobby = false, relayOnly = false, account = null } = {}) {
    return this.enter({ name }, async ({ challenge, rooms }) => {
      // Whose room it is is nobody's business where the node pays.
      const is_paid = account && rooms === "host";
      const proof = is_paid ? { proof: await account.prove(challenge) } : {};
      return { type: "create", name, token, lobby, relay_only: relayOnly, ...proof };
    });
  }

  joinRoom({ invitation, name = "", relayOnly = false }) {
    const message = { type: "join", invitation, name, relay_only: relayOnly };
    return this.enter({ name, invitation }, () => message);
  }

  /** By the `secret` of a link, or by what Telegram has signed for this user (`initData`). */
  openCall({ call, secret = null, initData = null, relayOnly = false }) {
    // What Telegram has signed is kept nowhere: the node gives the secret for it.
    const place = { call, secret, relayOnly };
    const first = () => openingOf(this.place, this.place.secret ? null : initData);
    return this.enter(place, first, { again: true });
  }

  /** Go on where this tab was before a reload; false where there is nothing to go on with. */
  async resume() {
    const place = this.signaling.remembered;
    if (!place) return false;
    try {
      const again = place.call ? () => openingOf(place) : null;
      await this.enterBy(() => this.signaling.resume(again), place);
    } catch (error) {
      if (error instanceof SignalingFailure && error.code === "not-resumable") {
        Object.assign(this.state, { phase: "idle", failure: null });
        return false;
      }
      throw error;
    }
    return true;
  }

  /** Accept the call that rings. */
  async answer() {
    this.has_answered = true;
    await Promise.all([...this.people.values()].map(({ peer }) => peer.answer()));
  }

  reject() {
    this.depart("rejected");
  }

  hangUp() {
    this.depart("hung-up");
  }

  leave() {
    this.depart("left");
  }

  // ---------------------------------------------------------------- media

  /** Send these tracks, or nothing where there is null; they are this meeting's from now on. */
  async useMedia({ microphone = null, camera = null }) {
    await this.use("microphone", microphone);
    await this.use("camera", camera);
  }

  /** Be heard or not. The microphone stays open meanwhile, so that it is back at once. */
  setMicrophone(on) {
    return this.inTurn("microphone", async () => {
      if (on && !this.tracks.microphone) await this.open("microphone");
      if (this.tracks.microphone) this.tracks.microphone.enabled = on;
      this.showLocal();
      for (const person of this.people.values()) person.sayMuted();
    });
  }

  setCamera(on) {
    return this.inTurn("camera", () => this.turn("camera", on));
  }

  shareScreen(on) {
    return this.inTurn("screen", () => this.turn("screen", on));
  }

  async turn(name, on) {
    if (on === Boolean(this.tracks[name])) return;
    if (on) await this.open(name);
    else await this.use(name, null);
  }

  /** What is wanted of a device while its user is still asked about it comes after the answer. */
  inTurn(name, act) {
    const done = this.turns[name].catch(() => {}).then(act);
    this.turns[name] = done;
    return done;
  }

  /** Use another microphone ("audioinput") or camera ("videoinput"), now or when it is next on. */
  switchDevice(kind, deviceId) {
    const name = kind === "audioinput" ? "microphone" : "camera";
    this.devices[name] = deviceId;
    return this.inTurn(name, async () => {
      if (!this.tracks[name]) return;
      const is_muted = name === "microphone" && !this.tracks.microphone.enabled;
      const track = await OPENERS[name](deviceId);
      track.enabled = !is_muted;
      await this.use(name, track);
    });
  }

  // ---------------------------------------------------------------- chat and files

  /** RangeError where the text is empty or too long (chat.js). */
  say(text) {
    const peerIds = [...this.people.keys()];
    this.chat.say(text, { you: this.state.you, name: this.name ?? "", peerIds });
  }

  /** Offer a File to those peers, or to all; the transfers' ids, one a peer. */
  sendFile(file, peerIds = null) {
    return this.files.offer(file, this.state.you, peerIds ?? [...this.people.keys()]);
  }

  /** Without a `sink` (see sinks.js) its `blob` is there when it is done. */
  acceptFile(id, sink = null) {
    return this.files.accept(id, sink);
  }

  declineFile(id) {
    this.files.decline(id);
  }

  cancelFile(id) {
    this.files.cancel(id);
  }

  async setVerified(peerId, is_verified) {
    await this.people.get(peerId)?.setVerified(is_verified);
  }

  // ---------------------------------------------------------------- the session

  enter(place, make, options) {
    return this.enterBy(() => this.signaling.enter(make, options), place);
  }

  async enterBy(ask, place) {
    this.begin(place);
    const asked = ask();
    let answer;
    try {
      answer = await asked;
    } catch (error) {
      this.finish(error.code ?? "failed", failureOf(error));
      throw error;
    }
    this.take(answer);
    this.signaling.remember(this.place);
  }

  begin(place) {
    if (this.state.phase !== "idle") throw new Error("a meeting is entered once");
    this.place = place;
    this.name = place.name ?? "";
    this.state.phase = "connecting";
    this.levels = setInterval(() => {
      for (const person of this.people.values()) person.readLevel();
    }, LEVEL_MS);
    this.stats = setInterval(() => this.readStats(), STATS_MS);
    this.networkChanged = () => this.restartAll();
    window.addEventListener("online", this.networkChanged);
    this.changed();
  }

  listen() {
    const { signaling } = this;
    signaling.addEventListener("message", ({ detail }) => this.take(detail));
    signaling.addEventListener("online", () => this.set({ online: true }));
    signaling.addEventListener("offline", () => {
      this.set({ online: false });
      this.endIfLost();
    });
    signaling.addEventListener("resumed", ({ detail }) => {
      // A node that has forgotten this page was started anew, and its relays are gone with it.
      const is_forgotten = detail.session !== this.session;
      this.take(detail);
      this.catchUp(is_forgotten);
    });
    signaling.addEventListener("gone", ({ detail }) => this.finish(detail.code, failureOf(detail)));
    signaling.addEventListener("refused", ({ detail }) => {
      if (!QUIET_REFUSALS.includes(detail.code)) this.fail(failureOf(detail));
    });
  }

  /** Take what the node says. */
  take(message) {
    const { state } = this;
    const peer = typeof message.peer === "string" ? this.people.get(message.peer) : null;
    switch (message.type) {
      case "entered": return this.entered(message);
      case "waiting": return this.set({ phase: "waiting" });
      case "signal": return void this.people.get(message.from)?.peer.receive(message);
      case "peer_joined":
        // Known already where the node was started anew, which both come back to.
        this.people.get(message.peer.id)?.peer.catchUp({ own: false });
        return this.addPerson(message.peer);
      case "peer_left":
        // A call goes on while media flows, also without the node's connection to the other.
        if (!state.call) return this.removePerson(message.peer);
        if (peer) peer.view.away = true;
        break;
      case "peer_away":
        if (peer) peer.view.away = true;
        break;
      case "peer_back":
        if (peer) {
          peer.view.away = false;
          peer.view.name = message.name || peer.view.name;
          if (message.fresh) peer.peer.rebuild();
          else peer.peer.catchUp({ own: false });
        }
        break;
      case "knocking":
        state.knocking = [...state.knocking.filter(({ id }) => id !== message.peer.id), message.peer];
        break;
      case "knock_over":
        state.knocking = state.knocking.filter(({ id }) => id !== message.peer);
        break;
      case "room": return this.showRoom(message.room);
      case "call": return this.showCall(message.call);
      case "invitation": return this.showInvitation(message.invitation);
      case "ice": return this.useIce(message);
      case "warning": return this.set({ warning: { left_s: message.left_s } });
      case "receipt":
        this.set({ receipt: message });
        if (state.phase === "over") this.signaling.close();
        return;
      case "ended": return this.finish(message.reason);
    }
    this.changed();
  }

  entered(message) {
    const { state } = this;
    if (state.phase === "over") return; // Left while the node was away; it hears of it now.
    this.session = message.session;
    Object.assign(state, { you: message.you, relayOnly: message.relay_only });
    this.showInvitation(message.invitation ?? this.place.invitation ?? null);
    if (message.secret) this.place = { ...this.place, secret: message.secret };
    this.useIce(message);
    if (message.room) this.showRoom(message.room);
    if (message.call) this.showCall(message.call);
    const there = new Set(message.peers.map(({ id }) => id));
    for (const [id, { view }] of this.people) {
      if (there.has(id)) continue;
      if (message.call) view.away = true;
      else this.removePerson(id);
    }
    for (const view of message.peers) this.addPerson(view);
    if (!message.call) state.phase = "in";
    this.changed();
  }

  showRoom(room) {
    const role = room.host === this.state.you ? "host" : "guest";
    this.set({ room, role, knocking: role === "host" ? room.knocking : [] });
  }

  showCall(call) {
    const { state } = this;
    if (state.phase === "over") return;
    // Money may have come since.
    if (call.left_s !== null && call.left_s > (state.warning?.left_s ?? Infinity)) state.warning = null;
    if (BEFORE_ANSWER.includes(call.status)) state.phase = "ringing";
    else if (call.status === "active") state.phase = "in";
    this.set({ call, role: call.role });
  }

  showInvitation(invitation) {
    this.set({ invitation });
    if (!invitation || invitation === this.place.invitation) return;
    this.place = { ...this.place, invitation };
    this.signaling.remember(this.place);
  }

  catchUp(is_forgotten) {
    for (const person of this.people.values()) {
      const { peer } = person;
      peer.catchUp({ own: true, is_forgotten });
      this.sayConnected(person);
      // The node may not have heard the answer before its connection was lost.
      if (this.has_answered && this.state.phase === "ringing") this.repeatAnswer(peer);
    }
  }

  /** In a call: neither the node nor the other was there for as long as one is waited for. */
  endIfLost() {
    const peers = Array.from(this.people.values(), ({ peer }) => peer);
    const are_gone = peers.length > 0 && peers.every(({ connection }) => connection === "failed");
    if (this.state.call && !this.state.online && are_gone) this.finish("lost");
  }

  /** In a call: media can flow. A node that was started anew has to hear it again. */
  sayConnected({ peer }) {
    if (this.state.call && peer.connection === "connected") {
      this.signaling.act({ type: "connected" });
    }
  }

  repeatAnswer(peer) {
    const { localDescription, signalingState } = peer.pc;
    if (signalingState !== "stable" || localDescription?.type !== "answer") return;
    this.sayTo(null, { connection: peer.name, description: localDescription });
  }

  /** What a connection wants to have said to its peer. */
  sayTo(to, { connection, description, candidates }) {
    const { call } = this.state;
    const plain = description && { type: description.type, sdp: description.sdp };
    const is_answer = plain?.type === "answer" && call?.role === "callee";
    if (is_answer && BEFORE_ANSWER.includes(call.status)) {
      this.signaling.tell({ type: "answer", connection, description: plain });
      return;
    }
    this.signaling.tell({ type: "signal", to, connection, description: plain, candidates });
  }

  depart(reason) {
    if (this.state.phase === "over") return;
    this.signaling.act({ type: "hang_up" });
    this.stopMedia();
    this.set({ phase: "over", over: reason });
    this.farewell = setTimeout(() => this.signaling.close(), FAREWELL_MS);
  }

  /** The node has ended it, or can't be had back. */
  finish(reason, failure = null) {
    const { state } = this;
    clearTimeout(this.farewell);
    this.stopMedia();
    const awaits_receipt = state.call && !state.receipt && !failure && state.call.seconds > 0;
    if (awaits_receipt) this.farewell = setTimeout(() => this.signaling.close(), RECEIPT_MS);
    else this.signaling.close();
    this.set({ phase: "over", over: state.over ?? reason, failure: failure ?? state.failure });
  }

  stopMedia() {
    clearInterval(this.levels);
    clearInterval(this.stats);
    clearTimeout(this.refreshing);
    window.removeEventListener("online", this.networkChanged);
    for (const id of this.people.keys()) this.removePerson(id);
    this.silence?.close();
    this.silence = null;
    for (const name of Object.keys(this.tracks)) {
      this.tracks[name]?.stop();
      this.tracks[name] = null;
    }
    this.showLocal();
  }

  // ---------------------------------------------------------------- the others

  addPerson({ id, name, away }) {
    const known = this.people.get(id);
    if (known) {
      Object.assign(known.view, { name, away });
      this.changed();
      return;
    }
    const { state } = this;
    const person = new Participant({
      id, name, away, address: state.call?.other, you: state.you,
      place: state.room?.id ?? state.call.id, identity: this.identity, chat: this.chat,
      files: this.files, is_muted: () => !state.local.microphone,
      peer: {
        configuration: this.configuration, local: this.outgoing(), refresh: () => this.freshIce(),
        is_online: () => this.signaling.online,
        holds_answer: state.role === "callee" && state.phase === "ringing" && !this.has_answered,
      },
    });
    person.addEventListener("change", () => this.changed());
    person.addEventListener("signal", ({ detail }) => this.sayTo(id, detail));
    person.addEventListener("connection", () => {
      this.sayConnected(person);
      this.endIfLost();
    });
    person.addEventListener("identified", () => this.tellRoster());
    person.addEventListener("roster", ({ detail }) => {
      this.rosters.set(id, detail);
      this.compareRosters();
    });
    this.people.set(id, person);
    this.showPeers();
  }

  removePerson(id) {
    this.people.get(id)?.close();
    this.people.delete(id);
    this.rosters.delete(id);
    this.showPeers();
  }

  showPeers() {
    this.set({ peers: Array.from(this.people.values(), ({ view }) => view) });
  }

  async tellRoster() {
    const { name } = await this.identity;
    const known = [...this.people].filter(([, person]) => person.identity_name);
    const roster = Object.fromEntries(known.map(([id, person]) => [id, person.identity_name]));
    for (const [, person] of known) person.sayRoster(roster);
    this.own_name = name;
    this.compareRosters();
  }

  /** Somebody who shows two people different keys is not one person to both. */
  compareRosters() {
    const doubted = new Set();
    for (const [teller, roster] of this.rosters) {
      for (const [id, name] of roster) {
        const ours = id === this.state.you ? this.own_name : this.people.get(id)?.identity_name;
        // If it is oneself who is told of wrongly, then it is the teller's line that isn't right.
        if (ours && ours !== name) doubted.add(id === this.state.you ? teller : id);
      }
    }
    for (const [id, person] of this.people) person.setRosterAgrees(!doubted.has(id));
  }

  async readStats() {
    const people = [...this.people.values()];
    const flows = await Promise.all(people.map((person) => person.readStats()));
    const { call, phase } = this.state;
    if (phase === "in" && call && !call.relayed && flows.includes(true)) {
      this.signaling.tell({ type: "beat" });
    }
  }

  restartAll() {
    for (const { peer } of this.people.values()) peer.restart();
  }

  // ---------------------------------------------------------------- TURN credentials

  useIce({ ice, ice_ttl_s }) {
    this.configuration = {
      iceServers: ice, iceTransportPolicy: this.state.relayOnly ? "relay" : "all",
    };
    this.ice_until_ms = Date.now() + ice_ttl_s * 1000 * REFRESH_SHARE;
    for (const { peer } of this.people.values()) peer.configure(this.configuration);
    clearTimeout(this.refreshing);
    const delay_ms = Math.min(ice_ttl_s * 1000 * REFRESH_SHARE, 2 ** 31 - 1);
    this.refreshing = setTimeout(() => this.freshIce(), delay_ms);
  }

  /** See to it that the credentials are new enough for a connection that begins. */
  async freshIce() {
    if (Date.now() < this.ice_until_ms - 1 || !this.signaling.online) return;
    try {
      this.useIce(await this.signaling.request({ type: "refresh_ice" }));
    } catch (error) {
      // The old ones may still do, and the next restart asks again.
      if (!(error instanceof SignalingFailure)) throw error;
    }
  }

  // ---------------------------------------------------------------- one's own side

  async open(name) {
    const track = await OPENERS[name](this.devices[name] ?? null);
    if (this.state.phase === "over") track.stop();
    else await this.use(name, track);
  }

  async use(name, track) {
    const before = this.tracks[name];
    this.tracks[name] = track;
    // The event comes when a device is gone, never when the track was stopped here.
    if (track) track.addEventListener("ended", () => this.lost(name, track));
    if (name === "microphone") this.meter(track);
    this.showLocal();
    const sent = this.outgoing()[name];
    await Promise.all(Array.from(this.people.values(), ({ peer }) => peer.send(name, sent)));
    if (before !== track) before?.stop();
    if (name === "microphone") for (const person of this.people.values()) person.sayMuted();
  }

  /** What the others are sent. */
  outgoing() {
    const tracks = { ...this.tracks };
    if (this.state.call && !tracks.microphone) {
      this.silence ??= new Silence();
      tracks.microphone = this.silence.track;
    }
    return tracks;
  }

  /** A device was pulled out: use another one, or none. */
  async lost(name, track) {
    if (this.tracks[name] !== track) return;
    this.devices[name] = null;
    await this.use(name, null);
    if (name === "screen") return; // That is how a browser says that its user has ended it.
    try {
      const other = await OPENERS[name]();
      other.enabled = track.enabled;
      if (this.state.phase === "over" || this.tracks[name]) {
        other.stop();
        return;
      }
      await this.use(name, other);
      // Another one may show or hear what its owner had not thought of.
      const values = { device: name, label: other.label };
      const message = `another ${name} is used`;
      this.fail({ code: "device-replaced", message, values });
    } catch (error) {
      if (!(error instanceof MediaFailure)) throw error;
      const values = { device: name, reason: error.reason };
      this.fail({ code: "device-lost", message: `the ${name} is gone`, values });
    }
  }

  meter(track) {
    this.level_meter?.close();
    this.level_meter = null;
    this.state.local.level = 0;
    if (!track) return;
    this.level_meter = new LevelMeter(track, (level) => {
      this.state.local.level = level;
      this.changed();
    });
  }

  showLocal() {
    const { local } = this.state;
    const { microphone, camera, screen } = this.tracks;
    local.microphone = Boolean(microphone?.enabled);
    local.camera = camera !== null;
    local.screen = screen !== null;
    local.cameraStream = streamOf(local.cameraStream, camera);
    local.screenStream = streamOf(local.screenStream, screen);
    if (!microphone && this.level_meter) this.meter(null);
    this.changed();
  }

  async invite({ uses = null, ttl_s = 24 * 3600 } = {}) {
    const answer = await this.signaling.request({ type: "invite", uses, ttl_s });
    return answer.invitation;
  }

  setRoom({ locked = this.state.room.locked, lobby = this.state.room.lobby }) {
    this.signaling.act({ type: "set_room", locked, lobby });
  }

  fail(failure) {
    this.set({ failure });
    this.dispatchEvent(new CustomEvent("failure", { detail: failure }));
  }

  set(fields) {
    Object.assign(this.state, fields);
    this.changed();
  }

  /** Tell the page, once for all that changes until it next draws. */
  changed() {
    if (this.telling) return;
    const tell = () => {
      cancelAnimationFrame(this.telling.frame);
      clearTimeout(this.telling.timer);
      this.telling = null;
      this.dispatchEvent(new Event("change"));
    };
    // A hidden page draws nothing, and yet has its title and its ringing.
    this.telling = { frame: requestAnimationFrame(tell), timer: setTimeout(tell, HIDDEN_MS) };
  }
}

function openingOf({ call, secret, relayOnly }, init_data = null) {
  const proof = init_data ? { init_data } : { secret };
  return { type: "open_call", call, ...proof, relay_only: relayOnly };
}

function failureOf({ code = "failed", message, values = {} }) {
  return { code, message, values };
}

function streamOf(stream, track) {
  if (!track) return null;
  return stream?.getTracks()[0] === track ? stream : new MediaStream([track]);
}
