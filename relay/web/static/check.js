// The check page. For tests and scripts: `document.documentElement.dataset.verdict` is idle,
// running, pass, fail, or untested where there was no call; `window.montanaCheck` holds all that
// was found.

import { Plot } from "./plot.js";
import { Picture } from "./picture.js";
import { CheckFailure, MEASURE_MS, SAMPLES, needWebRtc, probe } from "./probe.js";
import { number, onLanguage, setUpLanguages, text } from "./text.js";

const byId = (id) => document.getElementById(id);
const form = byId("form");
const plots = {
  round_trip: new Plot(byId("plot-round-trip"), SAMPLES),
  loss: new Plot(byId("plot-loss"), SAMPLES),
  bitrate: new Plot(byId("plot-bitrate"), SAMPLES),
};
const picture = new Picture(byId("remote"));
let state = newState("idle");

setUpLanguages();
onLanguage(show);
onLanguage(() => Object.values(plots).forEach((plot) => plot.draw()));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  check();
});
form.addEventListener("change", chooseServer);
// A new link opened in the same tab changes nothing but the fragment.
window.addEventListener("hashchange", () => check());
chooseServer();
check();

function newState(verdict) {
  return {
    verdict,
    phase: "",
    reason: null,
    values: {},
    advice: null,
    candidates: [],
    errors: [],
    samples: [],
    result: null,
  };
}

function chooseServer() {
  const other = form.elements.server.value === "other";
  byId("other").disabled = !other;
  byId("other").hidden = !other;
}

async function check() {
  if (state.verdict === "running") return;
  state = newState("running");
  byId("go").disabled = true;
  for (const plot of Object.values(plots)) plot.clear();
  picture.clear();
  show();
  try {
    needWebRtc();
    const server = await chosenServer();
    state.result = await probe(server, watch);
    state.verdict = "pass";
  } catch (error) {
    const reason = String(error);
    const is_known = error instanceof CheckFailure;
    const failure = is_known ? error : new CheckFailure("internal", { reason });
    state.verdict = ["", "credentials"].includes(state.phase) ? "untested" : "fail";
    state.reason = failure.reason;
    state.values = failure.values;
    state.advice = failure.advice;
    state.result = failure.result;
  }
  picture.stop();
  byId("go").disabled = false;
  show();
}

const watch = {
  phase(name) {
    if (state.phase === "connecting" && name === "gathering") return;
    state.phase = name;
    show();
  },
  candidate(side, candidate, after_ms) {
    state.candidates.push({
      side,
      kind: candidate.type,
      address: `${inBrackets(candidate.address)}:${candidate.port}`,
      server: candidate.url ?? "",
      after_ms,
    });
    show();
  },
  error(error) {
    state.errors.push(error);
    show();
  },
  sample(sample) {
    state.samples.push(sample);
    plots.round_trip.add(sample.round_trip_ms);
    plots.loss.add(sample.loss === null ? null : sample.loss * 100);
    plots.bitrate.add(sample.received_kbps);
    byId("round-trip").textContent = unit("ms", sample.round_trip_ms, 1);
    byId("loss").textContent = percent(sample.loss);
    byId("bitrate").textContent = unit("kbps", sample.received_kbps, 0);
  },
  end(samples) {
    for (const plot of Object.values(plots)) plot.end(samples);
  },
  picture(stream) {
    picture.play(stream);
  },
};

/** What RTCPeerConnection takes: this node's server with fresh credentials, or the form's. */
async function chosenServer() {
  if (form.elements.server.value === "other") {
    const { url, username, password } = form.elements;
    return { urls: [url.value.trim()], username: username.value, credential: password.value };
  }
  state.phase = "credentials";
  show();
  let response;
  try {
    response = await fetch("/check/credentials", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token: location.hash.slice(1) }),
    });
  } catch {
    throw new CheckFailure("node_away");
  }
  let content;
  try {
    content = await response.json();
  } catch {
    throw new CheckFailure("node_away");
  }
  if (!response.ok) {
    const reason = String(content.error).replaceAll("-", "_");
    const known = ["link_needed", "link_expired", "link_invalid", "too_often", "no_secret"];
    throw new CheckFailure(known.includes(reason) ? reason : "node_away");
  }
  return { urls: content.uris, username: content.username, credential: content.password };
}

function show() {
  const { verdict, result } = state;
  document.documentElement.dataset.verdict = verdict;
  document.title = text("title");
  window.montanaCheck = state;
  byId("verdict-title").textContent = title();
  byId("verdict-detail").textContent = detail();
  const advice = byId("verdict-advice");
  advice.hidden = state.advice === null;
  if (state.advice) setMarked(advice, text(`advice_${state.advice}`, state.values));
  const is_first = ["idle", "untested"].includes(verdict);
  byId("go").textContent = text(is_first ? "form_go" : "form_again");
  showFigures(result);
  showCandidates();
}

/** Show `said` with what stands between backticks as code. */
function setMarked(element, said) {
  const parts = said.split("`").map((part, index) => {
    if (index % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  });
  element.replaceChildren(...parts);
}

function title() {
  if (state.reason === "broke_off") {
    // Rounded, but never to nothing.
    const seconds = number(Math.max(1, state.values.after_s), 0);
    return text("verdict_broke_off", { seconds });
  }
  return text(`verdict_${state.reason === "lossy" ? "lossy" : state.verdict}`);
}

function detail() {
  if (state.reason) return text(`fail_${state.reason}`, state.values);
  if (state.verdict === "pass") {
    if (!state.result.audio_packets) return text("detail_pass_without_audio");
    if (!state.result.video_packets) return text("detail_pass_without_video");
    return text("detail_pass");
  }
  if (state.verdict === "running" && state.phase) {
    return text(`detail_${state.phase}`, { seconds: MEASURE_MS / 1000 });
  }
  return text("detail_idle");
}

function showFigures(result) {
  const set = (id, value) => {
    byId(id).textContent = value;
  };
  if (result === null) {
    if (state.phase === "measuring" && state.verdict === "running") return;
    for (const id of ["connect", "round-trip", "loss", "bitrate"]) set(id, "–");
    for (const id of ["connect-parts", "round-trip-worst", "loss-parts", "bitrate-sent"]) {
      set(id, "\u00a0");
    }
    return;
  }
  set("connect", unit("ms", result.connect_ms, 0));
  set("connect-parts", text("connect_parts", { gather: number(result.gather_ms, 0) }));
  set("round-trip", unit("ms", result.round_trip_ms, 1));
  set("round-trip-worst", text("round_trip_worst", { worst: number(result.worst_ms, 1) }));
  set("loss", percent(result.loss));
  set("loss-parts", text("loss_parts", { lost: number(result.lost), sent: number(result.sent) }));
  set("bitrate", unit("kbps", result.received_kbps, 0));
  set("bitrate-sent", text("bitrate_sent", { sent: number(result.sent_kbps, 0) }));
}

function unit(name, value, digits) {
  return value === null ? "–" : text(name, { value: number(value, digits) });
}

function percent(share) {
  return share === null ? "–" : `${number(share * 100, 2)}\u00a0%`;
}

function showCandidates() {
  const rows = state.candidates.map((candidate) =>
    row([
      text(`side_${candidate.side}`),
      candidate.kind,
      candidate.address,
      candidate.server,
      unit("ms", candidate.after_ms, 0),
    ]),
  );
  if (!rows.length) {
    rows.push(row([text("no_candidates")]));
    rows[0].firstChild.colSpan = 5;
  }
  byId("candidates").replaceChildren(...rows);
  const errors = byId("errors");
  errors.hidden = !state.errors.length;
  errors.replaceChildren(
    ...state.errors.map(({ code, reason, url }) => {
      const item = document.createElement("li");
      item.textContent = `${code} ${reason || ""} ${url || ""}`.trim();
      return item;
    }),
  );
}

function inBrackets(address) {
  return address?.includes(":") && !address.startsWith("[") ? `[${address}]` : address;
}

function row(cells) {
  const element = document.createElement("tr");
  for (const cell of cells) element.insertCell().textContent = cell;
  return element;
}
