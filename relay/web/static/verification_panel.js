// Whether nobody sits in the middle: seven emoji that both people see, compared aloud.

import { EMOJI } from "./emoji.js";
import { make, say, setText, syncList } from "./dom.js";
import { nameOf } from "./format.js";
import { currentLanguage, onLanguage, text } from "./text.js";

const ALARMS = ["verdict_failed", "verdict_differs", "verdict_changed", "verdict_roster"];

export class VerificationPanel {
  constructor(meeting) {
    this.meeting = meeting;
    this.list = make("div", { class: "pairs" });
    this.empty = make("p", { class: "hint", text: "verify_nobody" });
    this.element = make(
      "div",
      { class: "verification" },
      make("p", { class: "hint", text: "verify_how" }),
      this.empty,
      this.list,
    );
    onLanguage(() => this.peers && this.render({ peers: this.peers }));
  }

  render({ peers }) {
    this.peers = peers;
    this.empty.hidden = peers.length > 0;
    syncList(
      this.list,
      peers,
      ({ id }) => id,
      (peer) => this.#create(peer),
      update,
    );
  }

  /** Bring one peer's emoji into view. */
  show(peer_id) {
    const pair = [...this.list.children].find((child) => child.dataset.key === peer_id);
    pair?.scrollIntoView({ block: "nearest" });
    pair?.querySelector("button")?.focus();
  }

  #create({ id }) {
    const judge = (key, matches, look) =>
      make("button", {
        type: "button",
        class: look,
        text: key,
        on: { click: () => this.meeting.setVerified(id, matches) },
      });
    return make(
      "section",
      { class: "pair" },
      make("h3"),
      make("p", { class: "verdict-line" }),
      make("ol", { class: "emoji", label: "verify_emoji" }),
      make(
        "div",
        { class: "acts" },
        judge("verify_match", true, "small"),
        judge("verify_differ", false, "plain small danger"),
      ),
      make(
        "p",
        { class: "key-label soft" },
        make("span", { text: "verify_label" }),
        " ",
        make("code"),
      ),
    );
  }
}

function update(element, peer) {
  const [title, verdict, emoji, acts, label] = element.children;
  const { verification } = peer;
  say(title, nameOf(peer));
  const key = verdictOf(verification);
  setText(verdict, key);
  element.dataset.verdict = key;
  const is_ready = Boolean(verification?.emoji) && !verification.failed;
  emoji.hidden = !is_ready;
  acts.hidden = !is_ready;
  label.hidden = !verification?.label;
  if (is_ready) {
    const shown = verification.words_index.map((index, place) => ({ place, index }));
    syncList(
      emoji,
      shown,
      ({ place }) => place,
      () =>
        make(
          "li",
          {},
          make("span", { class: "picture", "aria-hidden": "true" }),
          make("span", { class: "word" }),
        ),
      (item, { index }) => {
        say(item.children[0], EMOJI[index].emoji);
        say(item.children[1], EMOJI[index][currentLanguage()]);
      },
    );
  }
  if (verification?.label) say(label.querySelector("code"), verification.label);
}

function verdictOf(verification) {
  if (!verification) return "verdict_waiting";
  if (verification.failed) return "verdict_failed";
  if (verification.identity === "differs") return "verdict_differs";
  if (verification.identity === "changed") return "verdict_changed";
  if (!verification.rosterAgrees) return "verdict_roster";
  return `verdict_${verification.identity}`;
}

/** What is to be shouted about a peer's key: a key of texts, or null. */
export function alarmOf({ verification }) {
  const key = verdictOf(verification);
  return ALARMS.includes(key) ? key : null;
}

/** The alarm about `peer` as a sentence. */
export function alarmText(peer) {
  return text(`alarm_${alarmOf(peer).replace("verdict_", "")}`, { name: nameOf(peer) });
}
