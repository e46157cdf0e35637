// A data channel whose messages are sealed by the connection's cipher, which is there when the
// handshake is over: until then both directions wait.

const HIGH_BYTES = 1024 * 1024;
const LOW_BYTES = 256 * 1024;
// What has come in and isn't taken yet; files keep within a window that is smaller.
const PENDING_MAXIMUM_BYTES = 16 * 1024 * 1024;

export class SealedChannel {
  /** `received(bytes)` may be async, the next waits for it; `failed(error)` says that what came
   * wasn't the other's, after which the channel is closed. */
  constructor(channel, number, { received, failed }) {
    this.channel = channel;
    this.number = number;
    this.received = received;
    this.failed = failed;
    this.pending_bytes = 0;
    const unlocked = new Promise((resolve) => {
      this.unlock = (cipher) => resolve(cipher);
    });
    this.sending = unlocked;
    this.receiving = unlocked;
    channel.bufferedAmountLowThreshold = LOW_BYTES;
    channel.addEventListener("message", ({ data }) => this.take(data));
  }

  get is_open() {
    return this.channel.readyState === "open";
  }

  /** Send the bytes after all that was sent before; resolves when the browser has them. */
  send(bytes) {
    this.sending = this.sending.then(async (cipher) => {
      const message = await cipher.seal(this.number, bytes);
      if (this.is_open) this.channel.send(message);
      return cipher;
    });
    return this.sending;
  }

  /** Resolves when there is room for more, or never will be. */
  async drained() {
    while (this.is_open && this.channel.bufferedAmount > HIGH_BYTES) {
      await new Promise((resolve) => {
        const once = { once: true };
        this.channel.addEventListener("bufferedamountlow", resolve, once);
        this.channel.addEventListener("close", resolve, once);
      });
    }
  }

  take(data) {
    const size = data.byteLength ?? 0;
    this.pending_bytes += size;
    if (!(data instanceof ArrayBuffer) || this.pending_bytes > PENDING_MAXIMUM_BYTES) {
      this.fail(new RangeError("the channel brings what it may not"));
      return;
    }
    this.receiving = this.receiving.then(async (cipher) => {
      if (!this.is_open) return cipher;
      try {
        await this.received(await cipher.open(this.number, data));
      } catch (error) {
        this.fail(error);
      }
      this.pending_bytes -= size;
      return cipher;
    });
  }

  fail(error) {
    if (!this.is_open) return;
    this.channel.close();
    this.failed(error);
  }
}
