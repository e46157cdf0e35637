// The page `/`: make a room, or come into one by a link.

import { Account } from "./identity.js";
import { make, say, setText } from "./dom.js";
import { explainFailure, missingAbility, ofKey } from "./explain.js";
import { Meeting } from "./meeting.js";
import { showOver } from "./over_view.js";
import { hidesAddress, kept, setUpPage, showView, takeFragment, wasReloaded } from "./page.js";
import { PreJoin } from "./pre_join.js";
import { Stage } from "./stage.js";
import { onLanguage, text } from "./text.js";

const NAME = "montana-name";
const INVITATION = "montana-invitation";
const DEVICES = "montana-devices";
const SECRET = /^[A-Za-z0-9_-]{16,128}$/;

const byId = (id) => document.getElementById(id);

setUpPage();
const pre_join = new PreJoin();
let meeting = newMeeting();
let stage = null;
const form = byId("entry-form");
let invitation = null;
let problem = null;

byId("pre-join").append(pre_join.element);
onLanguage(() => (showProblem(), show()));
byId("create").addEventListener("click", () => enter(null));
byId("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const found = invitationIn(byId("join-link").value.trim());
  byId("join-problem").hidden = found !== null;
  if (found) enter(found);
});
byId("back").addEventListener("click", () => {
  goHome();
  byId("create").focus();
});
byId("wait-leave").addEventListener("click", () => meeting.leave());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
// A link that is opened in the same tab changes nothing but the fragment.
window.addEventListener("hashchange", () => {
  const found = takeFragment(INVITATION);
  if (found && meeting.state.phase === "idle") enter(found);
  if (found && meeting.state.phase === "over") location.reload();
});
begin();

function newMeeting() {
  const made = new Meeting();
  window.montana = { meeting: made };
  made.addEventListener("change", () => made === meeting && show());
  return made;
}

async function begin() {
  const missing = missingAbility();
  if (missing) {
    const { title, advice } = ofKey(missing);
    say(byId("missing-title"), title);
    say(byId("missing-advice"), advice);
    onLanguage(() => {
      say(byId("missing-title"), text(missing));
      say(byId("missing-advice"), text(`${missing}_advice`));
    });
    showView("missing");
    return;
  }
  const found = takeFragment(INVITATION);
  if (wasReloaded() && (await resume())) return;
  if (found) enter(found);
  else goHome();
}

/** Take up the room that this tab was in. Devices that were on are asked for again. */
async function resume() {
  const on = JSON.parse(sessionStorage.getItem(DEVICES) ?? "{}");
  if (!(await meeting.resume())) return false;
  if (on.microphone) await meeting.setMicrophone(true).catch((failure) => stage?.tell(failure));
  if (on.camera) await meeting.setCamera(true).catch((failure) => stage?.tell(failure));
  return true;
}

function goHome() {
  pre_join.stop();
  showView("home");
}

/** Before going in: by an invitation, or into a new room (null). */
function enter(wanted) {
  invitation = wanted;
  problem = null;
  showProblem();
  form.elements.name.value = kept(NAME) ?? "";
  form.elements.relay_only.checked = hidesAddress();
  setText(byId("entry-title"), wanted ? "entry_join" : "entry_create");
  setText(byId("go"), wanted ? "join" : "create_room");
  byId("create-options").hidden = Boolean(wanted);
  byId("token-line").hidden = true;
  showView("entry");
  byId("entry-title").focus();
  pre_join.start({ camera: true });
}

async function go() {
  const name = form.elements.name.value.trim();
  const relayOnly = hidesAddress(form.elements.relay_only.checked);
  kept(NAME, name || null);
  problem = null;
  showProblem();
  byId("go").disabled = true;
  // Whoever comes in by a reload finds what was taken here.
  if (invitation) sessionStorage.setItem(INVITATION, invitation);
  try {
    meeting.useMedia(pre_join.copies());
    if (invitation) await meeting.joinRoom({ invitation, name, relayOnly });
    else {
      const token = form.elements.token.value.trim();
      const lobby = form.elements.lobby.checked;
      await meeting.createRoom({
        name,
        token,
        lobby,
        relayOnly,
        account: await Account.load().catch(() => null),
      });
    }
  } catch (failure) {
    problem = failure;
    // A meeting is entered once.
    meeting = newMeeting();
    show();
    byId("token-line").hidden = failure.code !== "token-needed";
    if (failure.code === "token-needed") form.elements.token.focus();
    showView("entry");
    showProblem();
  } finally {
    byId("go").disabled = false;
  }
}

function showProblem() {
  const element = byId("entry-problem");
  element.hidden = problem === null;
  if (problem === null) return;
  const { title, advice } = explainFailure(problem);
  element.replaceChildren(make("strong", {}, title), " ", advice);
  if (problem.code === "proof-needed")
    element.append(" ", make("a", { href: "/me", text: "to_account" }));
}

function show() {
  const { state } = meeting;
  document.documentElement.dataset.phase = state.phase;
  if (state.phase === "waiting") showView("wait");
  if (state.phase === "in") {
    sessionStorage.setItem(
      DEVICES,
      JSON.stringify({ microphone: state.local.microphone, camera: state.local.camera }),
    );
    showView("stage");
    if (stage === null) {
      stage = new Stage(meeting, byId("stage"), () => meeting.leave());
      pre_join.stop();
    }
    stage.show();
    stage.render();
  } else if (stage?.is_shown) stage.hide();
  if (state.phase === "over" && !problem) {
    showView("over");
    const back = make("button", {
      type: "button",
      class: "primary",
      text: "come_back",
      on: { click: () => location.reload() },
    });
    const home = make("a", { class: "button plain", href: "/", text: "to_start" });
    const can_come_back =
      ["left", "lost", "not-resumable"].includes(state.over) &&
      sessionStorage.getItem(INVITATION);
    showOver(byId("over"), state, can_come_back ? [back, home] : [home]);
  }
}

/** The secret in a link that somebody has pasted, or null. */
function invitationIn(pasted) {
  const secret = pasted.slice(pasted.indexOf("#") + 1);
  return SECRET.test(secret) ? secret : null;
}
