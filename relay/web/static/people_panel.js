// Who is here, who waits, and what the host may do: admit, deny, send away, lock, invite.

import { copyButton } from "./clipboard.js";
import { make, say, setLabel, setTip, syncList } from "./dom.js";
import { explainFailure } from "./explain.js";
import { nameOf } from "./format.js";
import { icon, setIcon } from "./icons.js";
import { drawQr } from "./qr.js";
import { onLanguage, text } from "./text.js";

const DAY_S = 24 * 3600;

export class PeoplePanel {
  constructor(meeting, told) {
    this.meeting = meeting;
    this.told = told;
    this.invitation = null;
    this.sent = undefined;
    this.knocking = make("ul", { class: "people" });
    this.waiting = make(
      "section",
      { class: "knocks", hidden: true },
      make("h3", { text: "knocking_title" }),
      this.knocking,
    );
    this.people = make("ul", { class: "people" });
    this.locked = this.#switch("room_locked", (locked) => ({ locked }));
    this.lobby = this.#switch("room_lobby", (lobby) => ({ lobby }));
    this.url = make("input", {
      type: "text",
      readonly: true,
      label: "invite_link",
      on: { focus: (event) => event.target.select() },
    });
    this.code = make("div", { class: "code" });
    this.renew = make(
      "div",
      { class: "acts" },
      this.#inviteButton("invite_many", { uses: null, ttl_s: DAY_S }),
      this.#inviteButton("invite_once", { uses: 1, ttl_s: DAY_S }),
    );
    this.shown = make(
      "div",
      { class: "invite" },
      this.code,
      this.url,
      make(
        "div",
        { class: "acts" },
        copyButton("copy_link", () => this.url.value),
        this.#shareButton(),
      ),
    );
    this.invite = make(
      "section",
      {},
      make("h3", { text: "invite_title" }),
      make("p", { class: "hint", text: "invite_hint" }),
      this.shown,
      this.renew,
    );
    this.host = make(
      "section",
      { class: "host" },
      make("h3", { text: "host_title" }),
      this.locked.element,
      this.lobby.element,
    );
    this.element = make(
      "div",
      { class: "people-panel" },
      this.waiting,
      this.people,
      this.invite,
      this.host,
    );
    onLanguage(() => this.#showInvitation());
  }

  render(state) {
    const { room, peers, you } = state;
    const is_host = room !== null && room?.host === you;
    const { knocking } = state;
    this.waiting.hidden = !knocking.length;
    syncList(
      this.knocking,
      knocking,
      ({ id }) => id,
      (peer) => this.#createKnock(peer),
      (element, peer) => say(element.firstChild, nameOf(peer)),
    );
    const everybody = [{ id: you, name: this.meeting.name ?? "", own: true }, ...peers];
    syncList(
      this.people,
      everybody,
      ({ id }) => id,
      (peer) => this.#createPerson(peer),
      (element, peer) => {
        say(
          element.querySelector(".who"),
          peer.own ? `${peer.name || text("guest")} (${text("you_small")})` : nameOf(peer),
        );
        element.querySelector(".host-mark").hidden = room?.host !== peer.id;
        element.querySelector(".away").hidden = !peer.away;
        const muted = element.querySelector(".state");
        const is_on = peer.own ? state.local.microphone : peer.microphone;
        setIcon(muted, is_on ? "microphone" : "microphone_off");
        setLabel(muted, is_on ? "microphone_is_on" : "microphone_is_off");
        element.querySelector("button").hidden = !is_host || Boolean(peer.own);
      },
    );
    this.invite.hidden = !room;
    this.renew.hidden = !is_host;
    this.host.hidden = !is_host;
    if (is_host) {
      this.locked.input.checked = room.locked;
      this.lobby.input.checked = room.lobby;
    }
    // The newest is shown: one that was made here stays until the node sends another.
    if (state.invitation !== this.sent) {
      this.sent = state.invitation;
      this.invitation = state.invitation;
      this.#showInvitation();
    }
  }

  #showInvitation() {
    this.shown.hidden = !this.invitation;
    if (!this.invitation) return;
    this.url.value = invitationUrl(this.invitation);
    this.code.replaceChildren(drawQr(this.url.value, text("qr_label")));
  }

  #switch(key, change) {
    const input = make("input", { type: "checkbox", role: "switch" });
    input.addEventListener("change", () => {
      const { locked, lobby } = this.meeting.state.room;
      this.#act(() => this.meeting.host.setRoom({ locked, lobby, ...change(input.checked) }));
    });
    const element = make(
      "label",
      { class: "switch" },
      input,
      make("span", {}, make("span", { text: key }), make("small", { text: `${key}_hint` })),
    );
    return { element, input };
  }

  #inviteButton(key, wish) {
    const make_one = () =>
      this.#act(async () => {
        this.invitation = await this.meeting.host.invite(wish);
        this.#showInvitation();
        this.told(text("invite_made"));
      });
    return make("button", {
      type: "button",
      class: "plain small",
      text: key,
      on: { click: make_one },
    });
  }

  #shareButton() {
    if (!navigator.share) return null;
    const share = () =>
      navigator.share({ title: text("share_title"), url: this.url.value }).catch(() => {});
    return make("button", { type: "button", class: "plain", text: "share", on: { click: share } });
  }

  #createKnock({ id }) {
    const { host } = this.meeting;
    return make(
      "li",
      {},
      make("strong", { class: "who" }),
      make("button", {
        type: "button",
        class: "small",
        text: "admit",
        on: { click: () => this.#act(() => host.admit(id)) },
      }),
      make("button", {
        type: "button",
        class: "plain small",
        text: "deny",
        on: { click: () => this.#act(() => host.deny(id)) },
      }),
    );
  }

  #createPerson({ id }) {
    const kick = () => {
      const peer = this.meeting.state.peers.find((one) => one.id === id);
      if (confirm(text("kick_sure", { name: nameOf(peer) })))
        this.#act(() => this.meeting.host.kick(id));
    };
    const remove = make(
      "button",
      {
        type: "button",
        class: "plain square small",
        label: "kick",
        tip: "kick",
        on: { click: kick },
      },
      icon("close"),
    );
    const mark = make("span", { class: "host-mark", role: "img", label: "host" }, icon("crown"));
    setTip(mark, "host");
    return make(
      "li",
      {},
      make("span", { class: "state", role: "img" }, icon("microphone")),
      make("span", { class: "who" }),
      mark,
      make("span", { class: "away soft", text: "peer_away" }),
      remove,
    );
  }

  async #act(doing) {
    try {
      await doing();
    } catch (failure) {
      const { title, advice } = explainFailure(failure);
      this.told(`${title} ${advice}`);
    }
  }
}

function invitationUrl(invitation) {
  return `${location.origin}/#${invitation}`;
}
