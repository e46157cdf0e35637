// How loud the microphone is, as a row of bars.

import { make } from "./dom.js";
import { LevelMeter } from "./media.js";

const BARS = 12;
const FULL = 0.5; // The level of somebody who speaks loudly.

export class LevelBars {
  #track = null;
  #meter = null;

  constructor() {
    this.bars = Array.from({ length: BARS }, () => make("i"));
    this.element = make("div", { class: "level", "aria-hidden": "true" }, ...this.bars);
  }

  /** Show the level of `track`, or none (null). */
  listen(track) {
    if (track === this.#track) return;
    this.#track = track;
    this.#meter?.close();
    this.#show(0);
    this.#meter = track && new LevelMeter(track, (level) => this.#show(level / FULL));
  }

  #show(share) {
    this.bars.forEach((bar, index) => bar.classList.toggle("lit", share * BARS > index + 0.3));
  }
}
