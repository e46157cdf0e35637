// The lists of microphones, cameras and speakers, before a call and in one.

import { make, syncList } from "./dom.js";
import { listDevices } from "./devices.js";
import { text } from "./text.js";

const KINDS = ["audioinput", "videoinput", "audiooutput"];

export class DevicePicker {
  /** `choose(kind, device_id)` is called when somebody has chosen. */
  constructor(choose) {
    this.selects = {};
    this.element = make("div", { class: "pickers" });
    for (const kind of KINDS) {
      const select = make("select", {
        "data-kind": kind,
        on: { change: () => choose(kind, select.value) },
      });
      this.selects[kind] = select;
      this.element.append(make("label", {}, make("span", { text: `device_${kind}` }), select));
    }
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.refresh());
  }

  /** Ask anew what is there, and mark what `used` says: {audioinput: id, ...}. */
  async refresh(used = {}) {
    const found = await listDevices();
    for (const kind of KINDS) {
      const select = this.selects[kind];
      const before = used[kind] ?? select.value;
      select.parentElement.hidden = !found[kind].length;
      syncList(
        select,
        found[kind],
        ({ id }) => id,
        ({ id }) => make("option", { value: id }),
        (option, { label }) => {
          const place = [...select.children].indexOf(option) + 1;
          option.textContent = label || text(`device_${kind}_number`, { number: place });
        },
      );
      if (found[kind].some(({ id }) => id === before)) select.value = before;
    }
  }
}
