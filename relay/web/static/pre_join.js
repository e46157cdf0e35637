// Before one goes in: what others will see and hear, and from which devices.

import { DevicePicker } from "./device_picker.js";
import { make, setAttribute, setLabel, setTip } from "./dom.js";
import { explainFailure } from "./explain.js";
import { setIcon } from "./icons.js";
import { LevelBars } from "./level_bars.js";
import { openBoth, openCamera, openMicrophone } from "./media.js";
import { onLanguage } from "./text.js";

export class PreJoin {
  #tracks = { audioinput: null, videoinput: null };
  #failures = { audioinput: null, videoinput: null };
  #asked = 0;

  /** `changed()` is called when a device was switched on or off. */
  constructor(changed = () => {}) {
    this.changed = changed;
    this.video = make("video", {
      playsinline: true,
      muted: true,
      autoplay: true,
      class: "mirrored",
      hidden: true,
    });
    this.video.muted = true;
    this.empty = make("p", { class: "preview-empty", text: "preview_off" });
    this.meter = new LevelBars();
    this.buttons = {
      audioinput: this.#toggle("audioinput"),
      videoinput: this.#toggle("videoinput"),
    };
    this.notice = make("div", { class: "notice", role: "status", hidden: true });
    this.picker = new DevicePicker((kind, id) => this.#choose(kind, id));
    this.element = make(
      "div",
      { class: "pre-join" },
      make(
        "div",
        { class: "preview" },
        this.video,
        this.empty,
        make(
          "div",
          { class: "preview-bar" },
          this.buttons.audioinput,
          this.meter.element,
          this.buttons.videoinput,
        ),
      ),
      this.notice,
      this.picker.element,
    );
    onLanguage(() => this.#show());
    this.#show();
  }

  /** Ask for the microphone, and the camera as well where it is wanted. Nothing is needed: whoever
   * has neither may go in. */
  async start({ camera }) {
    const asked = this.#asked;
    const [audioinput, videoinput] = (camera && (await openBoth())) || [];
    await this.#open("audioinput", { track: audioinput, asked });
    if (camera) await this.#open("videoinput", { track: videoinput, asked });
  }

  /** What was chosen, for `Meeting.useMedia`: tracks of their own, so that the preview goes on
   * when nothing comes of it. */
  copies() {
    const { audioinput, videoinput } = this.#tracks;
    return { microphone: audioinput?.clone() ?? null, camera: videoinput?.clone() ?? null };
  }

  /** Let go of both devices. */
  stop() {
    this.#asked += 1;
    for (const kind of Object.keys(this.#tracks)) this.#close(kind);
    this.#show();
  }

  #toggle(kind) {
    const flip = () => {
      if (!this.#tracks[kind]) return this.#open(kind);
      this.#close(kind);
      this.changed();
      return this.#show();
    };
    return make("button", {
      type: "button",
      class: "round",
      "data-device": kind,
      on: { click: flip },
    });
  }

  /** Take a device up, or the `track` that was had of it already. */
  async #open(kind, { device_id = null, track = null, asked = this.#asked } = {}) {
    try {
      const open = kind === "audioinput" ? openMicrophone : openCamera;
      track ??= await open(device_id);
      if (asked !== this.#asked) {
        // Somebody has gone on in the meantime.
        track.stop();
        return;
      }
      this.#close(kind);
      this.#tracks[kind] = track;
      this.#failures[kind] = null;
      this.changed();
      track.addEventListener("ended", () => {
        if (this.#tracks[kind] === track) this.#close(kind);
        this.#show();
      });
    } catch (failure) {
      this.#failures[kind] = failure;
    }
    const used = Object.entries(this.#tracks).map(([name, track]) => [
      name,
      track?.getSettings().deviceId,
    ]);
    await this.picker.refresh(Object.fromEntries(used));
    this.#show();
  }

  #close(kind) {
    this.#tracks[kind]?.stop();
    this.#tracks[kind] = null;
  }

  #choose(kind, device_id) {
    if (kind !== "audiooutput") this.#open(kind, { device_id });
  }

  #show() {
    const { audioinput: microphone, videoinput: camera } = this.#tracks;
    for (const [kind, name] of [
      ["audioinput", "microphone"],
      ["videoinput", "camera"],
    ]) {
      const is_on = this.#tracks[kind] !== null;
      const button = this.buttons[kind];
      setIcon(button, is_on ? name : `${name}_off`);
      setLabel(button, `${name}_${is_on ? "turn_off" : "turn_on"}`);
      setTip(button, button.dataset.label);
      setAttribute(button, "data-on", is_on);
    }
    const shown = this.video.srcObject?.getVideoTracks()[0] ?? null;
    if (shown !== camera) this.video.srcObject = camera ? new MediaStream([camera]) : null;
    this.video.hidden = camera === null;
    this.empty.hidden = camera !== null;
    this.meter.listen(microphone);
    const failed = Object.entries(this.#failures).filter(([, failure]) => failure);
    this.notice.hidden = !failed.length;
    this.notice.replaceChildren(
      ...failed.map(([kind, failure]) => {
        const { title, advice } = explainFailure(failure);
        return make("p", {}, make("strong", { text: `device_${kind}` }), `: ${title} ${advice}`);
      }),
    );
  }
}
