// Two connections in one page, through a relay and nothing else, and what they measure.

const CONNECT_TIMEOUT_MS = 15000;
const MEASURE_MS = 6000;
const SAMPLE_MS = 300;
const PING_MS = 50;
const PICTURE_MS = 40;
const LOSS_LIMIT = 0.05;
export const SAMPLES = Math.round(MEASURE_MS / SAMPLE_MS);

/** Why a check failed: `reason` names the text that says it, `values` fill that in. */
export class CheckFailure extends Error {
  constructor(reason, values = {}, advice = reason) {
    super(reason);
    this.reason = reason;
    this.values = values;
    this.advice = advice;
  }
}

/**
 * Call through `server` ({urls, username, credential}) and measure.
 *
 * `watch` is told of what happens: phase(name), candidate(side, candidate, after_ms),
 * error({code, reason, url}), sample({round_trip_ms, received_kbps, sent_kbps}), picture(stream).
 * Returns {gather_ms, connect_ms, round_trip_ms, worst_ms, lost, sent, loss, received_kbps,
 * sent_kbps, packets_sent, packets_received}; raises CheckFailure.
 */
export async function probe(server, watch) {
  if (typeof RTCPeerConnection !== "function") throw new CheckFailure("no_webrtc");
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
    return new CheckFailure("unreachable", { server: url }, loopback ? "loopback" : "unreachable");
  }

  async measure() {
    this.watch.phase("measuring");
    const pings = new Pings(this.channel);
    let before = await this.traffic();
    const first = before;
    const begun = performance.now();
    for (let sample = 1; sample <= SAMPLES; sample += 1) {
      await sleep(begun + sample * SAMPLE_MS - performance.now());
      const after = await this.traffic();
      const seconds = (after.time - before.time) / 1000;
      this.watch.sample({
        round_trip_ms: pings.latest(),
        received_kbps: ((after.received - before.received) * 8) / 1000 / seconds,
        sent_kbps: ((after.sent - before.sent) * 8) / 1000 / seconds,
      });
      before = after;
    }
    pings.stop();
    // The last answers are still under way.
    await sleep(300);
    const last = await this.traffic();
    const seconds = (last.time - first.time) / 1000;
    const media = await this.media();
    const sent = pings.sent + media.received + media.lost;
    const lost = pings.sent - pings.times.length + media.lost;
    const result = {
      gather_ms: Math.max(this.gathered.a, this.gathered.b),
      connect_ms: this.connect_ms,
      round_trip_ms: median(pings.times),
      worst_ms: Math.max(0, ...pings.times),
      lost,
      sent,
      loss: sent ? lost / sent : 1,
      received_kbps: ((last.received - first.received) * 8) / 1000 / seconds,
      sent_kbps: ((last.sent - first.sent) * 8) / 1000 / seconds,
      packets_sent: last.packets_sent,
      packets_received: last.packets_received,
      video_packets: media.video,
      audio_packets: media.audio,
    };
    if (!pings.times.length || !media.received) throw new CheckFailure("silent");
    if (result.loss > LOSS_LIMIT) {
      throw new CheckFailure("lossy", { percent: LOSS_LIMIT * 100 });
    }
    return result;
  }

  /** Bytes and packets of both sides' connections so far. */
  async traffic() {
    const sum = { time: performance.now(), received: 0, sent: 0, packets_sent: 0, packets_received: 0 };
    for (const side of [this.a, this.b]) {
      for (const entry of (await side.getStats()).values()) {
        if (entry.type !== "candidate-pair" || entry.state !== "succeeded") continue;
        sum.received += entry.bytesReceived ?? 0;
        sum.sent += entry.bytesSent ?? 0;
        sum.packets_sent += entry.packetsSent ?? 0;
        sum.packets_received += entry.packetsReceived ?? 0;
      }
    }
    return sum;
  }

  /** What the callee says of the audio and video that it receives. */
  async media() {
    const sum = { received: 0, lost: 0, video: 0, audio: 0 };
    for (const entry of (await this.b.getStats()).values()) {
      if (entry.type !== "inbound-rtp") continue;
      sum.received += entry.packetsReceived ?? 0;
      sum.lost += Math.max(0, entry.packetsLost ?? 0);
      if (entry.kind in sum) sum[entry.kind] += entry.packetsReceived ?? 0;
    }
    return sum;
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
    this.times = [];
    this.open = new Map();
    channel.addEventListener("message", ({ data }) => {
      const then = this.open.get(Number(data));
      if (then === undefined) return;
      this.open.delete(Number(data));
      this.times.push(performance.now() - then);
    });
    this.timer = setInterval(() => this.send(), PING_MS);
  }

  send() {
    if (this.channel.readyState !== "open") return;
    this.sent += 1;
    this.open.set(this.sent, performance.now());
    this.channel.send(String(this.sent));
  }

  latest() {
    return this.times.length ? median(this.times.slice(-5)) : 0;
  }

  stop() {
    clearInterval(this.timer);
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
  let audio = null;
  try {
    audio = new AudioContext();
    audio.resume();
    const tone = audio.createOscillator();
    const quiet = audio.createGain();
    const target = audio.createMediaStreamDestination();
    quiet.gain.value = 0.2;
    tone.connect(quiet).connect(target);
    tone.start();
    stream.addTrack(target.stream.getAudioTracks()[0]);
  } catch {
    // Without an audio device the picture alone will do.
  }
  const stop = () => {
    clearInterval(timer);
    for (const track of stream.getTracks()) track.stop();
    audio?.close();
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

function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : 0;
}
