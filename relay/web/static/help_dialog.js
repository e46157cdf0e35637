// The keys that work while one is in a room or call.

import { make } from "./dom.js";

const KEYS = [
  ["M", "key_microphone"],
  ["V", "key_camera"],
  ["S", "key_screen"],
  ["C", "panel_chat"],
  ["P", "panel_people"],
  ["E", "panel_verify"],
  ["I", "panel_stats"],
  ["D", "panel_devices"],
  ["H", "panel_help"],
  ["Esc", "close_panel"],
];

export class HelpDialog {
  constructor() {
    const rows = KEYS.map(([key, said]) =>
      make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", { text: said })),
    );
    const close = make("button", {
      type: "button",
      class: "primary",
      text: "close",
      on: { click: () => this.element.close() },
    });
    this.element = make(
      "dialog",
      { class: "card", "aria-labelledby": "help-title" },
      make("h2", { id: "help-title", text: "panel_help" }),
      make("dl", { class: "keys" }, ...rows),
      close,
    );
  }

  get is_open() {
    return this.element.open;
  }

  open() {
    this.element.showModal();
  }
}
