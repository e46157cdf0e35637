// The tones of a telephone, made by the page: what a caller hears while it rings (ring-back), and
// what rings at the callee's.

const VOLUME = 0.08;
// Seconds on and off, and the frequencies in hertz that sound together.
const TONES = {
  ring_back: { on_s: 1, off_s: 3, frequencies: [425] },
  ring: { on_s: 0.9, off_s: 1.6, frequencies: [587, 740] },
};
const AHEAD = 40; // How often it is scheduled to sound; longer than any call rings.

export class Ringer {
  #context = null;
  #name = null;

  /** Sound the tone `name`, or none (null). Browsers stay silent until somebody has clicked. */
  play(name) {
    if (name === this.#name) return;
    this.#name = name;
    this.#context?.close();
    this.#context = null;
    if (name === null || !("AudioContext" in window)) return;
    const context = new AudioContext();
    this.#context = context;
    const { on_s, off_s, frequencies } = TONES[name];
    const gain = context.createGain();
    gain.gain.value = 0;
    gain.connect(context.destination);
    for (let turn = 0; turn < AHEAD; turn += 1) {
      const start_s = turn * (on_s + off_s) + 0.05;
      // Ramps, since a tone that starts at once clicks.
      gain.gain.setValueAtTime(0, start_s);
      gain.gain.linearRampToValueAtTime(VOLUME, start_s + 0.03);
      gain.gain.setValueAtTime(VOLUME, start_s + on_s - 0.05);
      gain.gain.linearRampToValueAtTime(0, start_s + on_s);
    }
    for (const frequency of frequencies) {
      const tone = context.createOscillator();
      tone.frequency.value = frequency;
      tone.connect(gain);
      tone.start();
    }
    if (context.state === "suspended") {
      const resume = () => context.state === "suspended" && context.resume().catch(() => {});
      for (const type of ["pointerdown", "keydown"]) {
        document.addEventListener(type, resume, { once: true });
      }
    }
  }
}
