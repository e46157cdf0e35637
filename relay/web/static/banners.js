// What has to be told while one is in a room or call, above all else on the page.

import { make, say, setAttribute, syncList } from "./dom.js";
import { clock, nameOf } from "./format.js";
import { icon } from "./icons.js";
import { text } from "./text.js";
import { alarmOf, alarmText } from "./verification_panel.js";

const TOLD_MS = 8000;
const TOLD_MAXIMUM = 3; // A camera and a microphone may go together.
const SLOW_MS = 8000;

export class Banners {
  #waiting_since_ms = new Map();
  #told = new Map(); // What is said -> the timer that takes it away.

  /** `acts`: what the buttons do: verify(peer_id), unblock(), admit(peer_id), deny(peer_id). */
  constructor(acts) {
    this.acts = acts;
    this.is_blocked = false;
    this.state = null;
    this.element = make("div", { class: "banners" });
  }

  /** Say something once; it goes away by itself. */
  tell(said) {
    clearTimeout(this.#told.get(said));
    const forget = () => {
      this.#told.delete(said);
      if (this.state) this.render(this.state);
    };
    this.#told.set(said, setTimeout(forget, TOLD_MS));
    if (this.#told.size > TOLD_MAXIMUM) {
      const [[oldest, timer]] = this.#told;
      clearTimeout(timer);
      this.#told.delete(oldest);
    }
    if (this.state) this.render(this.state);
  }

  render(state) {
    this.state = state;
    const banners = this.#describe(state);
    syncList(
      this.element,
      banners,
      ({ key }) => key,
      (banner) => this.#create(banner),
      (element, banner) => {
        say(element.querySelector("span"), banner.said);
        setAttribute(element, "class", `banner ${banner.look}`);
      },
    );
  }

  #describe(state) {
    const banners = [];
    for (const peer of state.peers) {
      if (!alarmOf(peer)) continue;
      const compare = { key: "verify_open", act: () => this.acts.verify(peer.id) };
      banners.push({
        key: `alarm-${peer.id}`,
        look: "alarm",
        said: alarmText(peer),
        buttons: [compare],
      });
    }
    if (this.is_blocked) {
      banners.push({
        key: "blocked",
        look: "",
        said: text("sound_blocked"),
        buttons: [{ key: "sound_hear", act: this.acts.unblock }],
      });
    }
    // What waits for a click is no fault of anybody's.
    for (const peer of this.is_blocked ? [] : state.peers) {
      if (!peer.audio_stalled) continue;
      banners.push({
        key: `stalled-${peer.id}`,
        look: "uneasy",
        said: text("sound_stalled", { name: nameOf(peer) }),
        buttons: [],
      });
    }
    if (!state.online)
      banners.push({ key: "offline", look: "uneasy", said: text("node_away"), buttons: [] });
    for (const peer of this.#unreached(state.peers)) {
      banners.push({
        key: `slow-${peer.id}`,
        look: "uneasy",
        said: text("relay_slow", { name: nameOf(peer) }),
        buttons: [{ key: "relay_check", act: () => window.open("/check", "_blank", "noopener") }],
      });
    }
    if (state.warning) {
      const left = clock(state.warning.left_s);
      banners.push({
        key: `warning-${state.warning.left_s}`,
        look: state.warning.left_s > 10 ? "uneasy" : "alarm",
        said: text("money_warning", { left }),
        buttons: [],
      });
    }
    for (const peer of state.knocking) {
      banners.push({
        key: `knock-${peer.id}`,
        look: "",
        said: text("knocks", { name: nameOf(peer) }),
        buttons: [
          { key: "admit", act: () => this.acts.admit(peer.id) },
          { key: "deny", act: () => this.acts.deny(peer.id) },
        ],
      });
    }
    for (const said of this.#told.keys())
      banners.push({ key: `told-${said}`, look: "uneasy", said, buttons: [] });
    return banners;
  }

  /** Peers to whom there has been no way for too long. */
  #unreached(peers) {
    const waiting = new Map();
    const now_ms = performance.now();
    for (const peer of peers) {
      if (peer.connection === "connected" || peer.away) continue;
      waiting.set(peer.id, this.#waiting_since_ms.get(peer.id) ?? now_ms);
    }
    this.#waiting_since_ms = waiting;
    return peers.filter(({ id }) => now_ms - (waiting.get(id) ?? now_ms) >= SLOW_MS);
  }

  #create({ look, buttons }) {
    return make(
      "div",
      { role: look === "alarm" ? "alert" : "status" },
      icon("alert"),
      make("span"),
      ...buttons.map(({ key, act }) =>
        make("button", { type: "button", class: "plain small", text: key, on: { click: act } }),
      ),
    );
  }
}
