// The check page. For tests and scripts: `document.documentElement.dataset.verdict` is idle,
// running, pass or fail, and `window.montanaCheck` holds all that was found.

import { Plot } from "./plot.js";
import { Picture } from "./picture.js";
import { CheckFailure, SAMPLES, probe } from "./probe.js";
import { onLanguage, setUpLanguages, text } from "./text.js";

const MEASURE_S = 6;
const byId = (id) => document.getElementById(id);
const form = byId("form");
const plots = {
  round_trip: new Plot(byId("plot-round-trip"), SAMPLES),
  bitrate: new Plot(byId("plot-bitrate"), SAMPLES),
};
const picture = new Picture(byId("remote"));
let state = { verdict: "idle", phase: "", reason: null, candidates: [], errors: [], result: null };

setUpLanguages();
onLanguage(show);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  check();
});
form.addEventListener("change", chooseServer);
// A new link opened in the same tab changes nothing but the fragment.
window.addEventListener("hashchange", () => check());
chooseServer();
check();

function chooseServer() {
  const other = form.elements.server.value === "other";
  byId("other").disabled = !other;
  byId("other").hidden = !other;
}

async function check() {
  if (state.verdict === "running") return;
  state = { verdict: "running", phase: "", reason: null, candidates: [], errors: [], result: null };
  byId("go").disabled = true;
  plots.round_trip.clear();
  plots.bitrate.clear();
  picture.clear();
  show();
  try {
    const server = await chosenServer();
    state.result = await probe(server, watch);
    state.verdict = "pass";
  } catch (error) {
    const failure =
      error instanceof CheckFailure ? error : new CheckFailure("internal", { reason: String(error) });
    state.verdict = "fail";
    state.reason = failure.reason;
    state.values = failure.values;
    state.advice = failure.advice;
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
      address: `${candidate.address}:${candidate.port}`,
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
    plots.round_trip.add(sample.round_trip_ms);
    plots.bitrate.add(sample.received_kbps);
    byId("round-trip").textContent = text("ms", { value: sample.round_trip_ms.toFixed(1) });
    byId("bitrate").textContent = text("kbps", { value: Math.round(sample.received_kbps) });
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
  byId("verdict-title").textContent = text(`verdict_${verdict}`);
  byId("verdict-detail").textContent = detail();
  const advice = byId("verdict-advice");
  advice.hidden = verdict !== "fail";
  if (verdict === "fail") advice.textContent = text(`advice_${state.advice}`, state.values);
  byId("go").textContent = text(verdict === "idle" ? "form_go" : "form_again");
  showFigures(result);
  showCandidates();
}

function detail() {
  if (state.verdict === "fail") return text(`fail_${state.reason}`, state.values);
  if (state.verdict === "pass") return text("detail_pass");
  if (state.verdict === "running" && state.phase) {
    return text(`detail_${state.phase}`, { seconds: MEASURE_S });
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
  set("connect", text("ms", { value: Math.round(result.connect_ms) }));
  set("connect-parts", text("connect_parts", { gather: Math.round(result.gather_ms) }));
  set("round-trip", text("ms", { value: result.round_trip_ms.toFixed(1) }));
  set("round-trip-worst", text("round_trip_worst", { worst: result.worst_ms.toFixed(1) }));
  set("loss", `${(result.loss * 100).toFixed(2)} %`);
  set("loss-parts", text("loss_parts", { lost: result.lost, sent: result.sent }));
  set("bitrate", text("kbps", { value: Math.round(result.received_kbps) }));
  set("bitrate-sent", text("bitrate_sent", { sent: Math.round(result.sent_kbps) }));
}

function showCandidates() {
  const rows = state.candidates.map((candidate) =>
    row([
      text(`side_${candidate.side}`),
      candidate.kind,
      candidate.address,
      candidate.server,
      text("ms", { value: Math.round(candidate.after_ms) }),
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

function row(cells) {
  const element = document.createElement("tr");
  for (const cell of cells) element.insertCell().textContent = cell;
  return element;
}
