// Where sound is played: the speaker that was chosen, which this browser remembers.

import { kept } from "./page.js";

const NAME = "montana-speaker";
let chosen = null; // Storage may be forbidden; the page itself remembers.

/** Whether this browser lets people choose where sound is played. */
export const canChooseSpeaker = () => "setSinkId" in HTMLMediaElement.prototype;

/** The chosen one's id, or "" where the browser's own choice is to do. */
export function chosenSpeaker() {
  return chosen ?? kept(NAME) ?? "";
}

export function chooseSpeaker(device_id) {
  chosen = device_id;
  kept(NAME, device_id);
}
