// Light or dark: as the system has it, or as somebody chooses.

import { setLabel, setTip } from "./dom.js";
import { setIcon } from "./icons.js";

const KEPT = "montana-theme";
const THEMES = ["system", "light", "dark"];
const ICONS = { system: "contrast", light: "sun", dark: "moon" };

/** Take up what was chosen before, and let `button`, if any, go on to the next. */
export function setUpTheme(button = null) {
  let theme = "system";
  try {
    theme = localStorage.getItem(KEPT) ?? theme;
  } catch {
    // Storage may be forbidden; the system's is good enough then.
  }
  if (!THEMES.includes(theme)) theme = "system";
  show();
  button?.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem(KEPT, theme);
    } catch {
      // It is forgotten with the page.
    }
    show();
  });

  function show() {
    document.documentElement.dataset.theme = theme;
    if (button === null) return;
    setIcon(button, ICONS[theme]);
    setLabel(button, `theme_${theme}`);
    setTip(button, `theme_${theme}`);
  }
}
