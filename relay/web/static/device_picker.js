// The lists of microphones, cameras and speakers, before a call and in one.

import { make, syncList } from "./dom.js";
import { listDevices, onDevices } from "./media.js";
import { canChooseSpeaker, chooseSpeaker, chosenSpeaker } from "./speaker.js";
import { text } from "./text.js";

// As the browser calls them, and as they are listed.
const LISTS = { audioinput: "microphones", videoinput: "cameras", audiooutput: "speakers" };
const KINDS = Object.keys(LISTS);

export class DevicePicker {
  /** `choose(kind, device_id)` is called when somebody has chosen; a speaker is remembered. */
  constructor(choose) {
    this.selects = {};
    this.element = make("div", { class: "pickers" });
    for (const kind of KINDS) {
      const select = make("select", {
        "data-kind": kind,
        on: { change: () => this.#chosen(kind, select.value, choose) },
      });
      this.selects[kind] = select;
      this.element.append(make("label", {}, make("span", { text: `device_${kind}` }), select));
    }
    onDevices(() => this.refresh());
  }

  /** Ask anew what is there, and mark what `used` says: {audioinput: id, ...}. */
  async refresh(used = {}) {
    const listed = await listDevices();
    for (const kind of KINDS) {
      // Before a device was allowed they have no names, and are nothing to choose from.
      const is_offered = kind !== "audiooutput" || canChooseSpeaker();
      const found = is_offered ? listed[LISTS[kind]].filter(({ id }) => id) : [];
      const select = this.selects[kind];
      const before = kind === "audiooutput" ? chosenSpeaker() : (used[kind] ?? select.value);
      select.parentElement.hidden = !found.length;
      syncList(
        select,
        found,
        ({ id }) => id,
        ({ id }) => make("option", { value: id }),
        (option, { label }) => {
          const place = [...select.children].indexOf(option) + 1;
          option.textContent = label || text(`device_${kind}_number`, { number: place });
        },
      );
      if (found.some(({ id }) => id === before)) select.value = before;
    }
  }

  #chosen(kind, device_id, choose) {
    if (kind === "audiooutput") chooseSpeaker(device_id);
    choose(kind, device_id);
  }
}
