// Keeps the screen on while one is in a call, where the browser can.

export class WakeLock {
  #is_wanted = false;
  #lock = null;

  constructor() {
    // Browsers let go of it whenever the page is hidden.
    document.addEventListener("visibilitychange", () => this.#is_wanted && this.hold());
  }

  async hold() {
    this.#is_wanted = true;
    if (document.visibilityState !== "visible") return;
    try {
      const lock = await navigator.wakeLock?.request("screen");
      // Another request may have been answered meanwhile; one lock is kept and let go of.
      const is_held = this.#lock !== null && !this.#lock.released;
      if (this.#is_wanted && !is_held) this.#lock = lock ?? null;
      else lock?.release();
    } catch {
      // A battery that is low forbids it; the call goes on.
    }
  }

  release() {
    this.#is_wanted = false;
    this.#lock?.release();
    this.#lock = null;
  }
}
