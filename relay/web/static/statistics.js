// What getStats says of a connection, as the figures that people look at: of the second between
// two readings.

/** One reading: totals over all streams, and the path that is in use. */
export function readReport(report) {
  const reading = {
    at_ms: performance.now(), in_bytes: 0, out_bytes: 0, received: 0, lost: 0, audio_bytes: 0,
    audio_played_s: null, media_bytes: 0, jitter_ms: null, rtt_ms: null, path: null, codec: null,
  };
  const entries = [...report.values()];
  const transport = entries.find(({ type }) => type === "transport");
  const pair = selectedPair(entries, report, transport);
  if (pair) {
    const ends = [report.get(pair.localCandidateId), report.get(pair.remoteCandidateId)];
    reading.path = ends.some((end) => end?.candidateType === "relay") ? "relayed" : "direct";
    // What comes by another pair than the one by which this side sends is in the transport's alone.
    const counts = transport?.bytesReceived === undefined ? pair : transport;
    reading.in_bytes = counts.bytesReceived ?? 0;
    reading.out_bytes = counts.bytesSent ?? 0;
    if (pair.currentRoundTripTime !== undefined) reading.rtt_ms = pair.currentRoundTripTime * 1000;
  }
  const codecs = new Set();
  for (const entry of entries) {
    if (entry.type !== "inbound-rtp") continue;
    reading.received += entry.packetsReceived ?? 0;
    reading.lost += entry.packetsLost ?? 0;
    reading.media_bytes += entry.bytesReceived ?? 0;
    if (entry.kind === "audio") {
      reading.audio_bytes += entry.bytesReceived ?? 0;
      // Not every browser says it.
      if (entry.totalSamplesDuration !== undefined) {
        reading.audio_played_s = (reading.audio_played_s ?? 0) + entry.totalSamplesDuration;
      }
      if (entry.jitter !== undefined) reading.jitter_ms = entry.jitter * 1000;
    }
    const codec = report.get(entry.codecId)?.mimeType;
    if (codec && entry.bytesReceived) codecs.add(codec.split("/")[1]);
  }
  if (codecs.size) reading.codec = [...codecs].sort().join(" ");
  return reading;
}

function selectedPair(entries, report, transport) {
  const named = report.get(transport?.selectedCandidatePairId);
  // Firefox names none there.
  return named ?? entries.find((one) => one.type === "candidate-pair" && one.nominated && one.state === "succeeded");
}

/** {rtt_ms, loss: 0 to 1 or null, jitter_ms, in_kbps, out_kbps, codec} between two readings. */
export function figuresBetween(before, after) {
  const duration_ms = after.at_ms - before.at_ms;
  const kbps = (name) => Math.max(0, ((after[name] - before[name]) * 8) / duration_ms);
  const lost = Math.max(0, after.lost - before.lost);
  const expected = lost + Math.max(0, after.received - before.received);
  return {
    rtt_ms: after.rtt_ms,
    loss: expected ? lost / expected : null,
    jitter_ms: after.jitter_ms,
    in_kbps: kbps("in_bytes"),
    out_kbps: kbps("out_bytes"),
    codec: after.codec,
  };
}

/** How much sound a receiver has played, and for how long. */
export function readEnergy(report) {
  const entry = [...report.values()].find(({ type }) => type === "inbound-rtp");
  return { energy: entry?.totalAudioEnergy ?? 0, duration_s: entry?.totalSamplesDuration ?? 0 };
}

/** How loud it was between two such readings: 0 to 1 (webrtc-stats, totalAudioEnergy). */
export function levelBetween(before, after) {
  const duration_s = after.duration_s - before.duration_s;
  if (duration_s <= 0) return 0;
  return Math.min(1, Math.sqrt(Math.max(0, after.energy - before.energy) / duration_s));
}
