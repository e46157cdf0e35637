// Cameras, microphones and speakers: what is there, and tracks of them with typed refusals.

const REASONS = {
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "busy",
  AbortError: "busy",
};
const SOUND = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const PICTURE = { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: "user" };

export class DeviceFailure extends Error {
  /** `reason`: refused, missing, busy, insecure or unsupported. */
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/** A track of the microphone ("audioinput") or camera ("videoinput"), of one device if it is named. */
export async function openDevice(kind, device_id = null) {
  if (!window.isSecureContext) throw new DeviceFailure("insecure");
  if (!navigator.mediaDevices?.getUserMedia) throw new DeviceFailure("unsupported");
  const wanted = { ...(kind === "audioinput" ? SOUND : PICTURE) };
  if (device_id) wanted.deviceId = { exact: device_id };
  try {
    const stream = await navigator.mediaDevices.getUserMedia(
      kind === "audioinput" ? { audio: wanted } : { video: wanted },
    );
    return stream.getTracks()[0];
  } catch (error) {
    throw new DeviceFailure(REASONS[error.name] ?? "unsupported");
  }
}

/** {audioinput, videoinput, audiooutput}: lists of {id, label}. Labels are empty before a device
 * was allowed; a browser that can't choose a speaker has none in the list. */
export async function listDevices() {
  const found = { audioinput: [], videoinput: [], audiooutput: [] };
  const all = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  for (const { kind, deviceId, label } of all) {
    if (kind === "audiooutput" && !canChooseSpeaker()) continue;
    if (deviceId) found[kind].push({ id: deviceId, label });
  }
  return found;
}

export function canChooseSpeaker() {
  return "setSinkId" in HTMLMediaElement.prototype;
}
