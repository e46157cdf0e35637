// Everybody's picture: a grid, or a shared screen large with the rest beside it. In a pair the other
// is large and oneself is small in a corner.

import { make, say, setAttribute, setLabel, syncList } from "./dom.js";
import { initials, nameOf } from "./format.js";
import { icon, setIcon } from "./icons.js";
import { qualityOf } from "./quality.js";
import { number, text } from "./text.js";
import { alarmOf } from "./verification_panel.js";

const GAP_PX = 10;
const SHAPE = 16 / 9;
const OWN = "own";
const SPEAKING_LEVEL = 0.05;

export class Tiles {
  /** `verify(peer_id)` is called when somebody wants to compare emoji with a peer. */
  constructor(verify) {
    this.verify = verify;
    this.element = make("div", { class: "tiles" });
    new ResizeObserver(() => this.#layOut()).observe(this.element);
  }

  render(state) {
    const tiles = describeTiles(state);
    this.element.dataset.layout = layoutOf(tiles);
    syncList(
      this.element,
      tiles,
      ({ key }) => key,
      (tile) => this.#create(tile),
      updateTile,
    );
    this.#layOut();
  }

  #create({ key, peer, is_screen }) {
    const video = make("video", { playsinline: true, autoplay: true });
    // Sound has an element of its own, which goes on when a picture comes or goes.
    video.muted = true;
    const shield = make("button", { type: "button", class: "chip shield" }, icon("shield"));
    if (peer) shield.addEventListener("click", () => this.verify(peer.id));
    return make(
      "div",
      { class: `tile${key === OWN ? " own" : ""}${is_screen ? " screen" : ""}`, role: "group" },
      video,
      make("span", { class: "avatar", "aria-hidden": "true" }),
      make("p", { class: "tile-state", hidden: true }),
      make(
        "div",
        { class: "tile-bar" },
        make("span", { class: "chip muted", role: "img", hidden: true }, icon("microphone_off")),
        make("span", { class: "chip name" }),
      ),
      make(
        "div",
        { class: "tile-corner" },
        make("span", { class: "chip path", hidden: true }),
        make(
          "span",
          { class: "chip bars", role: "img", hidden: true },
          ...[1, 2, 3, 4].map(() => make("i")),
        ),
        peer && !is_screen ? shield : null,
      ),
    );
  }

  /** As many columns as make the tiles largest. */
  #layOut() {
    const { clientWidth: width, clientHeight: height, children, dataset } = this.element;
    if (dataset.layout !== "grid" || !children.length || !width) return;
    const count = children.length;
    let best = { columns: 1, area: 0 };
    for (let columns = 1; columns <= count; columns += 1) {
      const rows = Math.ceil(count / columns);
      const wide = (width - GAP_PX * (columns - 1)) / columns;
      const high = (height - GAP_PX * (rows - 1)) / rows;
      const tile_width = Math.min(wide, high * SHAPE);
      const area = tile_width * Math.min(high, wide / SHAPE);
      if (area > best.area) best = { columns, area };
    }
    this.element.style.setProperty("--columns", best.columns);
  }
}

function describeTiles({ peers, local, you }) {
  const tiles = [];
  for (const peer of peers) {
    if (peer.screen && peer.screenStream) {
      tiles.push({ key: `${peer.id}-screen`, peer, is_screen: true, stream: peer.screenStream });
    }
  }
  if (local.screen && local.screenStream) {
    tiles.push({ key: "own-screen", peer: null, is_screen: true, stream: local.screenStream });
  }
  for (const peer of peers) {
    const stream = peer.camera ? peer.cameraStream : null;
    tiles.push({ key: peer.id, peer, is_screen: false, stream });
  }
  const stream = local.camera ? local.cameraStream : null;
  tiles.push({ key: OWN, peer: null, is_screen: false, stream, local, you });
  return tiles;
}

function layoutOf(tiles) {
  if (tiles.some(({ is_screen }) => is_screen)) return "screen";
  return tiles.length === 2 ? "pair" : "grid";
}

function updateTile(element, { key, peer, is_screen, stream, local }) {
  const [video, avatar, state_line, bar, corner] = element.children;
  if (video.srcObject !== stream) {
    video.srcObject = stream;
    if (stream) video.play().catch(() => {});
  }
  video.hidden = !stream;
  avatar.hidden = Boolean(stream);
  const called = peer ? nameOf(peer) : text("you");
  say(avatar, peer ? initials(called) : [...called][0].toLocaleUpperCase());
  avatar.dataset.tint = peer ? tintOf(peer.id) : 0;
  const [muted, name] = bar.children;
  say(name, is_screen ? text(peer ? "screen_of" : "screen_own", { name: called }) : called);
  setAttribute(element, "aria-label", name.textContent);
  const is_muted = !is_screen && (peer ? !peer.microphone : !local?.microphone);
  muted.hidden = !is_muted;
  setLabel(muted, "microphone_is_off");
  const is_speaking = !is_screen && (peer ? peer.speaking : (local?.level ?? 0) > SPEAKING_LEVEL);
  element.classList.toggle("speaking", is_speaking && !is_muted);
  const said = peer && !is_screen ? stateOf(peer) : "";
  state_line.hidden = !said;
  say(state_line, said);
  const [path, bars, shield] = corner.children;
  corner.hidden = !peer || is_screen;
  if (corner.hidden || key === OWN) return;
  path.hidden = !peer.path;
  if (peer.path) say(path, text(`path_${peer.path}`));
  const quality = qualityOf(peer);
  bars.hidden = quality === null;
  bars.dataset.level = quality ?? 0;
  setAttribute(bars, "aria-label", text("quality", { level: number(quality ?? 0) }));
  bars.title = bars.getAttribute("aria-label");
  updateShield(shield, peer);
}

function updateShield(shield, { verification }) {
  const is_wrong = alarmOf({ verification }) !== null;
  let key = "shield_waiting";
  if (is_wrong) key = "shield_wrong";
  else if (verification?.identity === "verified") key = "shield_verified";
  else if (verification) key = "shield_compare";
  setIcon(
    shield,
    { shield_wrong: "shield_alert", shield_verified: "shield_check" }[key] ?? "shield",
  );
  shield.dataset.state = key;
  setLabel(shield, key);
  shield.title = text(key);
}

function stateOf(peer) {
  if (peer.connection === "failed") return text("peer_failed");
  if (peer.connection === "interrupted") return text("peer_interrupted");
  if (peer.connection !== "connected") return text("peer_connecting");
  return peer.away ? text("peer_away") : "";
}

function tintOf(id) {
  return [...id].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % 6;
}
