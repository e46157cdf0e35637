// What others say, played: one audio element a peer, all by the speaker that was chosen.

import { make, syncList } from "./dom.js";

export class AudioSinks {
  /** `blocked(is_blocked)`: browsers may refuse to play before somebody clicks. */
  constructor(blocked) {
    this.blocked = blocked;
    this.element = make("div", { hidden: true });
    this.speaker_id = "";
  }

  render(peers) {
    const heard = peers.filter(({ audioStream }) => audioStream);
    syncList(
      this.element,
      heard,
      ({ id }) => id,
      () => this.#create(),
      (audio, { audioStream }) => {
        if (audio.srcObject === audioStream) return;
        audio.srcObject = audioStream;
        this.#play(audio);
      },
    );
  }

  setSpeaker(device_id) {
    this.speaker_id = device_id;
    for (const audio of this.element.children) audio.setSinkId?.(device_id).catch(() => {});
  }

  /** To be called from a click. */
  unblock() {
    for (const audio of this.element.children) this.#play(audio);
    this.blocked(false);
  }

  #create() {
    const audio = make("audio", { autoplay: true });
    if (this.speaker_id) audio.setSinkId?.(this.speaker_id).catch(() => {});
    return audio;
  }

  #play(audio) {
    audio.play().catch((error) => {
      if (error.name === "NotAllowedError") this.blocked(true);
    });
  }
}
