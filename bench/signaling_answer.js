// Run in a page before its own scripts: when what happened between the click on "answer" and the
// first remote frame, in milliseconds since 1970, each for the first time. (`bench.signaling_pages`)

(() => {
  const marks = {};
  const mark = (name) => (marks[name] ??= performance.timeOrigin + performance.now());
  const tracks = new Set();
  const watched = new WeakSet();
  window.benchMarks = marks;

  const clicked = ({ target }) => target.closest?.("#answer") && mark("clicked");
  addEventListener("click", clicked, { capture: true });

  window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...options) {
      super(...options);
      this.addEventListener("icecandidate", ({ candidate }) => {
        if (candidate?.candidate.includes(" typ relay ")) mark("gathered");
      });
      this.addEventListener("iceconnectionstatechange", () => {
        if (/^(connected|completed)$/.test(this.iceConnectionState)) mark("ice");
      });
      this.addEventListener("connectionstatechange", () => {
        if (this.connectionState === "connected") mark("connected");
      });
      this.addEventListener("track", ({ track }) => {
        if (track.kind === "video") tracks.add(track);
      });
    }

    async setLocalDescription(...description) {
      await super.setLocalDescription(...description);
      mark(`said_${this.localDescription.type}`);
    }

    async setRemoteDescription(description) {
      mark(`heard_${description.type}`);
      await super.setRemoteDescription(description);
      mark(`took_${description.type}`);
    }
  };

  const look = () => {
    for (const video of document.querySelectorAll("video")) {
      const shown = video.srcObject?.getVideoTracks().some((track) => tracks.has(track));
      if (!shown || watched.has(video)) continue;
      watched.add(video);
      video.requestVideoFrameCallback(() => mark("frame"));
    }
    requestAnimationFrame(look);
  };
  look();
})();
