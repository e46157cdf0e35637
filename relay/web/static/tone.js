// A tone that is sent and nowhere played, so that nobody is asked for a microphone.

const RATE = 48000;
const PIECE_MS = 10;
const WRITE_MS = 20;
const HERTZ = 440;
const VOLUME = 0.2;
const MOST_LATE = 10; // Pieces that are made up for after a pause.

/** {track, stop()}, or null where the browser can make no tone. */
export function makeTone() {
  try {
    // Chromium alone has the former. The latter is silent until somebody has clicked in the page.
    return "MediaStreamTrackGenerator" in window ? writtenTone() : playedTone();
  } catch {
    return null;
  }
}

function writtenTone() {
  const track = new MediaStreamTrackGenerator({ kind: "audio" });
  const writer = track.writable.getWriter();
  const started = performance.now();
  let written = 0;
  const timer = setInterval(() => {
    const due = Math.floor((performance.now() - started) / PIECE_MS);
    for (written = Math.max(written, due - MOST_LATE); written < due; written += 1) {
      writer.write(piece(written)).catch(() => {});
    }
  }, WRITE_MS);
  const stop = () => {
    clearInterval(timer);
    track.stop();
  };
  return { track, stop };
}

function piece(number) {
  const frames = (RATE * PIECE_MS) / 1000;
  const data = Float32Array.from({ length: frames }, (_, index) => {
    return VOLUME * Math.sin((2 * Math.PI * HERTZ * (number * frames + index)) / RATE);
  });
  return new AudioData({
    format: "f32",
    sampleRate: RATE,
    numberOfFrames: frames,
    numberOfChannels: 1,
    timestamp: number * PIECE_MS * 1000,
    data,
  });
}

function playedTone() {
  const audio = new AudioContext();
  // Refused before a click; the call then goes without a tone.
  audio.resume().catch(() => {});
  const tone = audio.createOscillator();
  const quiet = audio.createGain();
  const target = audio.createMediaStreamDestination();
  tone.frequency.value = HERTZ;
  quiet.gain.value = VOLUME;
  tone.connect(quiet).connect(target);
  tone.start();
  const track = target.stream.getAudioTracks()[0];
  const stop = () => {
    track.stop();
    audio.close();
  };
  return { track, stop };
}
