// The far side's picture, drawn so that its last frame stays when the call is over.

const FRAME_MS = 50;

export class Picture {
  constructor(canvas) {
    this.context = canvas.getContext("2d");
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.timer = null;
  }

  play(stream) {
    this.video.srcObject = stream;
    this.video.play().catch(() => {});
    this.timer ??= setInterval(() => this.draw(), FRAME_MS);
  }

  draw() {
    const { width, height } = this.context.canvas;
    if (this.video.videoWidth) this.context.drawImage(this.video, 0, 0, width, height);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.video.srcObject = null;
  }

  clear() {
    const { width, height } = this.context.canvas;
    this.context.clearRect(0, 0, width, height);
  }
}
