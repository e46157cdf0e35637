// A small live plot: one curve, three grid lines, its newest value at the right. What is not known
// (null) leaves a gap; where a call has broken off is a mark.

import { number, text } from "./text.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const LEFT = 38;
const MARGIN = 10;

export class Plot {
  constructor(svg, capacity) {
    this.svg = svg;
    this.capacity = capacity;
    this.values = [];
    this.dropped = 0;
    this.ended = null;
    new ResizeObserver(() => this.draw()).observe(svg);
  }

  clear() {
    this.values = [];
    this.dropped = 0;
    this.ended = null;
    this.draw();
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this.capacity) {
      this.values.shift();
      this.dropped += 1;
    }
    this.draw();
  }

  /** Draw `values`, the newest of them last, in place of all before. */
  show(values) {
    this.values = values.slice(-this.capacity);
    this.draw();
  }

  /** Mark the last of the first `count` values as the one in which all ended. */
  end(count) {
    this.ended = count;
    this.draw();
  }

  draw() {
    // In the screen's own units, so that text and lines keep their shape at any width.
    const width = this.svg.clientWidth || 300;
    const bottom = (this.svg.clientHeight || 128) - MARGIN;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${bottom + MARGIN}`);
    const height = bottom - MARGIN;
    const top = roundUp(Math.max(1, ...this.values));
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const y = bottom - share * height;
      parts.push(make("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }));
      if (!this.values.length) continue;
      const label = make("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" });
      label.textContent = number(top * share);
      parts.push(label);
    }
    const step = (width - LEFT) / (this.capacity - 1);
    const x = (index) => (LEFT + index * step).toFixed(1);
    for (const { from, values } of runs(this.values)) {
      const to = from + values.length - 1;
      const points = values.map((value, index) => {
        const share = Math.max(0, value / top);
        return `${x(from + index)},${(bottom - share * height).toFixed(1)}`;
      });
      // A point alone is a line to itself, which is drawn as a dot.
      if (to === from) points.push(points[0]);
      const area = `${x(from)},${bottom} ${points.join(" ")} ${x(to)},${bottom}`;
      parts.push(make("polygon", { class: "area", points: area }));
      parts.push(make("polyline", { class: "curve", points: points.join(" ") }));
    }
    if (this.ended !== null) {
      const at = Number(x(Math.max(0, this.ended - 1 - this.dropped)));
      parts.push(make("line", { class: "end", x1: at, x2: at, y1: MARGIN, y2: bottom }));
      // On the side where there is more room.
      const is_early = at < (LEFT + width) / 2;
      const anchor = is_early ? "start" : "end";
      const label = make("text", {
        x: at + (is_early ? 5 : -5),
        y: MARGIN + 11,
        "text-anchor": anchor,
      });
      label.textContent = text("plot_end");
      parts.push(label);
    }
    this.svg.replaceChildren(...parts);
  }
}

/** The stretches of `values` without a gap, each with the index at which it begins. */
function runs(values) {
  const found = [];
  values.forEach((value, index) => {
    if (value === null) return;
    if (index === 0 || values[index - 1] === null) found.push({ from: index, values: [] });
    found.at(-1).values.push(value);
  });
  return found;
}

function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  for (const factor of [1, 2, 4, 5, 10]) {
    if (factor * unit >= value) return factor * unit;
  }
  return 10 * unit;
}

function make(name, attributes) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
