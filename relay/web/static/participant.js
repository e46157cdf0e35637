// Somebody else in a room or call: the connection to them, who they are, what comes from them, and
// how well. `view` is what the pages show of them.

import { meet, setVerified } from "./acquaintances.js";
import { SpeechDetector } from "./media.js";
import { Peer } from "./peer.js";
import { SealedChannel } from "./sealed_channel.js";
import { figuresBetween, levelBetween, readEnergy, readReport } from "./statistics.js";
import { Handshake, VerificationFailure, fingerprintOf } from "./verification.js";
import { utf8 } from "./bytes.js";

const CHAT = 1;
const FILES = 2;
const CONTROL_MAXIMUM_CHARACTERS = 16 * 1024;
const HISTORY = 60;
const STALLED_MS = 5_000;
const PIECE_BYTES = 64 * 1024;
const SMALL_PIECE_BYTES = 15 * 1024;
const FRAME_MAXIMUM_BYTES = PIECE_BYTES + 1024;
const ROSTER_MAXIMUM = 64;
const decoder = new TextDecoder();

/**
 * Events: `change` (of the view), `signal` (see Peer), `connection` (its state has changed), `identified` (who they are
 * is known), `roster` (detail: what they say of others, identity names by id).
 */
export class Participant extends EventTarget {
  /**
   * @param options {id, name, away, address: of the other in a call, you, place: id of the room
   *   or call, identity: a promise of one's own Identity, chat, files, is_muted: function,
   *   peer: further options of Peer}
   */
  constructor({ id, name, away, address = "", you, place, identity, chat, files, is_muted, peer }) {
    super();
    Object.assign(this, { address, place, identity, chat, files, is_muted });
    this.role = you < id ? "a" : "b";
    this.view = {
      id, name, away, connection: "connecting", path: null, microphone: false, camera: false,
      screen: false, speaking: false, level: 0, audio_stalled: false, audioStream: null,
      cameraStream: null, screenStream: null, verification: null, stats: null, stats_history: [],
    };
    this.speech = new SpeechDetector();
    this.identity_name = null;
    this.first_identity_name = null;
    this.said_microphone = null;
    this.peer = new Peer({ is_initiator: this.role === "a", ...peer });
    this.peer.addEventListener("signal", ({ detail }) => this.tell("signal", detail));
    this.peer.addEventListener("channels", ({ detail }) => this.join(detail));
    this.peer.addEventListener("tracks", () => this.showTracks());
    this.peer.addEventListener("connection", () => this.showConnection());
  }

  /** Tell them whether one can be heard. */
  sayMuted() {
    this.sayControl({ type: "media", microphone: !this.is_muted() });
  }

  /** Tell them who the others are, as this side knows them. */
  sayRoster(roster) {
    this.sayControl({ type: "roster", people: roster });
  }

  /** Remember that people have compared the string and it is the same, or that it isn't. */
  async setVerified(is_verified) {
    const { verification, name } = this.view;
    if (!this.identity_name || verification?.failed) return;
    const person = { identity: this.identity_name, name, address: this.address };
    if (is_verified) this.first_identity_name = this.identity_name;
    await setVerified(person, is_verified);
    this.view.verification = { ...verification, identity: is_verified ? "verified" : "differs" };
    this.tell("change");
  }

  setRosterAgrees(agrees) {
    const { verification } = this.view;
    if (!verification || verification.rosterAgrees === agrees) return;
    this.view.verification = { ...verification, rosterAgrees: agrees };
    this.tell("change");
  }

  close() {
    this.leaveChannels();
    this.closed = true;
    this.chat.forget(this.view.id);
    this.files.forget(this.view.id);
    this.peer.close();
  }

  // ---------------------------------------------------------------- channels

  /** Take up the channels of a new RTCPeerConnection. */
  join({ control, chat, files }) {
    this.leaveChannels();
    this.control = control;
    this.handshake = null;
    this.identity_name = null;
    this.view.verification = null;
    const current = (handle) => (event) => this.control === control && handle(event);
    const failed = () => this.control === control && this.fail("malformed");
    const { id } = this.view;
    this.sealed = {
      chat: new SealedChannel(chat, CHAT, { received: (data) => this.takeChat(data), failed }),
      files: new SealedChannel(files, FILES, {
        received: async (data) => {
          if (!(await this.files.receive(id, this.view.name, data))) throw new RangeError("no frame");
        },
        failed,
      }),
    };
    let controlling = Promise.resolve();
    const inOrder = (work) => {
      controlling = controlling
        .then(() => this.control === control && work())
        .catch((error) => this.control === control && this.failBy(error));
    };
    control.addEventListener("open", current(() => inOrder(() => this.shakeHands())));
    control.addEventListener("message", current(({ data }) => {
      inOrder(() => this.takeControl(data));
    }));
  }

  leaveChannels() {
    this.control = null;
    this.chat.close(this.view.id);
    this.files.disconnect(this.view.id);
  }

  async shakeHands() {
    const { pc } = this.peer;
    // A channel may open before the page is told that the answer has been applied.
    while (pc.signalingState !== "stable" && pc.signalingState !== "closed") {
      await new Promise((resolve) => {
        pc.addEventListener("signalingstatechange", resolve, { once: true });
      });
    }
    const fingerprints = {
      own: fingerprintOf(pc.localDescription),
      other: fingerprintOf(pc.remoteDescription),
    };
    const identity = await this.identity;
    const { role, place } = this;
    const handshake = new Handshake({ role, place, fingerprints, identity });
    const first = await handshake.start();
    this.handshake = handshake;
    this.sayControl(first);
    this.sayMuted();
  }

  async takeControl(data) {
    if (typeof data !== "string" || data.length > CONTROL_MAXIMUM_CHARACTERS) {
      throw new VerificationFailure("malformed", "the message is too large");
    }
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      throw new VerificationFailure("malformed", "the message can't be read");
    }
    if (message?.type === "media") {
      this.said_microphone = message.microphone === true;
      this.showTracks();
    } else if (message?.type === "roster") {
      this.takeRoster(message.people);
    } else if (message?.type === "commit" || message?.type === "reveal") {
      const { handshake } = this;
      const reply = await handshake.receive(message);
      if (reply) this.sayControl(reply);
      if (handshake.result) await this.identified(handshake.result);
    }
  }

  sayControl(message) {
    if (this.control?.readyState === "open") this.control.send(JSON.stringify(message));
  }

  async identified({ emoji, words_index, label, identity_name, cipher, failure }) {
    const { control } = this;
    const { id, name } = this.view;
    let identity = "new";
    if (!failure) identity = await meet({ identity: identity_name, name, address: this.address });
    if (this.control !== control) return;
    if (!failure) {
      // Who has come as one may not go on as another, whether or not anybody has compared.
      this.first_identity_name ??= identity_name;
      const is_same = identity_name === this.first_identity_name;
      if (identity !== "verified" && !is_same) identity = "changed";
    }
    this.view.verification = {
      emoji, words_index, label, identity, rosterAgrees: true, failed: failure,
    };
    this.tell("change");
    if (!cipher) return;
    this.identity_name = identity_name;
    this.tell("identified");
    for (const channel of Object.values(this.sealed)) channel.unlock(cipher);
    const { chat, files } = this.sealed;
    this.chat.open(id, (frame) => chat.send(utf8(JSON.stringify(frame))));
    const most = this.peer.pc.sctp?.maxMessageSize ?? 0;
    this.files.connect(id, {
      send: (bytes) => files.send(bytes),
      drained: () => files.drained(),
      piece_bytes: most >= FRAME_MAXIMUM_BYTES ? PIECE_BYTES : SMALL_PIECE_BYTES,
    });
  }

  failBy(error) {
    this.fail(error instanceof VerificationFailure ? error.reason : "malformed");
  }

  fail(reason) {
    const none = { emoji: [], words_index: [], label: "", identity: "new", rosterAgrees: true };
    this.view.verification = { ...(this.view.verification ?? none), failed: reason };
    this.leaveChannels();
    this.tell("change");
  }

  takeChat(data) {
    const frame = JSON.parse(decoder.decode(data));
    const { id, name } = this.view;
    if (!this.chat.receive(id, name, frame)) throw new RangeError("no frame");
  }

  takeRoster(people) {
    const entries = Object.entries(people ?? {}).slice(0, ROSTER_MAXIMUM);
    const kept = entries.filter(([, name]) => typeof name === "string");
    this.tell("roster", new Map(kept));
  }

  // ---------------------------------------------------------------- what comes in

  showConnection() {
    const { view, peer } = this;
    view.connection = peer.connection;
    if (view.connection !== "connected") Object.assign(view, { stats: null, audio_stalled: false });
    this.heard_ms = performance.now();
    this.tell("connection");
    this.tell("change");
  }

  showTracks() {
    const { view } = this;
    const { microphone, camera, screen } = this.peer.tracks;
    view.audioStream = streamOf(view.audioStream, microphone);
    view.cameraStream = streamOf(view.cameraStream, camera);
    view.screenStream = streamOf(view.screenStream, screen);
    view.camera = camera !== null;
    view.screen = screen !== null;
    view.microphone = microphone !== null && this.said_microphone !== false;
    this.tell("change");
  }

  /** Each 200 ms: how loud they have been since. */
  async readLevel() {
    const { view } = this;
    const [receiver] = this.peer.receivers;
    if (!view.microphone || !receiver) {
      this.showLevel(0);
      return;
    }
    const energy = readEnergy(await receiver.getStats());
    const before = this.energy?.receiver === receiver ? this.energy : null;
    this.energy = { ...energy, receiver };
    if (before) this.showLevel(levelBetween(before, energy));
  }

  showLevel(level) {
    const { view } = this;
    const has_turned = this.speech.add(level);
    view.speaking = this.speech.speaking;
    if (!has_turned && Math.abs(level - view.level) < 0.02) return;
    view.level = level;
    this.tell("change");
  }

  /** Each second: how well it comes. Whether sound or a picture has come in since the last time. */
  async readStats() {
    if (this.peer.connection !== "connected") return false;
    const { pc } = this.peer;
    const reading = readReport(await pc.getStats());
    if (this.closed || this.peer.pc !== pc) return false;
    const before = this.reading?.pc === pc ? this.reading : null;
    this.reading = { ...reading, pc };
    this.view.path = reading.path;
    if (!before) return reading.media_bytes > 0;
    const { view } = this;
    view.stats = figuresBetween(before, reading);
    view.stats_history = [...view.stats_history, view.stats].slice(-HISTORY);
    this.watchAudio(before, reading);
    this.tell("change");
    return reading.media_bytes > before.media_bytes;
  }

  /** Who isn't muted sends packets without a pause. Where none come, or nothing of them is played,
   * play anew; then, if none come, look for another way. */
  watchAudio(before, after) {
    const { view } = this;
    const now_ms = performance.now();
    const comes = after.audio_bytes > before.audio_bytes;
    const plays = after.audio_played_s === null || after.audio_played_s > before.audio_played_s;
    if ((comes && plays) || !view.microphone || !view.audioStream) {
      this.heard_ms = now_ms;
      view.audio_stalled = false;
      return;
    }
    if (now_ms - (this.heard_ms ?? now_ms) < STALLED_MS) return;
    this.heard_ms = now_ms;
    if (view.audio_stalled && !comes) this.peer.restart(true);
    view.audio_stalled = true;
    view.audioStream = new MediaStream(view.audioStream.getTracks());
  }

  tell(name, detail) {
    if (!this.closed) this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** A stream of that track: the one that there is, where it is of the same. */
function streamOf(stream, track) {
  if (!track) return null;
  return stream?.getTracks()[0] === track ? stream : new MediaStream([track]);
}
