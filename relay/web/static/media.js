// Microphones, cameras and screens of this machine, and how loud they are.

const LEVEL_MS = 100;
const SPEAKING_LEVEL = 0.03;
const SILENT_LEVEL = 0.015;
const SILENT_TICKS = 4; // People pause between words.

const REASONS = new Map([
  ["NotAllowedError", "refused"],
  ["SecurityError", "refused"],
  ["NotFoundError", "missing"],
  ["OverconstrainedError", "missing"],
  ["NotReadableError", "busy"],
  ["AbortError", "busy"],
]);

/** `reason`: `refused`, `missing`, `busy`, `insecure` or `unsupported`; `device`: `microphone`,
 * `camera` or `screen`. */
export class MediaFailure extends Error {
  constructor(reason, device) {
    super(`${device}: ${reason}`);
    this.name = "MediaFailure";
    this.reason = reason;
    this.device = device;
  }
}

const SOUND = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const PICTURE = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };

/** A track of the microphone; `deviceId` where the user has chosen one. Raises MediaFailure. */
export function openMicrophone(deviceId = null) {
  const audio = { ...chosen(deviceId), ...SOUND };
  return opened("microphone", () => navigator.mediaDevices.getUserMedia({ audio }));
}

export function openCamera(deviceId = null) {
  const video = { ...chosen(deviceId), ...PICTURE };
  return opened("camera", () => navigator.mediaDevices.getUserMedia({ video }));
}

/** Both at once, as [microphone, camera]: some browsers ask their user each time. Null where the
 * two can't be had together. */
export async function openBoth() {
  try {
    const both = { audio: SOUND, video: PICTURE };
    const stream = await navigator.mediaDevices.getUserMedia(both);
    return [stream.getAudioTracks()[0], stream.getVideoTracks()[0]];
  } catch {
    return null;
  }
}

/** What the user picks of the screen; to be called from a click. */
export async function openScreen() {
  if (window.isSecureContext && !navigator.mediaDevices?.getDisplayMedia) {
    throw new MediaFailure("unsupported", "screen");
  }
  const options = { video: { frameRate: { ideal: 15 } }, audio: false };
  const track = await opened("screen", () => navigator.mediaDevices.getDisplayMedia(options));
  // Text matters more than motion.
  if ("contentHint" in track) track.contentHint = "detail";
  return track;
}

/** Devices as {microphones, cameras, speakers}, each [{id, label}]; labels are empty before the
 * user has allowed a device. */
export async function listDevices() {
  const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const of = (kind) =>
    all.filter((one) => one.kind === kind).map(({ deviceId: id, label }) => ({ id, label }));
  return { microphones: of("audioinput"), cameras: of("videoinput"), speakers: of("audiooutput") };
}

/** Call `changed` when a device comes or goes; returns what ends that. */
export function onDevices(changed) {
  navigator.mediaDevices?.addEventListener("devicechange", changed);
  return () => navigator.mediaDevices?.removeEventListener("devicechange", changed);
}

function chosen(deviceId) {
  return deviceId ? { deviceId: { exact: deviceId } } : {};
}

async function opened(device, open) {
  if (!window.isSecureContext) throw new MediaFailure("insecure", device);
  if (!navigator.mediaDevices?.getUserMedia) throw new MediaFailure("unsupported", device);
  try {
    return (await open()).getTracks()[0];
  } catch (error) {
    throw new MediaFailure(REASONS.get(error.name) ?? "unsupported", device);
  }
}

/** How loud a microphone's track is: `level` 0 to 1, `changed(level)` when it is another. */
export class LevelMeter {
  constructor(track, changed) {
    this.level = 0;
    this.context = new AudioContext();
    // Silent until somebody has clicked in the page; the click that joins does it.
    this.context.resume().catch(() => {});
    this.analyser = this.context.createAnalyser();
    this.analyser.fftSize = 1024;
    this.context.createMediaStreamSource(new MediaStream([track])).connect(this.analyser);
    this.samples = new Float32Array(this.analyser.fftSize);
    this.timer = setInterval(() => {
      if (this.context.state === "suspended") this.context.resume().catch(() => {});
      const level = track.enabled ? this.measure() : 0;
      if (Math.abs(level - this.level) < 0.01) return;
      this.level = level;
      changed(level);
    }, LEVEL_MS);
  }

  measure() {
    this.analyser.getFloatTimeDomainData(this.samples);
    const power = this.samples.reduce((sum, sample) => sum + sample * sample, 0);
    return Math.min(1, Math.sqrt(power / this.samples.length) * 2);
  }

  close() {
    clearInterval(this.timer);
    this.context.close();
  }
}

/** A track of silence, for who has no microphone in a call: a side that sends nothing at all is taken
 * for one that is gone, and the call ends. */
export class Silence {
  constructor() {
    this.context = new AudioContext();
    const destination = this.context.createMediaStreamDestination();
    const source = this.context.createConstantSource();
    source.offset.value = 0;
    source.connect(destination);
    source.start();
    [this.track] = destination.stream.getAudioTracks();
    this.timer = setInterval(() => this.resume(), LEVEL_MS);
    this.resume();
  }

  /** Before somebody has clicked in the page, it can't be. */
  resume() {
    if (this.context.state === "suspended") this.context.resume().catch(() => {});
    else clearInterval(this.timer);
  }

  close() {
    clearInterval(this.timer);
    this.track.stop();
    this.context.close();
  }
}

/** Whether somebody speaks, from levels that come each 200 ms: soon on, and late off. */
export class SpeechDetector {
  constructor() {
    this.speaking = false;
    this.ticks = 0;
  }

  /** Whether that has changed. */
  add(level) {
    const differs = this.speaking ? level < SILENT_LEVEL : level > SPEAKING_LEVEL;
    this.ticks = differs ? this.ticks + 1 : 0;
    if (this.ticks < (this.speaking ? SILENT_TICKS : 1)) return false;
    this.speaking = !this.speaking;
    this.ticks = 0;
    return true;
  }
}
