// The page `/me`: an account that is a key pair of this browser's, and what one does with it.

import { isSealed, openAccount, sealAccount } from "./account_file.js";
import { copyButton } from "./clipboard.js";
import { dropContact, keepContact, readContacts } from "./contacts.js";
import { make, say, setText, syncList } from "./dom.js";
import { explainFailure, ofKey } from "./explain.js";
import { clock, money, moment, shortAddress } from "./format.js";
import { icon } from "./icons.js";
import { Account } from "./identity.js";
import { MiniApp } from "./mini_app.js";
import { hidesAddress, setUpPage, showView, takeFragment } from "./page.js";
import { drawQr } from "./qr.js";
import { RingNotices } from "./ring_notices.js";
import { Signaling } from "./signaling.js";
import { Ringer } from "./sounds.js";
import { DAYS, drawSpending, spentByDay } from "./spending.js";
import { onLanguage, text } from "./text.js";

const PAGE = 20;
const PAGES_FOR_PLOT = 20; // At most so many of 100 lines are read for it.
const MONEY_MS = 5000;
const DAY_MS = 24 * 3600 * 1000;

const TELEGRAM = "montana-telegram";

const byId = (id) => document.getElementById(id);

setUpPage();
const mini_app = MiniApp.of(takeTelegram());
const state = {
  account: null, // The key pair.
  money: null, // What the node says of the account.
  online: false,
  calls: unread(),
  history: unread(),
  spent: Array(DAYS).fill(0),
  blocked: [],
  ringing: [],
};
window.montana = { state };
const ringer = new Ringer();
const ring_notices = new RingNotices();
let signaling = null;

listen();
begin();
mini_app?.ready();

/** What Telegram has written behind #; a wish that stands there is taken later. */
function takeTelegram() {
  return location.hash.startsWith("#call=") ? null : takeFragment(TELEGRAM);
}

async function begin() {
  if (mini_app) {
    // The account is that of Telegram's user; no key is needed for it, and none is kept.
    state.account = { address: "" };
    await signIn();
    return;
  }
  if (!(await canSign())) {
    const key = window.isSecureContext ? "no_ed25519" : "insecure";
    const tell = () => {
      const { title, advice } = ofKey(key);
      say(byId("unable-title"), title);
      say(byId("unable-advice"), advice);
    };
    tell();
    onLanguage(tell);
    showView("unable");
    setPhase("unable");
    return;
  }
  try {
    state.account = await Account.load();
  } catch {
    tellProblem({ title: text("no_storage"), advice: text("no_storage_advice") });
  }
  if (state.account === null) {
    showView("new");
    setPhase("new");
  } else await signIn();
}

async function canSign() {
  try {
    await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
    return true;
  } catch {
    return false;
  }
}

async function signIn() {
  showView("account");
  setPhase("connecting");
  signaling = new Signaling({ key: "montana.account-session" });
  signaling.addEventListener("message", ({ detail }) => receive(detail));
  signaling.addEventListener("online", () => setOnline(true));
  signaling.addEventListener("offline", () => setOnline(false));
  signaling.addEventListener("resumed", () => readAll().catch(tellProblem));
  signaling.addEventListener("gone", ({ detail }) => tellProblem(detail));
  show();
  const { account } = state;
  const enter = async ({ challenge }) => ({
    type: "sign_in",
    ...(mini_app ? { init_data: mini_app.init_data } : { proof: await account.prove(challenge) }),
  });
  try {
    const { address } = await signaling.enter(enter, { again: true });
    if (mini_app) state.account = { address };
    await readAll();
    setPhase("in");
    setInterval(readMoney, MONEY_MS);
    document.addEventListener("visibilitychange", readMoney);
    takeWish();
  } catch (failure) {
    tellProblem(failure);
  }
}

async function readAll() {
  state.money = await signaling.request({ type: "account" });
  state.blocked = (await signaling.request({ type: "blocked" })).addresses;
  await readLists();
  show();
}

async function readLists() {
  for (const name of ["calls", "history"]) await readMore(name, unread());
  await readSpent();
}

/** Money may have come from elsewhere or been spent in another tab, of which the node does not tell
 * by itself. */
async function readMoney() {
  if (!state.online || document.visibilityState !== "visible") return;
  try {
    state.money = await signaling.request({ type: "account" });
    const { items } = await signaling.request({ type: "history", before: null, limit: 1 });
    if (items[0]?.id !== state.history.items[0]?.id) await readLists();
  } catch {
    // The next one tells.
  }
  show();
}

function unread() {
  return { items: [], next: null, read: false };
}

/** Read a page more of `list`; one that is read anew stands in the old one's place only then. */
async function readMore(name, list = state[name]) {
  const page = await signaling.request({ type: name, before: list.next, limit: PAGE });
  list.items.push(...page.items);
  list.next = page.next;
  list.read = true;
  state[name] = list;
  show();
}

async function readSpent() {
  const since_ms = Date.now() - DAYS * DAY_MS;
  const items = [];
  let before = null;
  for (let count = 0; count < PAGES_FOR_PLOT; count += 1) {
    const page = await signaling.request({ type: "history", before, limit: 100 });
    items.push(...page.items);
    before = page.next;
    if (before === null || Date.parse(page.items.at(-1)?.time) < since_ms) break;
  }
  state.spent = spentByDay(items, Date.now());
}

function receive(message) {
  if (message.type === "account") state.money = message;
  if (message.type === "ringing")
    state.ringing = [...state.ringing.filter(({ call }) => call !== message.call), message];
  if (message.type === "ring_over")
    state.ringing = state.ringing.filter(({ call }) => call !== message.call);
  if (message.type === "ended")
    tellProblem({ title: text("signed_out"), advice: text("signed_out_advice") });
  show();
}

function setOnline(is_online) {
  state.online = is_online;
  show();
}

function setPhase(phase) {
  document.documentElement.dataset.phase = phase;
}

function tellProblem(failure) {
  const { title, advice } = failure.title ? failure : explainFailure(failure);
  const notice = byId("notice");
  notice.hidden = false;
  notice.replaceChildren(make("strong", {}, title), " ", advice);
}

// ---------------------------------------------------------------- what people do

function listen() {
  onLanguage(show);
  byId("make").addEventListener(
    "click",
    attempt(async () => {
      state.account = await Account.make();
      await signIn();
    }),
  );
  onSubmit("import-form", async (form) => {
    const [file] = form.elements.file.files;
    let line = (file ? await file.text() : form.elements.line.value).trim();
    try {
      if (isSealed(line)) line = await openAccount(line, form.elements.passphrase.value);
      state.account = await Account.take(line);
    } catch {
      tellProblem(ofKey("import_wrong"));
      return;
    }
    form.reset();
    await signIn();
  });
  byId("copy-address").append(copyButton("copy", () => state.account.address));
  byId("relay-only").checked = hidesAddress();
  byId("relay-only").addEventListener("change", ({ target }) => hidesAddress(target.checked));
  onSubmit("call-form", (form) => {
    const to = form.elements.to.value.trim();
    return to ? call(to, form.elements.kind.value) : getLink();
  });
  byId("get-link").addEventListener("click", attempt(getLink));
  byId("notify").addEventListener(
    "click",
    attempt(() => Notification.requestPermission().then(show)),
  );
  onSubmit("voucher-form", async (form) => {
    state.money = await signaling.request({
      type: "redeem",
      code: form.elements.code.value.trim(),
    });
    say(byId("voucher-said"), text("me_redeemed", { amount: money(state.money.redeemed ?? "0") }));
    form.reset();
    await readMore("history", unread());
  });
  byId("more-calls").addEventListener(
    "click",
    attempt(() => readMore("calls")),
  );
  byId("more-history").addEventListener(
    "click",
    attempt(() => readMore("history")),
  );
  onSubmit("block-form", async (form) => {
    await setBlocked(form.elements.address.value.trim(), true);
    form.reset();
  });
  onSubmit("export-form", async (form) => {
    const line = await exported(form);
    const url = URL.createObjectURL(new Blob([`${line}\n`], { type: "text/plain" }));
    const link = make("a", { href: url, download: "montana-account.txt" });
    link.click();
    URL.revokeObjectURL(url);
    setText(byId("export-said"), "me_exported");
  });
  byId("export-copy").addEventListener(
    "click",
    attempt(async () => {
      await navigator.clipboard.writeText(await exported(byId("export-form")));
      setText(byId("export-said"), "me_export_copied");
    }),
  );
  byId("forget").addEventListener(
    "click",
    attempt(async () => {
      if (!confirm(text("me_forget_sure"))) return;
      signaling.close();
      await Account.forget();
      location.reload();
    }),
  );
}

/** `doing` as a listener that tells what goes wrong. */
function attempt(doing) {
  return async (event) => {
    byId("notice").hidden = true;
    try {
      await doing(event);
    } catch (failure) {
      tellProblem(failure);
    }
    show();
  };
}

function onSubmit(id, doing) {
  const form = byId(id);
  const act = attempt(() => doing(form));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act(event);
  });
}

async function call(to, kind) {
  const made = await signaling.request({ type: "call", to, kind });
  keepContact(to);
  location.assign(ownUrl(made.call, made.secret));
}

async function getLink() {
  const kind = byId("call-form").elements.kind.value;
  const made = await signaling.request({ type: "call", to: null, kind });
  const url = callUrl(made.call, made.callee_secret);
  byId("made-url").value = url;
  byId("made-code").replaceChildren(drawQr(url, text("qr_label")));
  byId("made-acts").replaceChildren(
    copyButton("copy_link", () => url),
    make("a", { class: "button", href: ownUrl(made.call, made.secret), text: "me_open_side" }),
  );
  byId("made-link").hidden = false;
  byId("made-url").focus();
}

function callUrl(call_id, secret) {
  return `${location.origin}/call?id=${call_id}#${secret}`;
}

/** The address of one's own side of a call, which stays a Mini App where this is one. */
function ownUrl(call_id, secret) {
  return callUrl(call_id, mini_app ? mini_app.fragmentFor(secret) : secret);
}

/** Somebody is to be called anew: `/me#call=ADDRESS&kind=voice`. */
function takeWish() {
  const wish = new URLSearchParams(location.hash.slice(1));
  if (!wish.get("call")) return;
  history.replaceState(null, "", location.pathname);
  const { elements } = byId("call-form");
  elements.to.value = wish.get("call");
  elements.kind.value = wish.get("kind") === "video" ? "video" : "voice";
  byId("call-form").querySelector("[type=submit]").focus();
}

async function setBlocked(address, blocked) {
  state.blocked = (await signaling.request({ type: "set_blocked", address, blocked })).addresses;
  show();
}

async function exported(form) {
  const line = await state.account.exported();
  const { value } = form.elements.passphrase;
  return value ? sealAccount(line, value) : line;
}

// ---------------------------------------------------------------- what is shown

function show() {
  if (state.account === null) return;
  say(byId("address"), state.account.address);
  setText(byId("connection"), state.online ? "me_online" : "me_connecting");
  byId("connection").dataset.online = state.online;
  const { money: has } = state;
  say(byId("balance"), has ? money(has.available) : "–");
  const is_held = has && Number(has.held) > 0;
  say(
    byId("held"),
    has?.frozen ? text("me_frozen") : is_held ? text("me_held", { held: money(has.held) }) : "",
  );
  drawSpending(byId("spending"), state.spent, Date.now());
  showRinging();
  showContacts();
  showLists();
  const permission = window.Notification?.permission ?? "denied";
  byId("notify").disabled = permission !== "default";
  setText(
    byId("notify"),
    { default: "me_notify", granted: "me_notified" }[permission] ?? "me_notify_denied",
  );
}

function showRinging() {
  ringer.play(state.ringing.length ? "ring" : null);
  ring_notices.render(state.ringing);
  syncList(
    byId("rings"),
    state.ringing,
    ({ call }) => call,
    (ring) => {
      const decline = () => {
        signaling.act({ type: "decline", call: ring.call });
        state.ringing = state.ringing.filter((other) => other !== ring);
        show();
      };
      return make(
        "div",
        { class: "banner ring", role: "alertdialog", "aria-labelledby": `ring-${ring.call}` },
        icon("phone"),
        make("span", { id: `ring-${ring.call}` }),
        make("a", { class: "button small", href: ownUrl(ring.call, ring.secret), text: "answer" }),
        make("button", {
          type: "button",
          class: "plain small danger",
          text: "reject",
          on: { click: decline },
        }),
      );
    },
    (element, { other, kind }) => {
      say(
        element.querySelector("span"),
        `${text("rings", { name: shortAddress(other) })} · ${text(`kind_${kind}`)}`,
      );
    },
  );
}

function showContacts() {
  const contacts = readContacts();
  byId("no-contacts").hidden = contacts.length > 0;
  byId("contact-list").replaceChildren(
    ...contacts.map(({ address }) => make("option", { value: address })),
  );
  syncList(
    byId("contacts"),
    contacts,
    ({ address }) => address,
    ({ address }) => {
      const choose = () => {
        byId("call-form").elements.to.value = address;
        byId("call-form").querySelector("[type=submit]").focus();
      };
      const forget = () => {
        dropContact(address);
        show();
      };
      return make(
        "li",
        {},
        make("span", { class: "who", title: address }, shortAddress(address)),
        make("button", {
          type: "button",
          class: "plain small",
          text: "me_call_go",
          on: { click: choose },
        }),
        make(
          "button",
          {
            type: "button",
            class: "plain small square",
            label: "me_contact_drop",
            tip: "me_contact_drop",
            on: { click: forget },
          },
          icon("close"),
        ),
      );
    },
  );
}

function showLists() {
  const { calls, history, blocked } = state;
  byId("no-calls").hidden = !calls.read || calls.items.length > 0;
  byId("more-calls").hidden = calls.next === null;
  syncList(
    byId("calls"),
    calls.items,
    ({ id }) => id,
    createLine,
    (line, item) => {
      const other = item.other ? shortAddress(item.other) : text("somebody");
      const duration = item.seconds ? ` · ${clock(item.seconds)}` : "";
      setLine(line, {
        what: `${item.outgoing ? "↗" : "↙"} ${other}`,
        detail: `${text(`kind_${item.kind}`)} · ${text(`status_${item.status}`)}${duration} · ${moment(item.created_s * 1000)} · ${item.id}`,
        amount: item.outgoing && Number(item.cost) ? money(String(-Number(item.cost))) : "",
      });
    },
  );
  byId("no-history").hidden = !history.read || history.items.length > 0;
  byId("more-history").hidden = history.next === null;
  syncList(
    byId("history"),
    history.items,
    ({ id }) => id,
    createLine,
    (line, item) => {
      const seconds = item.seconds ? ` · ${clock(item.seconds)}` : "";
      const detail = item.detail ? ` · ${item.detail}` : "";
      setLine(line, {
        what: shortAddress(item.other || item.kind),
        detail: `${item.kind}${detail}${seconds} · ${moment(item.time)}`,
        amount: money(item.amount, true),
      });
    },
  );
  syncList(
    byId("blocked"),
    blocked,
    (address) => address,
    (address) =>
      make(
        "li",
        {},
        make("span", { class: "who", title: address }, shortAddress(address)),
        make("button", {
          type: "button",
          class: "plain small",
          text: "me_unblock",
          on: { click: attempt(() => setBlocked(address, false)) },
        }),
      ),
  );
}

function createLine() {
  return make(
    "li",
    {},
    make("div", {}, make("strong"), make("small")),
    make("span", { class: "amount" }),
  );
}

function setLine(line, { what, detail, amount }) {
  const [words, sum] = line.children;
  say(words.children[0], what);
  say(words.children[1], detail);
  say(sum, amount);
}
