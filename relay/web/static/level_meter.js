// How loud the microphone is, as a row of bars.

import { make } from "./dom.js";

const BARS = 12;
const PERIOD_MS = 80;
const FULL = 0.25; // The root mean square of somebody who speaks loudly.

export class LevelMeter {
  #track = null;
  #context = null;
  #timer = null;

  constructor() {
    this.bars = Array.from({ length: BARS }, () => make("i"));
    this.element = make("div", { class: "level", "aria-hidden": "true" }, ...this.bars);
  }

  /** Show the level of `track`, or none (null). */
  listen(track) {
    if (track === this.#track) return;
    this.#track = track;
    clearInterval(this.#timer);
    this.#context?.close();
    this.#context = null;
    this.#show(0);
    if (track === null || !("AudioContext" in window)) return;
    this.#context = new AudioContext();
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = 1024;
    this.#context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.#timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const square = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
      this.#show(Math.sqrt(square) / FULL);
    }, PERIOD_MS);
  }

  #show(share) {
    this.bars.forEach((bar, index) => bar.classList.toggle("lit", share * BARS > index + 0.3));
  }
}
