// The connection to one peer: perfect negotiation (W3C WebRTC 1.0 section 10.7), four sections in
// one order, and ICE restarts for as long as it isn't connected.
//
// The peer with the smaller id makes the first offer and is the impolite one. Streams are told
// apart by the place of their section, never by a name that the far side chooses.

import { equalBytes, randomName } from "./bytes.js";
import { VerificationFailure, fingerprintOf } from "./verification.js";

const SECTIONS = ["microphone", "camera", "screen"];
const CHANNELS = ["control", "chat", "files"]; // Their ids are their places.
const BATCH_MS = 30;
const BATCH_MAXIMUM = 32;
const EARLY_MAXIMUM = 64; // Candidates that come before the description they belong to.
const LABEL_CHARACTERS = 12;
const PAST_MAXIMUM = 16;
const DISCONNECTED_MS = 2_000;
const RESTART_MS = [2_000, 4_000, 8_000];
// The impolite one restarts first: two at once only get in each other's way.
const POLITE_WAIT_MS = 1_000;
const FAILED_MS = 30_000;

/**
 * One RTCPeerConnection after the other to the same peer.
 *
 * Events: `signal` (detail: {connection, description?, candidates?}, for the peer), `channels`
 * (detail: {control, chat, files}, of a new RTCPeerConnection), `tracks` (what is received has
 * changed), `connection` (its state has changed), `trouble` (detail: an error that something else
 * may make up for).
 */
export class Peer extends EventTarget {
  /**
   * @param options {is_initiator, configuration: RTCConfiguration's servers and policy, local:
   *   {microphone, camera, screen: MediaStreamTrack|null}, holds_answer: whether the first answer
   *   waits for `answer`, refresh: an async function that sees to TURN credentials being new,
   *   is_online: whether the node's connection stands}
   */
  constructor({ is_initiator, configuration, local, holds_answer = false, refresh, is_online }) {
    super();
    this.is_initiator = is_initiator;
    this.configuration = configuration;
    this.local = { ...local };
    this.holds_answer = holds_answer;
    this.refresh = refresh;
    this.is_online = is_online;
    this.past = [];
    this.connection = "connecting";
    this.was_connected = false;
    this.closed = false;
    this.build();
  }

  /** What the far side's media flows in, by section: {microphone, camera, screen}, null each
   * where nothing does. */
  get tracks() {
    const tracks = {};
    for (const [index, name] of SECTIONS.entries()) {
      const transceiver = this.transceivers[index];
      const flows = /^(sendrecv|recvonly)$/.test(transceiver?.currentDirection ?? "");
      tracks[name] = flows ? transceiver.receiver.track : null;
    }
    return tracks;
  }

  get receivers() {
    return this.transceivers.map(({ receiver }) => receiver);
  }

  getStats() {
    return this.pc.getStats();
  }

  /** Send `track` in that section, or nothing. A track in place of another costs no negotiation. */
  async send(name, track) {
    this.local[name] = track;
    await this.applyLocal(name);
  }

  /** Hand over what the peer has said; in order, each when the one before is done. */
  receive(signal) {
    this.incoming = this.incoming
      .then(() => !this.closed && this.take(signal))
      .catch(() => this.rebuild());
    return this.incoming;
  }

  /** Accept the offer that waits. */
  async answer() {
    this.holds_answer = false;
    const { pc } = this;
    if (pc.signalingState !== "have-remote-offer") return;
    await this.makeAnswer(pc);
  }

  configure(configuration) {
    this.configuration = configuration;
    this.pc.setConfiguration(this.fullConfiguration());
  }

  /** Begin anew: the far side's page has lost its RTCPeerConnection. */
  rebuild() {
    if (this.closed) return;
    this.dropConnection();
    this.build();
  }

  /** The node's connection is back, this side's or the other's: what was said meanwhile is lost.
   * `own`: it was this side's, and what was gathered without the node may be worth nothing.
   * `is_forgotten`: the relays are gone even where this side has not noticed yet. */
  catchUp({ own, is_forgotten = false }) {
    const { pc } = this;
    if (!pc.remoteDescription) {
      if (own) this.rebuild();
      else this.repeat();
    } else if (is_forgotten || pc.connectionState !== "connected") {
      this.restart(true);
    } else if (pc.signalingState === "have-local-offer") {
      this.emit({ description: pc.localDescription });
    }
  }

  /** Look for new ways; `now` even where the old ones may come back. */
  async restart(now = false) {
    if (this.closed || this.holds_answer) return;
    const { pc } = this;
    if (!now && pc.connectionState === "connected") {
      // It was so all along, and nothing has said so; the next interruption is a new one.
      this.restarts = 0;
      return;
    }
    clearTimeout(this.restarting);
    const delay_ms = RESTART_MS[Math.min(this.restarts, RESTART_MS.length - 1)];
    this.restarting = setTimeout(() => this.restart(), delay_ms);
    // An offer could not be told to anybody; `catchUp` goes on from here.
    if (!this.is_online()) return;
    this.restarts += 1;
    await this.refresh();
    if (this.pc !== pc || this.closed) return;
    if (!pc.remoteDescription) {
      this.repeat();
      return;
    }
    // The offer that was told last has led nowhere.
    if (pc.signalingState === "have-local-offer") {
      await pc.setLocalDescription({ type: "rollback" });
      if (this.pc !== pc) return;
    }
    pc.restartIce();
  }

  /** Say once more what the first connection begins with. */
  repeat() {
    if (!this.is_initiator) this.askForOffer();
    else if (this.pc.localDescription) this.emit({ description: this.pc.localDescription });
  }

  close() {
    this.closed = true;
    this.dropConnection();
  }

  // ---------------------------------------------------------------- one RTCPeerConnection

  build() {
    const pc = new RTCPeerConnection(this.fullConfiguration());
    this.pc = pc;
    this.label = randomName(LABEL_CHARACTERS);
    this.far = null;
    this.fingerprint = null;
    this.transceivers = [];
    this.early = [];
    this.batch = [];
    this.restarts = 0;
    this.makes_offer = false;
    this.ignores_offer = false;
    this.takes_answer = false;
    this.incoming = Promise.resolve();
    const current = (handle) => (event) => this.pc === pc && handle.call(this, event);
    pc.addEventListener("negotiationneeded", current(this.makeOffer));
    pc.addEventListener("icecandidate", current(this.gathered));
    pc.addEventListener("connectionstatechange", current(this.stateChanged));
    pc.addEventListener("iceconnectionstatechange", current(this.stateChanged));
    pc.addEventListener("signalingstatechange", current(() => this.tell("tracks")));
    if (this.is_initiator) {
      for (const name of SECTIONS) {
        const kind = name === "microphone" ? "audio" : "video";
        const direction = this.local[name] ? "sendrecv" : "recvonly";
        this.transceivers.push(pc.addTransceiver(this.local[name] ?? kind, { direction }));
      }
    }
    this.channels = {};
    for (const [id, name] of CHANNELS.entries()) {
      const channel = pc.createDataChannel(name, { negotiated: true, id });
      channel.binaryType = "arraybuffer";
      this.channels[name] = channel;
    }
    // The listeners of whoever has made this peer are not there yet when it is made.
    queueMicrotask(() => {
      if (this.pc !== pc || this.closed) return;
      this.tell("channels", this.channels);
      if (!this.is_initiator) this.askForOffer();
    });
    this.restarting = setTimeout(() => this.restart(), RESTART_MS.at(-1));
    this.setConnection(this.was_connected ? "interrupted" : "connecting");
  }

  fullConfiguration() {
    return {
      ...this.configuration,
      bundlePolicy: "max-bundle",
      rtcpMuxPolicy: "require",
      iceCandidatePoolSize: 1,
    };
  }

  dropConnection() {
    clearTimeout(this.restarting);
    clearTimeout(this.disconnected);
    clearTimeout(this.batching);
    clearTimeout(this.failing);
    this.failing = null;
    this.disconnected = null;
    this.batching = null;
    if (this.far) this.past.push(this.far);
    if (this.past.length > PAST_MAXIMUM) this.past.shift();
    this.pc.close();
  }

  tell(name, detail) {
    if (!this.closed) this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Both ends' names, once the far one's is known, so that what was meant for an earlier
   * RTCPeerConnection of either is told apart. */
  get name() {
    return this.far ? `${this.label}-${this.far}` : this.label;
  }

  emit(signal) {
    this.tell("signal", { connection: this.name, ...signal });
  }

  /** Make this RTCPeerConnection known to who is to make the first offer. The candidate that says
   * that no more will come stands for nothing else, and passes everywhere. */
  askForOffer() {
    this.emit({ candidates: [{ candidate: "", sdpMid: "0", sdpMLineIndex: 0 }] });
  }

  async makeOffer() {
    const { pc } = this;
    // The other side's first offer names the sections.
    if (!this.is_initiator && !pc.remoteDescription) return;
    if (this.holds_answer && pc.signalingState !== "stable") return;
    try {
      this.makes_offer = true;
      await pc.setLocalDescription();
      if (this.pc !== pc) return;
      // Both may have spoken at once, and this side has given way meanwhile.
      if (pc.localDescription.type !== "offer") return;
      this.emit({ description: pc.localDescription });
    } catch (error) {
      if (this.pc === pc && pc.signalingState !== "closed") this.tell("trouble", error);
    } finally {
      if (this.pc === pc) this.makes_offer = false;
    }
  }

  /** Whether what comes under this name is for this RTCPeerConnection; a new one of the far
   * side's has this side begin anew too. */
  isCurrent(name) {
    const [far, near] = name.split("-");
    if (near !== undefined && near !== this.label) return false;
    if (far === this.far) return true;
    if (this.past.includes(far)) return false;
    if (this.far !== null) {
      if (near !== undefined) return false;
      this.rebuild();
    }
    this.far = far;
    return true;
  }

  async take({ connection, description, candidates = [] }) {
    if (!this.isCurrent(connection)) return;
    const { pc } = this;
    if (description) await this.takeDescription(pc, description);
    if (this.pc !== pc) return;
    for (const candidate of candidates) {
      if (candidate.candidate) await this.takeCandidate(pc, candidate);
    }
  }

  async takeDescription(pc, description) {
    const is_ready =
      !this.makes_offer && (pc.signalingState === "stable" || this.takes_answer);
    const collides = description.type === "offer" && !is_ready;
    const repeats_offer = description.type === "offer" && pc.signalingState === "have-remote-offer";
    this.ignores_offer = this.is_initiator && collides && !repeats_offer;
    if (this.ignores_offer) return;
    if (description.type === "answer" && pc.signalingState !== "have-local-offer") return;
    this.takes_answer = description.type === "answer";
    try {
      this.holdFingerprint(description);
      await pc.setRemoteDescription(description);
    } finally {
      this.takes_answer = false;
    }
    if (this.pc !== pc) return;
    if (!this.is_initiator && !this.transceivers.length) await this.adopt(pc);
    for (const candidate of this.early.splice(0)) await this.takeCandidate(pc, candidate);
    if (description.type === "answer") return;
    if (!this.holds_answer) await this.makeAnswer(pc);
  }

  /** What people compare hangs on the far side's first fingerprint; a browser would follow a later
   * description to another one (RFC 8842 section 5). Raises VerificationFailure. */
  holdFingerprint(description) {
    const fingerprint = fingerprintOf(description);
    this.fingerprint ??= fingerprint;
    if (!equalBytes(fingerprint, this.fingerprint)) {
      throw new VerificationFailure("fingerprint", "the far side's fingerprint is another one");
    }
  }

  async makeAnswer(pc) {
    await pc.setLocalDescription();
    if (this.pc === pc) this.emit({ description: pc.localDescription });
  }

  /** Take the sections of the first offer for one's own. */
  async adopt(pc) {
    const transceivers = pc.getTransceivers();
    if (transceivers.length < SECTIONS.length) throw new Error("the offer has too few sections");
    this.transceivers = transceivers.slice(0, SECTIONS.length);
    for (const name of SECTIONS) await this.applyLocal(name);
  }

  async applyLocal(name) {
    const transceiver = this.transceivers[SECTIONS.indexOf(name)];
    if (!transceiver) return;
    const track = this.local[name];
    const direction = track ? "sendrecv" : "recvonly";
    if (transceiver.direction !== direction) transceiver.direction = direction;
    if (transceiver.sender.track !== track) await transceiver.sender.replaceTrack(track);
  }

  async takeCandidate(pc, candidate) {
    if (!pc.remoteDescription) {
      if (this.early.length < EARLY_MAXIMUM) this.early.push(candidate);
      return;
    }
    try {
      await pc.addIceCandidate(candidate);
    } catch (error) {
      // Of an offer that was ignored, or of ICE before a restart; others may still do.
      if (!this.ignores_offer) this.tell("trouble", error);
    }
  }

  gathered({ candidate }) {
    if (!candidate?.candidate) return;
    this.batch.push(candidate.toJSON());
    if (this.batch.length >= BATCH_MAXIMUM) this.sendBatch();
    else this.batching ??= setTimeout(() => this.sendBatch(), BATCH_MS);
  }

  sendBatch() {
    clearTimeout(this.batching);
    this.batching = null;
    if (this.batch.length) this.emit({ candidates: this.batch.splice(0) });
  }

  stateChanged() {
    const { connectionState, iceConnectionState } = this.pc;
    const states = [connectionState, iceConnectionState];
    if (connectionState === "connected" && iceConnectionState !== "disconnected") {
      clearTimeout(this.restarting);
      clearTimeout(this.disconnected);
      clearTimeout(this.failing);
      this.disconnected = null;
      this.failing = null;
      this.restarts = 0;
      this.was_connected = true;
      this.setConnection("connected");
    } else if (states.includes("failed")) {
      this.setConnection("interrupted");
      this.restartSoon(0);
    } else if (states.includes("disconnected")) {
      this.setConnection("interrupted");
      this.restartSoon(DISCONNECTED_MS);
    }
  }

  restartSoon(delay_ms) {
    if (this.restarts) return; // It is tried again in its own time.
    const wait_ms = delay_ms + (this.is_initiator ? 0 : POLITE_WAIT_MS);
    clearTimeout(this.disconnected);
    this.disconnected = setTimeout(() => this.restart(), wait_ms);
  }

  setConnection(connection) {
    if (connection !== "connected") {
      this.failing ??= setTimeout(() => {
        if (this.connection !== "connected") this.setConnection("failed");
      }, FAILED_MS);
    }
    // What has failed is tried on, and is called so until it is connected.
    if (this.connection === "failed" && connection === "interrupted") return;
    if (this.connection === connection) return;
    this.connection = connection;
    this.tell("connection");
  }
}
