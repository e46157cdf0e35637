// A room or call while one is in it: tiles, tools, panels, and what has to be told.

import { AudioSinks } from "./audio_sinks.js";
import { Banners } from "./banners.js";
import { ChatPanel } from "./chat_panel.js";
import { DevicePicker } from "./device_picker.js";
import { make, say, setAttribute, setLabel, setText, setTip } from "./dom.js";
import { explainFailure } from "./explain.js";
import { clock, money, nameOf, shortAddress } from "./format.js";
import { HelpDialog } from "./help_dialog.js";
import { icon, setIcon } from "./icons.js";
import { PeoplePanel } from "./people_panel.js";
import { StatsPanel } from "./stats_panel.js";
import { onLanguage, text } from "./text.js";
import { Tiles } from "./tiles.js";
import { alarmOf, VerificationPanel } from "./verification_panel.js";
import { WakeLock } from "./wake_lock.js";

const LITTLE_LEFT_S = 60;

export class Stage {
  #panel = null;
  #opener = null;
  #seen = { chat: 0, files: 0 };
  #known_peers = null;
  #entered_ms = null;
  #timer = null;

  /** `root` holds the stage while it is shown. `leave()` is called when somebody hangs up. */
  constructor(meeting, root, leave) {
    this.meeting = meeting;
    this.root = root;
    this.leave = leave;
    const told = (said) => this.banners.tell(said);
    this.banners = new Banners({
      verify: (peer_id) => this.openPanel("verify", peer_id),
      unblock: () => this.sinks.unblock(),
      admit: (peer_id) => meeting.host.admit(peer_id),
      deny: (peer_id) => meeting.host.deny(peer_id),
    });
    this.sinks = new AudioSinks((is_blocked) => {
      this.banners.is_blocked = is_blocked;
      this.banners.render(meeting.state);
    });
    this.tiles = new Tiles((peer_id) => this.openPanel("verify", peer_id));
    this.devices = new DevicePicker((kind, id) => this.#chooseDevice(kind, id));
    this.panels = {
      chat: new ChatPanel(meeting, told),
      people: new PeoplePanel(meeting, told),
      verify: new VerificationPanel(meeting),
      stats: new StatsPanel(),
      devices: { element: make("div", {}, this.devices.element), render() {} },
    };
    this.help = new HelpDialog();
    this.wake_lock = new WakeLock();
    this.#build();
    meeting.addEventListener("failure", ({ detail }) => this.tell(detail));
    document.addEventListener("keydown", (event) => this.#key(event));
    onLanguage(() => this.root.contains(this.element) && this.render());
  }

  get is_shown() {
    return this.root.contains(this.element);
  }

  show() {
    if (this.is_shown) return;
    this.root.replaceChildren(this.element);
    this.#entered_ms = Date.now();
    this.wake_lock.hold();
    this.#timer = setInterval(() => {
      this.#showTime();
      // Some of what they tell is how long something has taken.
      this.banners.render(this.meeting.state);
    }, 500);
    this.render();
    this.buttons.microphone.focus();
  }

  hide() {
    clearInterval(this.#timer);
    this.wake_lock.release();
    this.sinks.render([]);
    this.element.remove();
  }

  tell(failure) {
    const { title, advice } = explainFailure(failure);
    this.banners.tell(`${title} ${advice}`);
  }

  render() {
    const { state } = this.meeting;
    const { call, room, peers, local } = state;
    say(this.title, call ? shortAddress(call.other || nameOf(peers[0])) : text("room"));
    this.kind.hidden = !call;
    if (call) setText(this.kind, `kind_${call.kind}`);
    this.#showTime();
    this.#showMoney(call);
    this.relay.hidden = !state.relayOnly;
    this.locked.hidden = !room?.locked;
    this.tiles.render(state);
    this.alone.hidden = peers.length > 0;
    this.sinks.render(peers);
    this.banners.render(state);
    this.#showTools(local, state);
    if (this.#panel) this.panels[this.#panel].render(state);
    this.#countUnread(state);
    this.#announcePeers(peers);
  }

  /** Show a panel, or hide all (null); `peer_id` is whom it is about. */
  openPanel(name, peer_id = null) {
    if (this.#panel === name && peer_id === null) name = null;
    if (name && !this.#panel) this.#opener = document.activeElement;
    this.#panel = name;
    this.panel.hidden = name === null;
    setAttribute(this.element, "data-panel", name);
    for (const [key, button] of Object.entries(this.buttons)) {
      if (button.hasAttribute("aria-expanded"))
        setAttribute(button, "aria-expanded", String(key === name));
    }
    if (name === null) {
      (this.element.contains(this.#opener) ? this.#opener : this.buttons.microphone).focus();
      return;
    }
    const panel = this.panels[name];
    setText(this.panel_title, `panel_${name}`);
    setLabel(this.panel, `panel_${name}`);
    setLabel(this.panel_body, `panel_${name}`);
    this.panel_body.replaceChildren(panel.element);
    if (name === "devices") this.devices.refresh(this.#usedDevices());
    panel.render(this.meeting.state);
    this.#countUnread(this.meeting.state);
    if (peer_id !== null) panel.show(peer_id);
    else if (name === "chat") panel.focus();
    else this.panel_title.focus();
  }

  #build() {
    this.title = make("h1", { class: "stage-name" });
    this.kind = make("span", { class: "chip" });
    this.time = make("span", { class: "chip time", role: "timer", label: "duration" });
    this.money = make("span", { class: "chip money", hidden: true });
    this.relay = make("span", {
      class: "chip",
      text: "relay_only_badge",
      tip: "relay_only_hint",
      hidden: true,
    });
    this.locked = make("span", { class: "chip", text: "locked_badge", hidden: true });
    this.announcer = make("div", { class: "unseen", "aria-live": "polite" });
    const close = make(
      "button",
      {
        type: "button",
        class: "plain square",
        label: "close_panel",
        tip: "close_panel",
        on: { click: () => this.openPanel(null) },
      },
      icon("close"),
    );
    this.panel_title = make("h2", { tabindex: "-1" });
    this.panel_body = make("div", { class: "panel-body", role: "group", tabindex: "0" });
    this.panel = make(
      "aside",
      { class: "panel", hidden: true },
      make("div", { class: "panel-head" }, this.panel_title, close),
      this.panel_body,
    );
    this.alone = make(
      "div",
      { class: "alone" },
      make("p", { text: "alone" }),
      make("button", {
        type: "button",
        class: "primary small",
        text: "alone_invite",
        on: { click: () => this.openPanel("people") },
      }),
    );
    const { meeting } = this;
    this.buttons = {
      microphone: this.#button("microphone", () =>
        this.#try(() => meeting.setMicrophone(!meeting.state.local.microphone)),
      ),
      camera: this.#button("camera", () =>
        this.#try(() => meeting.setCamera(!meeting.state.local.camera)),
      ),
      screen: this.#button("screen", () =>
        this.#try(() => meeting.shareScreen(!meeting.state.local.screen)),
      ),
      chat: this.#panelButton("chat", "chat"),
      people: this.#panelButton("people", "people"),
      verify: this.#panelButton("verify", "shield"),
      stats: this.#panelButton("stats", "plot"),
      devices: this.#panelButton("devices", "gear"),
      help: this.#button("help", () => this.help.open()),
      hang_up: this.#button("hang_up", () => this.leave()),
    };
    setIcon(this.buttons.help, "keyboard");
    setIcon(this.buttons.hang_up, "hang_up");
    this.buttons.hang_up.classList.add("hang-up");
    // A phone's browser shares no screen.
    this.buttons.screen.hidden = !navigator.mediaDevices?.getDisplayMedia;
    const { microphone, camera, screen, chat, people, verify, stats, devices, help, hang_up } =
      this.buttons;
    this.toolbar = make(
      "div",
      { class: "tools", role: "group", label: "tools" },
      make("div", { class: "tool-group" }, microphone, camera, screen),
      make("div", { class: "tool-group" }, chat, people, verify),
      make("div", { class: "tool-group minor" }, stats, devices, help),
      make("div", { class: "tool-group" }, hang_up),
    );
    this.element = make(
      "div",
      { class: "stage" },
      make(
        "div",
        { class: "stage-top" },
        this.title,
        this.kind,
        this.time,
        this.money,
        this.relay,
        this.locked,
      ),
      this.banners.element,
      make(
        "div",
        { class: "stage-body" },
        make("div", { class: "stage-view" }, this.tiles.element, this.alone),
        this.panel,
      ),
      this.toolbar,
      this.announcer,
      this.sinks.element,
      this.help.element,
    );
  }

  #button(name, click) {
    const button = make("button", {
      type: "button",
      class: "round",
      "data-tool": name,
      on: { click },
    });
    setLabel(button, name);
    setTip(button, `${name}_tip`);
    return button;
  }

  #panelButton(name, icon_name) {
    const button = this.#button(name, () => this.openPanel(name));
    button.append(icon(icon_name), make("span", { class: "count", hidden: true }));
    button.setAttribute("aria-expanded", "false");
    return button;
  }

  #showTools(local, state) {
    const { microphone, camera, screen, verify } = this.buttons;
    for (const [button, name, is_on] of [
      [microphone, "microphone", local.microphone],
      [camera, "camera", local.camera],
    ]) {
      setIcon(button, is_on ? name : `${name}_off`);
      setAttribute(button, "data-on", Boolean(is_on));
      setLabel(button, is_on ? `${name}_turn_off` : `${name}_turn_on`);
    }
    setIcon(screen, "screen");
    setAttribute(screen, "data-sharing", Boolean(local.screen));
    setLabel(screen, local.screen ? "screen_stop" : "screen_share");
    const alarms = state.peers.some((peer) => alarmOf(peer));
    const is_verified =
      state.peers.length > 0 &&
      state.peers.every(({ verification }) => verification?.identity === "verified");
    setIcon(verify, alarms ? "shield_alert" : is_verified ? "shield_check" : "shield");
    setAttribute(verify, "data-alarm", alarms);
    this.#count("people", state.knocking.length);
  }

  #showTime() {
    const { call } = this.meeting.state;
    const seconds = call ? call.seconds : (Date.now() - this.#entered_ms) / 1000;
    say(this.time, clock(seconds));
  }

  #showMoney(call) {
    this.money.hidden = !call?.spent;
    if (this.money.hidden) return;
    const left =
      call.left === null
        ? ""
        : ` · ${text("money_left", { left: money(call.left), time: clock(call.left_s ?? 0) })}`;
    say(this.money, `${text("money_spent", { spent: money(call.spent) })}${left}`);
    setAttribute(this.money, "data-little", call.left_s !== null && call.left_s <= LITTLE_LEFT_S);
  }

  #countUnread({ chat, files }) {
    const received = chat.filter(({ mine }) => !mine);
    if (this.#panel === "chat") this.#seen = { chat: received.length, files: files.length };
    const unread = received.length - this.#seen.chat + Math.max(0, files.length - this.#seen.files);
    this.#count("chat", Math.max(0, unread));
    const newest = received.at(-1);
    if (newest && newest.id !== this.announced_id && this.#panel !== "chat") {
      this.announced_id = newest.id;
      say(
        this.announcer,
        text("chat_from", { name: nameOf(newest), said: newest.text.slice(0, 200) }),
      );
    }
  }

  #count(name, count) {
    const badge = this.buttons[name].querySelector(".count");
    badge.hidden = !count;
    say(badge, count > 9 ? "9+" : String(count));
  }

  #announcePeers(peers) {
    const now = new Map(peers.map((peer) => [peer.id, nameOf(peer)]));
    if (this.#known_peers) {
      for (const [id, name] of now)
        if (!this.#known_peers.has(id)) say(this.announcer, text("came", { name }));
      for (const [id, name] of this.#known_peers)
        if (!now.has(id)) say(this.announcer, text("went", { name }));
    }
    this.#known_peers = now;
  }

  async #try(doing) {
    try {
      await doing();
    } catch (failure) {
      // Whoever changes their mind while choosing a screen needs no advice.
      if (failure.device !== "screen" || failure.reason !== "refused") this.tell(failure);
    }
  }

  #chooseDevice(kind, id) {
    if (kind === "audiooutput") this.sinks.moveToSpeaker();
    else this.#try(() => this.meeting.switchDevice(kind, id));
  }

  #usedDevices() {
    const { cameraStream } = this.meeting.state.local;
    return { videoinput: cameraStream?.getVideoTracks()[0]?.getSettings().deviceId };
  }

  #key(event) {
    if (!this.is_shown || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.code === "Escape" && this.#panel && !this.help.is_open) {
      this.openPanel(null);
      return;
    }
    if (event.target.closest("input, textarea, select, dialog")) return;
    // By place on the keyboard, so that they are the same in any alphabet.
    const tool = {
      KeyM: "microphone",
      KeyV: "camera",
      KeyS: "screen",
      KeyC: "chat",
      KeyP: "people",
      KeyE: "verify",
      KeyI: "stats",
      KeyD: "devices",
      KeyH: "help",
    }[event.code];
    if (!tool || this.buttons[tool].hidden) return;
    event.preventDefault();
    this.buttons[tool].click();
  }
}
