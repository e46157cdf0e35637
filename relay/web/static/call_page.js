// The page `/call?id=CALL-...#secret`: one side of a call. As a Mini App it has what Telegram has
// signed in the secret's place.

import { make, say, setText } from "./dom.js";
import { explainFailure, missingAbility, ofKey } from "./explain.js";
import { shortAddress } from "./format.js";
import { Meeting } from "./meeting.js";
import { MiniApp } from "./mini_app.js";
import { showOver } from "./over_view.js";
import { hidesAddress, setUpPage, showView, takeFragment, wasReloaded } from "./page.js";
import { PreJoin } from "./pre_join.js";
import { Ringer } from "./sounds.js";
import { Stage } from "./stage.js";
import { tab_storage } from "./tab_storage.js";
import { onLanguage, text } from "./text.js";

const SECRET = "montana-call-secret";
const DEVICES = "montana-devices";

const byId = (id) => document.getElementById(id);

setUpPage();
const meeting = new Meeting();
window.montana = { meeting };
const pre_join = new PreJoin(() => {
  // A caller's devices belong to the call while it rings, so that the offer has them already.
  if (isCaller() && meeting.state.phase === "ringing") meeting.useMedia(pre_join.copies());
});
const stage = new Stage(meeting, byId("stage"), () => meeting.hangUp());
const ringer = new Ringer();
const fragment = takeFragment(SECRET);
const mini_app = MiniApp.of(fragment);
const call_id = new URLSearchParams(location.search).get("id") ?? mini_app?.start_param ?? "";
let problem = null;
let has_asked_devices = false;
let shown_over = false;

byId("pre-join").append(pre_join.element);
meeting.addEventListener("change", show);
onLanguage(() => (showProblem(), show()));
byId("answer").addEventListener("click", () => answer(false));
byId("answer-video").addEventListener("click", () => answer(true));
byId("reject").addEventListener("click", () => meeting.reject());
byId("take-back").addEventListener("click", () => meeting.hangUp());
byId("again").addEventListener("click", () => location.reload());
if (mini_app) document.querySelector(".choices").prepend(browserButton());
begin();
mini_app?.ready();

async function begin() {
  const missing = missingAbility();
  if (missing) {
    problem = ofKey(missing);
    showProblem();
    return;
  }
  const proof = mini_app
    ? { secret: mini_app.secret, initData: mini_app.init_data }
    : { secret: fragment };
  if (wasReloaded() && (await resume())) return;
  if (!/^CALL-[A-Z2-7]{8}$/.test(call_id) || !fragment) {
    problem = { code: "bad-secret" };
    showProblem();
    return;
  }
  showView("opening");
  try {
    await meeting.openCall({ call: call_id, ...proof, relayOnly: hidesAddress() });
  } catch (failure) {
    problem = failure;
    showProblem();
  }
}

/** Here a call may have no sound in the background, and no screen to share. */
function browserButton() {
  const open = () => {
    const { call, secret } = meeting.place ?? {};
    if (secret) mini_app.openLink(`${location.origin}/call?id=${call}#${secret}`);
  };
  return make("button", {
    type: "button",
    class: "plain small",
    id: "browser",
    text: "open_in_browser",
    on: { click: open },
  });
}

async function resume() {
  const on = JSON.parse(tab_storage.getItem(DEVICES) ?? "{}");
  if (!(await meeting.resume())) return false;
  if (meeting.state.phase !== "in") return true;
  has_asked_devices = true;
  if (on.microphone) await meeting.setMicrophone(true).catch((failure) => stage.tell(failure));
  if (on.camera) await meeting.setCamera(true).catch((failure) => stage.tell(failure));
  return true;
}

function isCaller() {
  return meeting.state.call?.role === "caller";
}

async function answer(has_video) {
  byId("answer").disabled = true;
  byId("answer-video").disabled = true;
  const { microphone, camera } = pre_join.copies();
  if (!has_video) camera?.stop();
  pre_join.stop();
  try {
    await meeting.useMedia({ microphone, camera: has_video ? camera : null });
    await meeting.answer();
    // The answer doesn't wait for somebody who is asked about a camera.
    if (has_video && !camera) await meeting.setCamera(true);
    if (!microphone) await meeting.setMicrophone(true);
  } catch (failure) {
    stage.tell(failure);
  }
}

function show() {
  const { state } = meeting;
  const { phase, call } = state;
  document.documentElement.dataset.phase = phase;
  if (phase === "connecting" && !stage.is_shown && !problem) showView("opening");
  if (phase === "ringing") showRinging(call);
  ringer.play(
    phase !== "ringing"
      ? null
      : isCaller()
        ? call.status === "ringing"
          ? "ring_back"
          : null
        : "ring",
  );
  if (phase === "in") {
    if (!stage.is_shown) pre_join.stop();
    tab_storage.setItem(
      DEVICES,
      JSON.stringify({ microphone: state.local.microphone, camera: state.local.camera }),
    );
    showView("stage");
    stage.show();
    stage.render();
  } else if (stage.is_shown) stage.hide();
  if (phase === "over" && !problem) showEnd(state);
}

function showRinging(call) {
  if (document.body.dataset.view !== "ringing") {
    showView("ringing");
    byId("ringing-title").focus();
  }
  const is_caller = isCaller();
  const name = call.other ? shortAddress(call.other) : text("somebody");
  say(byId("ringing-title"), text(is_caller ? "calling" : "calls_you", { name }));
  const caller_detail = call.status === "ringing" ? "calling_rings" : "calling_waits";
  setText(byId("ringing-detail"), is_caller ? caller_detail : `calls_you_${call.kind}`);
  byId("callee-acts").hidden = is_caller;
  byId("caller-acts").hidden = !is_caller;
  byId("price").hidden = !is_caller;
  say(byId("price"), text("price", { price: call.price_second }));
  if (has_asked_devices) return;
  has_asked_devices = true;
  pre_join.start({ camera: call.kind === "video" });
}

function showEnd(state) {
  if (
    shown_over &&
    document.body.dataset.view === "over" &&
    shown_over === (state.receipt ?? state.over)
  )
    return;
  shown_over = state.receipt ?? state.over;
  pre_join.stop();
  showView("over");
  const other = state.receipt?.call.other ?? state.call?.other ?? "";
  const actions = mini_app
    ? [make("button", { type: "button", text: "close", on: { click: () => mini_app.close() } })]
    : [make("a", { class: "button plain", href: "/", text: "close" })];
  if (isCaller() && other && !mini_app) {
    // An account calls again; a link is good for one call.
    const wish = new URLSearchParams({ call: other, kind: state.call.kind });
    actions.unshift(make("a", { class: "button", href: `/me#${wish}`, text: "call_again" }));
  }
  showOver(byId("over"), state, actions);
}

function showProblem() {
  if (problem === null) return;
  const { title, advice } = problem.title ? problem : explainFailure(problem);
  showView("problem");
  say(byId("problem-title"), title);
  say(byId("problem-advice"), advice);
}
