// Notifications of calls that ring while the page is hidden, each gone when its call rings no more.

import { shortAddress } from "./format.js";
import { text } from "./text.js";

const TAG = "montana-ringing-";

export class RingNotices {
  #told = new Set(); // Calls; who has put a notification away is not shown it again.
  #turn = Promise.resolve();
  #ringing = [];

  constructor() {
    // What a page from before has left is nobody's any more; who looks at the page sees what rings.
    this.render([]);
    document.addEventListener("visibilitychange", () => this.render(this.#ringing));
  }

  /** Have those shown that are of `ringing`: [{call, other, kind}], and no others. */
  render(ringing) {
    this.#ringing = ringing;
    this.#turn = this.#turn
      .then(() => this.#sync())
      .catch(() => {
        // The browser may refuse; it rings in the page all the same.
      });
  }

  async #sync() {
    if (window.Notification?.permission !== "granted" || !navigator.serviceWorker) return;
    const registration = await navigator.serviceWorker.ready;
    const is_hidden = document.visibilityState !== "visible";
    const wanted = is_hidden ? this.#ringing : [];
    for (const call of this.#told)
      if (!this.#ringing.some((ring) => ring.call === call)) this.#told.delete(call);
    for (const notice of await registration.getNotifications()) {
      const is_ours = notice.tag.startsWith(TAG);
      if (is_ours && !wanted.some(({ call }) => notice.tag === TAG + call)) notice.close();
    }
    for (const { call, other, kind } of wanted) {
      if (this.#told.has(call)) continue;
      this.#told.add(call);
      // Who has the screen may see it, so it holds nothing that opens the call.
      await registration.showNotification(text("rings", { name: shortAddress(other) }), {
        body: text(`kind_${kind}`),
        icon: "/static/icon-192.png",
        tag: TAG + call,
      });
    }
  }
}
