// A button that copies, and says so.

import { make, setText } from "./dom.js";
import { icon, setIcon } from "./icons.js";

const SHOWN_MS = 2000;

/** A button that copies what `value()` gives. */
export function copyButton(key, value) {
  const said = make("span", { text: key });
  const button = make("button", { type: "button", class: "plain" }, icon("copy"), said);
  let timer = null;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(value());
    } catch {
      setText(said, "copy_refused");
      return;
    }
    setIcon(button, "check");
    setText(said, "copied");
    clearTimeout(timer);
    timer = setTimeout(() => {
      setIcon(button, "copy");
      setText(said, key);
    }, SHOWN_MS);
  });
  return button;
}
