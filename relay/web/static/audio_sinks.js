// What others say, played: one audio element a peer, all by the speaker that was chosen.

import { make, syncList } from "./dom.js";
import { chosenSpeaker } from "./speaker.js";

export class AudioSinks {
  #refused = new Set();
  #is_blocked = false;

  /** `blocked(is_blocked)`: browsers may refuse to play before somebody clicks. */
  constructor(blocked) {
    this.blocked = blocked;
    this.element = make("div", { hidden: true });
  }

  render(peers) {
    const heard = peers.filter(({ audioStream }) => audioStream);
    syncList(
      this.element,
      heard,
      ({ id }) => id,
      () => this.#create(),
      (audio, { audioStream }) => {
        const is_new = audio.srcObject !== audioStream;
        if (is_new) audio.srcObject = audioStream;
        // What a browser has paused, since its sound broke down, it doesn't go on with by itself.
        if (is_new || (audio.paused && !this.#refused.has(audio))) this.#play(audio);
      },
    );
    for (const audio of [...this.#refused]) this.#note(audio, true);
  }

  /** Another speaker was chosen. */
  moveToSpeaker() {
    for (const audio of this.element.children) this.#route(audio);
  }

  /** To be called from a click. */
  unblock() {
    for (const audio of this.element.children) this.#play(audio);
  }

  #create() {
    const audio = make("audio", { autoplay: true });
    this.#route(audio);
    return audio;
  }

  #route(audio) {
    const device_id = chosenSpeaker();
    if (!device_id) return;
    audio.setSinkId?.(device_id).catch(() => {
      // It may be unplugged today; the browser's own choice does.
    });
  }

  async #play(audio) {
    let is_refused = false;
    try {
      await audio.play();
    } catch (error) {
      is_refused = error.name === "NotAllowedError";
    }
    this.#note(audio, is_refused);
  }

  #note(audio, is_refused) {
    if (is_refused && this.element.contains(audio)) this.#refused.add(audio);
    else this.#refused.delete(audio);
    const is_blocked = this.#refused.size > 0;
    if (is_blocked === this.#is_blocked) return;
    this.#is_blocked = is_blocked;
    this.blocked(is_blocked);
  }
}
