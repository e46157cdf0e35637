// Two connections in one page, through a relay and nothing else, and what they measure.

import { makeTone } from "./tone.js";

const CONNECT_TIMEOUT_MS = 15000;
export const MEASURE_MS = 6000;
const SAMPLE_MS = 300;
const PING_MS = 50;
const PATIENCE_MS = 2000; // An answer may take that long; what comes later counts as lost.
const PICTURE_MS = 40;
const LOSS_LIMIT = 0.05;
// A call that has received nothing for so long, and to its end, has broken off.
const QUIET_MS = 2000;
const GIVE_UP_MS = 3000;
// So many pings went unanswered then as well: a page that was asleep has heard nothing either.
const QUIET_PINGS = 5;
export const SAMPLES = Math.round(MEASURE_MS / SAMPLE_MS);

/**
 * Why a check failed: `reason` names the text that says it, `values` fill that in; `result` is
 * what was measured all the same.
 */
export class CheckFailure extends Error {
  constructor(reason, values = {}, { advice = reason, result = null } = {}) {
    super(reason);
    this.reason = reason;
    this.values = values;
    this.advice = advice;
    this.result = result;
  }
}

/** Raises CheckFailure where the browser can't call at all. */
export function needWebRtc() {
  if (typeof RTCPeerConnection !== "function") throw new CheckFailure("no_webrtc");
}

/**
 * Call through `server` ({urls, username, credential}) and measure.
 *
 * `watch` is told of what happens: phase(name), candidate(side, candidate, after_ms),
 * error({code, reason, url}), sample({round_trip_ms, loss, received_kbps, sent_kbps}), where what
 * is not known is null, picture(stream), end(samples), where the call has broken off: in the last
 * of so many samples.
 * Returns {gather_ms, connect_ms, round_trip_ms, worst_ms, lost, sent, loss, received_kbps,
 * sent_kbps, packets_sent, packets_received, pings_lost, video_packets, audio_packets}; raises
 * CheckFailure.
 */
export async function probe(server, watch) {
  const media = makeMedia();
  const call = new Call(server, watch, media.stream);
  try {
    await call.connect();
    return await call.measure();
  } finally {
    call.close();
    media.stop();
  }
}

class Call {
  constructor(server, watch, stream) {
    this.server = server;
    this.watch = watch;
    this.errors = [];
    this.relayed = { a: 0, b: 0 };
    this.gathered = {};
    this.totals = new Totals();
    this.started = performance.now();
    const options = { iceServers: [server], iceTransportPolicy: "relay" };
    try {
      this.a = new RTCPeerConnection(options);
      this.b = new RTCPeerConnection(options);
    } catch (error) {
      throw new CheckFailure("url", { reason: String(error) });
    }
    this.sides = { a: this.a, b: this.b };
    this.channel = this.a.createDataChannel("check", { ordered: false, maxRetransmits: 0 });
    for (const track of stream.getTracks()) this.a.addTrack(track, stream);
    this.b.addEventListener("track", (event) => watch.picture(event.streams[0]));
    this.b.addEventListener("datachannel", ({ channel }) => {
      channel.addEventListener("message", ({ data }) => channel.send(data));
    });
  }

  now() {
    return performance.now() - this.started;
  }

  async connect() {
    this.watch.phase("gathering");
    this.forward("a", this.b);
    this.forward("b", this.a);
    const connected = Promise.all([until(this.a), until(this.b)]);
    const late = new Promise((_, reject) => {
      this.timer = setTimeout(() => reject(new Error("late")), CONNECT_TIMEOUT_MS);
    });
    const hopeless = new Promise((_, reject) => {
      this.giveUp = () => reject(new Error("hopeless"));
    });
    try {
      await this.a.setLocalDescription();
      await this.b.setRemoteDescription(this.a.localDescription);
      await this.b.setLocalDescription();
      await this.a.setRemoteDescription(this.b.localDescription);
      await Promise.race([connected, late, hopeless]);
    } catch (error) {
      if (error instanceof CheckFailure) throw error;
      throw this.diagnose(error);
    } finally {
      clearTimeout(this.timer);
    }
    this.connect_ms = this.now();
  }

  /** Carry candidates of one side to the other, and notice what goes wrong on the way. */
  forward(name, far) {
    const near = this.sides[name];
    near.addEventListener("icecandidate", ({ candidate }) => {
      if (!candidate || !candidate.candidate) return;
      this.relayed[name] += 1;
      this.gathered[name] ??= this.now();
      if (this.gathered.a && this.gathered.b) this.watch.phase("connecting");
      this.watch.candidate(name, candidate, this.now());
      far.addIceCandidate(candidate).catch(() => {});
    });
    near.addEventListener("icecandidateerror", (event) => {
      // One server may be tried over several interfaces; the same error counts once.
      const error = { code: event.errorCode, reason: event.errorText, url: event.url };
      if (this.errors.some((one) => one.code === error.code)) return;
      this.errors.push(error);
      this.watch.error(error);
    });
    near.addEventListener("icegatheringstatechange", () => {
      const over = [this.a, this.b].every((side) => side.iceGatheringState === "complete");
      if (over && !(this.relayed.a && this.relayed.b)) this.giveUp();
    });
  }

  diagnose(error) {
    const codes = this.errors.map(({ code }) => code);
    const { a, b } = this.relayed;
    if (a && b) return new CheckFailure("forbidden");
    if (codes.includes(401)) return new CheckFailure("credentials");
    if (codes.includes(486) || codes.includes(508)) {
      return new CheckFailure(a || b ? "one_sided" : "quota");
    }
    const refused = this.errors.find(({ code }) => code >= 300 && code < 700);
    if (refused) return new CheckFailure("refused", refused);
    if (a || b) return new CheckFailure("one_sided");
    if (!["late", "hopeless", "failed"].includes(error.message)) {
      return new CheckFailure("internal", { reason: String(error) });
    }
    const url = [this.server.urls].flat()[0] ?? "";
    const loopback = /turns?:(127\.|\[::1\]|localhost)/.test(url);
    const advice = loopback ? "loopback" : "unreachable";
    return new CheckFailure("unreachable", { server: url }, { advice });
  }

  async measure() {
    this.watch.phase("measuring");
    const pings = new Pings(this.channel);
    try {
      return await this.measureWith(pings);
    } finally {
      pings.close();
    }
  }

  async measureWith(pings) {
    const readings = [await this.read()];
    const begun = performance.now();
    // Of the last that came: when, in which sample, and how many pings had been tried by then.
    let heard = null;
    // Packets lost since: loss if something comes again, else no more than the call's end.
    let held = 0;
    const nothingFor = (limit_ms) => {
      if (!heard || pings.tried - heard.tried < QUIET_PINGS) return false;
      return performance.now() - heard.time >= limit_ms;
    };
    // The answers to the last pings are awaited as well, until each has come or counts as lost;
    // the totals of all else end with the pings, so that the wait does not change their shares.
    for (let sample = 1; sample <= SAMPLES || pings.open.size; sample += 1) {
      await sleep(begun + sample * SAMPLE_MS - performance.now());
      const before = readings.at(-1);
      const after = await this.read();
      readings.push(after);
      if (sample === SAMPLES) pings.stop();
      const answers = pings.take();
      const arrived = answers.times.length + after.media - before.media;
      if (arrived) {
        // Of audio and video is not known when in the sample it came.
        const time = Math.max(before.time, pings.answered ?? 0);
        heard = { time, sample, tried: pings.tried };
      }
      held += answers.lost + Math.max(0, after.media_lost - before.media_lost);
      const lost = arrived || !heard ? held : 0;
      held -= lost;
      this.watch.sample({
        round_trip_ms: answers.times.length ? median(answers.times) : null,
        loss: lost + arrived ? lost / (lost + arrived) : null,
        received_kbps: kbps(before, after, "received"),
        sent_kbps: kbps(before, after, "sent"),
      });
      if (nothingFor(GIVE_UP_MS)) break;
    }
    const has_broken_off = nothingFor(QUIET_MS);
    const first = readings[0];
    let last = readings[Math.min(SAMPLES, readings.length - 1)];
    if (has_broken_off && heard.time < last.time) {
      last = readings.findLast(({ time }) => time <= heard.time);
      if (last === first) last = readings[1];
    }
    const pings_sent = has_broken_off ? pings.last_answered : pings.sent;
    const pings_lost = pings_sent - pings.times.length;
    const sent = pings_sent + last.media + last.media_lost;
    const lost = pings_lost + last.media_lost;
    const result = {
      gather_ms: Math.max(this.gathered.a, this.gathered.b),
      connect_ms: this.connect_ms,
      round_trip_ms: median(pings.times),
      worst_ms: Math.max(0, ...pings.times),
      lost,
      sent,
      loss: sent ? lost / sent : 1,
      received_kbps: kbps(first, last, "received"),
      sent_kbps: kbps(first, last, "sent"),
      packets_sent: last.packets_sent,
      packets_received: last.packets_received,
      pings_lost,
      video_packets: last.arrived.video,
      audio_packets: last.arrived.audio,
    };
    if (has_broken_off) {
      this.watch.end(heard.sample);
      const after_s = (heard.time - begun) / 1000;
      throw new CheckFailure("broke_off", { after_s }, { result });
    }
    // A kind that never set out (a tone needs a click in some browsers) can't arrive either.
    const missing = ["audio", "video"].some((kind) => last.set_out[kind] && !last.arrived[kind]);
    if (!pings.times.length || !last.media || missing) throw new CheckFailure("silent");
    if (result.loss > LOSS_LIMIT) {
      throw new CheckFailure("lossy", { percent: LOSS_LIMIT * 100 }, { result });
    }
    return result;
  }

  /**
   * The counters so far: bytes and packets of both sides' connections; of audio and video what the
   * caller has sent (`set_out`), and what the callee says of them.
   */
  async read() {
    const time = performance.now();
    let media_lost = 0;
    for (const [name, side] of Object.entries(this.sides)) {
      for (const entry of (await side.getStats()).values()) {
        const of = `${name} ${entry.id}`;
        if (entry.type === "candidate-pair") {
          this.totals.count("received", of, entry.bytesReceived);
          this.totals.count("sent", of, entry.bytesSent);
          this.totals.count("packets_sent", of, entry.packetsSent);
          this.totals.count("packets_received", of, entry.packetsReceived);
        } else if (entry.type === "outbound-rtp" && name === "a") {
          this.totals.count(`${entry.kind} set out`, of, entry.packetsSent);
        } else if (entry.type === "inbound-rtp" && name === "b") {
          this.totals.count(`${entry.kind} arrived`, of, entry.packetsReceived);
          media_lost += Math.max(0, entry.packetsLost ?? 0);
        }
      }
    }
    const kinds = (what) => {
      const [audio, video] = ["audio", "video"].map((kind) => this.totals.of(`${kind} ${what}`));
      return { audio, video };
    };
    const arrived = kinds("arrived");
    return {
      time,
      received: this.totals.of("received"),
      sent: this.totals.of("sent"),
      packets_sent: this.totals.of("packets_sent"),
      packets_received: this.totals.of("packets_received"),
      set_out: kinds("set out"),
      arrived,
      media: arrived.audio + arrived.video,
      media_lost,
    };
  }

  close() {
    clearTimeout(this.timer);
    this.a?.close();
    this.b?.close();
  }
}

/** Numbered messages over the data channel, each sent back by the far side. */
class Pings {
  constructor(channel) {
    this.channel = channel;
    this.sent = 0;
    this.tried = 0;
    this.is_over = false;
    this.times = [];
    this.taken = 0;
    this.answered = null; // When the last answer came, and the highest number answered.
    this.last_answered = 0;
    this.open = new Map();
    channel.addEventListener("message", ({ data }) => {
      const then = this.open.get(Number(data));
      if (then === undefined) return;
      this.open.delete(Number(data));
      this.answered = performance.now();
      this.last_answered = Math.max(this.last_answered, Number(data));
      this.times.push(this.answered - then);
    });
    this.timer = setInterval(() => this.send(), PING_MS);
  }

  send() {
    this.tried += 1;
    if (this.is_over || this.channel.readyState !== "open") return;
    this.sent += 1;
    this.open.set(this.sent, performance.now());
    this.channel.send(String(this.sent));
  }

  /** What has become known since the last time: how long answers took, and how many were lost. */
  take() {
    const times = this.times.slice(this.taken);
    this.taken = this.times.length;
    let lost = 0;
    for (const [number, then] of this.open) {
      if (performance.now() - then < PATIENCE_MS) continue;
      this.open.delete(number);
      lost += 1;
    }
    return { times, lost };
  }

  /** Send no more; what comes is still taken. */
  stop() {
    this.is_over = true;
  }

  close() {
    clearInterval(this.timer);
  }
}

/** Sums of counters that grow; one that falls back has started anew. */
class Totals {
  constructor() {
    this.sums = new Map();
    this.seen = new Map();
  }

  count(sum, counter, value = 0) {
    const key = `${sum} ${counter}`;
    const seen = this.seen.get(key) ?? 0;
    this.seen.set(key, value);
    this.sums.set(sum, this.of(sum) + value - (value < seen ? 0 : seen));
  }

  of(sum) {
    return this.sums.get(sum) ?? 0;
  }
}

/** A moving picture and a tone, so that nobody is asked for a camera. */
function makeMedia() {
  const canvas = document.createElement("canvas");
  canvas.width = 320;
  canvas.height = 240;
  const context = canvas.getContext("2d");
  let frame = 0;
  const draw = () => {
    frame += 1;
    const hue = (frame * 2) % 360;
    context.fillStyle = `hsl(${hue} 45% 22%)`;
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (let bar = 0; bar < 16; bar += 1) {
      const height = 60 + 50 * Math.sin(frame / 9 + bar / 2.5);
      context.fillStyle = `hsl(${(hue + bar * 9) % 360} 70% 60%)`;
      context.fillRect(8 + bar * 19, 120 - height / 2, 12, height);
    }
    context.fillStyle = "#fff";
    context.font = "600 18px system-ui";
    context.fillText(`Montana ${frame}`, 12, 226);
  };
  draw();
  const timer = setInterval(draw, PICTURE_MS);
  const stream = canvas.captureStream(25);
  const tone = makeTone();
  if (tone) stream.addTrack(tone.track);
  const stop = () => {
    clearInterval(timer);
    for (const track of stream.getTracks()) track.stop();
    tone?.stop();
  };
  return { stream, stop };
}

function until(connection) {
  return new Promise((resolve, reject) => {
    connection.addEventListener("connectionstatechange", () => {
      if (connection.connectionState === "connected") resolve();
      if (connection.connectionState === "failed") reject(new Error("failed"));
    });
  });
}

function sleep(duration_ms) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, duration_ms)));
}

/** The bit rate between two readings, of what is `received` or `sent`. */
function kbps(before, after, what) {
  const duration_ms = after.time - before.time;
  return duration_ms > 0 ? ((after[what] - before[what]) * 8) / duration_ms : 0;
}

function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : 0;
}
