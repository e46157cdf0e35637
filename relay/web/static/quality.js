// How well somebody is heard and seen, as one figure from 1 to 4.

// At most so much loss (a share) and round trip for 4, 3 and 2 bars.
const STEPS = [
  { bars: 4, loss: 0.01, rtt_ms: 200 },
  { bars: 3, loss: 0.03, rtt_ms: 400 },
  { bars: 2, loss: 0.08, rtt_ms: 800 },
];

/** 1 to 4, or null where nothing was measured yet. */
export function qualityOf({ connection, stats }) {
  if (connection !== "connected") return connection === "connecting" ? null : 1;
  if (!stats) return null;
  const loss = stats.loss ?? 0;
  const rtt_ms = stats.rtt_ms ?? 0;
  return STEPS.find((step) => loss <= step.loss && rtt_ms <= step.rtt_ms)?.bars ?? 1;
}
