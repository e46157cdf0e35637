// What was spent on each of the last 30 days, as columns.

import { svg } from "./dom.js";
import { money } from "./format.js";
import { currentLanguage } from "./text.js";

export const DAYS = 30;
const DAY_MS = 24 * 3600 * 1000;
const WIDTH = 600;
const HEIGHT = 110;
const BOTTOM = 92;

/** The sums by day, the oldest first, of `items` as the history has them; `now_ms` is in the last. */
export function spentByDay(items, now_ms) {
  const sums = Array(DAYS).fill(0);
  const today = dayOf(now_ms);
  for (const { time, amount } of items) {
    const age = today - dayOf(Date.parse(time));
    if (age >= 0 && age < DAYS && Number(amount) < 0) sums[DAYS - 1 - age] -= Number(amount);
  }
  return sums;
}

/** Draw the sums into `element`, an empty SVG. */
export function drawSpending(element, sums, now_ms) {
  const top = Math.max(...sums, 1);
  const step = WIDTH / DAYS;
  const said = (index) =>
    new Date(now_ms - (DAYS - 1 - index) * DAY_MS).toLocaleDateString(currentLanguage(), {
      day: "numeric",
      month: "short",
    });
  const columns = sums.map((sum, index) => {
    const height = Math.max(sum ? 3 : 1.5, (sum / top) * (BOTTOM - 8));
    const title = svg("title");
    title.textContent = `${said(index)}: ${money(String(sum))}`;
    return svg(
      "rect",
      {
        x: index * step + 3,
        y: BOTTOM - height,
        width: step - 6,
        height,
        rx: 2,
        class: sum ? "spent" : "nothing",
      },
      title,
    );
  });
  const labels = [
    [0, "start"],
    [DAYS - 1, "end"],
  ].map(([index, anchor]) => {
    const label = svg("text", { x: index ? WIDTH : 0, y: HEIGHT - 3, "text-anchor": anchor });
    label.textContent = said(index);
    return label;
  });
  element.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  element.replaceChildren(...columns, ...labels);
}

/** Days since 1970 where the person is. */
function dayOf(at_ms) {
  return Math.floor((at_ms - new Date(at_ms).getTimezoneOffset() * 60_000) / DAY_MS);
}
