// The connection to each peer in figures, and as small plots of the last minute.

import { make, say, svg, syncList } from "./dom.js";
import { nameOf } from "./format.js";
import { Plot } from "./plot.js";
import { number, text } from "./text.js";

const CAPACITY = 60;
const PLOTS = [
  { key: "rtt_ms", look: "of-round-trip", of: (stats) => stats.rtt_ms },
  { key: "loss", look: "of-loss", of: (stats) => (stats.loss === null ? null : 100 * stats.loss) },
  { key: "jitter_ms", look: "of-jitter", of: (stats) => stats.jitter_ms },
  { key: "in_kbps", look: "of-bitrate", of: (stats) => stats.in_kbps },
];

export class StatsPanel {
  constructor() {
    this.plots = new WeakMap();
    this.list = make("div", { class: "pairs" });
    this.empty = make("p", { class: "hint", text: "stats_nobody" });
    this.element = make("div", {}, this.empty, this.list);
  }

  render({ peers }) {
    this.empty.hidden = peers.length > 0;
    syncList(
      this.list,
      peers,
      ({ id }) => id,
      (peer) => this.#create(peer),
      (element, peer) => this.#update(element, peer),
    );
  }

  #create(peer) {
    const plots = PLOTS.map(({ key, look }) => {
      const name = `plot-${peer.id}-${key}`;
      const drawing = svg("svg", { role: "img", "aria-labelledby": name });
      const figure = make(
        "figure",
        { class: look },
        make(
          "figcaption",
          { id: name },
          make("span", { text: `stats_${key}` }),
          " ",
          make("strong"),
        ),
        drawing,
      );
      return { figure, plot: new Plot(drawing, CAPACITY) };
    });
    const element = make(
      "section",
      { class: "pair" },
      make("h3"),
      make("p", { class: "soft" }),
      make("div", { class: "plots" }, ...plots.map(({ figure }) => figure)),
    );
    this.plots.set(element, plots);
    return element;
  }

  #update(element, peer) {
    const [title, line] = element.children;
    say(title, nameOf(peer));
    const { stats } = peer;
    const parts = [text(`connection_${peer.connection}`)];
    if (peer.path) parts.push(text(`path_${peer.path}`));
    if (stats?.codec) parts.push(stats.codec);
    if (stats?.out_kbps !== undefined && stats?.out_kbps !== null)
      parts.push(text("stats_sent", { value: number(stats.out_kbps, 0) }));
    say(line, parts.join(" · "));
    this.plots.get(element).forEach(({ figure, plot }, index) => {
      const values = (peer.stats_history ?? []).map((entry) => PLOTS[index].of(entry) ?? null);
      plot.show(values);
      const last = values.at(-1);
      say(
        figure.querySelector("strong"),
        last === undefined || last === null ? "–" : number(last, last < 10 ? 1 : 0),
      );
    });
  }
}
