// Messages and files, between the peers alone.

import { make, say, setAttribute, syncList } from "./dom.js";
import { AT_ONCE_MAXIMUM } from "./files.js";
import { nameOf, size, timeOfDay } from "./format.js";
import { icon } from "./icons.js";
import { pickSink } from "./sinks.js";
import { text } from "./text.js";

const PICK_BYTES = 512 * 1024 * 1024;

export class ChatPanel {
  constructor(meeting, told) {
    this.meeting = meeting;
    this.told = told;
    this.first_seen_ms = new Map();
    this.list = make("ol", {
      class: "messages",
      "aria-live": "polite",
      label: "panel_chat",
      tabindex: "0",
    });
    this.empty = make("p", { class: "hint", text: "chat_empty" });
    this.input = make("textarea", {
      rows: 1,
      label: "chat_input",
      placeholder: "chat_input",
      on: {
        input: () => this.#grow(),
        keydown: (event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          this.#send();
        },
      },
    });
    this.picker = make("input", { type: "file", multiple: true, hidden: true });
    this.picker.addEventListener("change", () => {
      this.#offer(this.picker.files);
      this.picker.value = "";
    });
    const attach = make(
      "button",
      {
        type: "button",
        class: "plain square",
        label: "chat_attach",
        tip: "chat_attach",
        on: { click: () => this.picker.click() },
      },
      icon("attach"),
    );
    const form = make(
      "form",
      { class: "composer", on: { submit: (event) => (event.preventDefault(), this.#send()) } },
      attach,
      this.picker,
      this.input,
      make(
        "button",
        { type: "submit", class: "square", label: "chat_send", tip: "chat_send" },
        icon("send"),
      ),
    );
    this.element = make(
      "div",
      { class: "chat" },
      this.empty,
      this.list,
      make("p", { class: "drop-hint", text: "chat_drop" }),
      form,
    );
    this.#takeDrops();
  }

  render({ chat, files, peers }) {
    const items = [
      ...chat.map((message) => ({ key: `m${message.id}`, at: message.at_ms, message })),
      ...files.map((file) => ({ key: `f${file.id}`, at: this.#firstSeen(file.id), file })),
    ].sort((a, b) => a.at - b.at);
    this.empty.hidden = items.length > 0;
    const was_at_end = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    const before = this.list.children.length;
    syncList(
      this.list,
      items,
      ({ key }) => key,
      ({ message, file }) => (message ? createMessage(message) : this.#createFile(file)),
      (element, { file }) => file && this.#updateFile(element, file, peers),
    );
    if (was_at_end && this.list.children.length !== before)
      this.list.scrollTop = this.list.scrollHeight;
  }

  focus() {
    this.input.focus();
  }

  async #act(method, id) {
    if (method !== "acceptFile") return this.meeting[method](id);
    const { name, size: bytes } = this.meeting.state.files.find((file) => file.id === id);
    // A large file goes where it is to stay; the rest is kept by the browser until it is saved.
    const sink = bytes > PICK_BYTES ? await pickSink(name) : null;
    return this.meeting.acceptFile(id, sink);
  }

  #firstSeen(file_id) {
    if (!this.first_seen_ms.has(file_id)) this.first_seen_ms.set(file_id, Date.now());
    return this.first_seen_ms.get(file_id);
  }

  #grow() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight + 2}px`;
  }

  #send() {
    const said = this.input.value.trim();
    if (!said) return;
    try {
      this.meeting.say(said);
    } catch {
      this.told(text("chat_too_long"));
      return;
    }
    this.input.value = "";
    this.#grow();
  }

  async #offer(files) {
    for (const file of files) {
      try {
        await this.meeting.sendFile(file, null);
      } catch {
        this.told(text("files_too_many", { most: AT_ONCE_MAXIMUM }));
        return;
      }
    }
  }

  #takeDrops() {
    const carriesFiles = (event) => [...event.dataTransfer.types].includes("Files");
    this.element.addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      this.element.classList.add("dropping");
    });
    this.element.addEventListener("dragleave", (event) => {
      if (!this.element.contains(event.relatedTarget)) this.element.classList.remove("dropping");
    });
    this.element.addEventListener("drop", (event) => {
      this.element.classList.remove("dropping");
      if (!carriesFiles(event)) return;
      event.preventDefault();
      this.#offer(event.dataTransfer.files);
    });
  }

  #createFile({ id }) {
    const act = (key, method, look) =>
      make("button", {
        type: "button",
        class: look,
        text: key,
        "data-act": method,
        on: {
          click: async () => {
            try {
              await this.#act(method, id);
            } catch (failure) {
              // Whoever changes their mind while choosing a place needs no advice.
              if (failure.name !== "AbortError") this.told(text("file_failed_unwritable"));
            }
          },
        },
      });
    return make(
      "li",
      { class: "message file" },
      make("p", { class: "meta" }),
      make(
        "div",
        { class: "file-line" },
        icon("file"),
        make("strong"),
        make("span", { class: "soft" }),
      ),
      make("progress", { max: "1", value: "0", label: "file_progress" }),
      make(
        "div",
        { class: "acts" },
        act("file_accept", "acceptFile", "small"),
        act("file_decline", "declineFile", "plain small"),
        act("file_cancel", "cancelFile", "plain small"),
        make("a", { class: "button small", text: "file_save", hidden: true }),
      ),
    );
  }

  #updateFile(element, file, peers) {
    const [meta, line, progress, acts] = element.children;
    const is_mine = file.direction === "out";
    element.classList.toggle("mine", is_mine);
    const peer = peers.find(({ id }) => id === file.from);
    say(meta, is_mine ? text("you") : nameOf(peer));
    say(line.children[1], file.name);
    const share = file.size
      ? file.sent_or_received_bytes / file.size
      : Number(file.status === "done");
    const moved = ["running", "paused"].includes(file.status)
      ? `${size(file.sent_or_received_bytes)} / `
      : "";
    const how = file.status === "failed" ? `file_failed_${file.reason}` : `file_${file.status}`;
    say(line.children[2], `${moved}${size(file.size)} · ${text(how)}`);
    progress.hidden = !["running", "paused"].includes(file.status);
    progress.value = share;
    element.dataset.status = file.status;
    const shown = {
      acceptFile: !is_mine && file.status === "offered",
      declineFile: !is_mine && file.status === "offered",
      cancelFile:
        ["running", "paused"].includes(file.status) || (is_mine && file.status === "offered"),
    };
    for (const button of acts.querySelectorAll("button"))
      button.hidden = !shown[button.dataset.act];
    const save = acts.querySelector("a");
    // What could not be written to a file of the person's choice at once is kept for them to save.
    save.hidden = !(file.blob && file.status === "done" && !is_mine);
    if (!save.hidden) {
      if (!save.href) save.href = URL.createObjectURL(file.blob);
      setAttribute(save, "download", file.name);
    }
  }
}

function createMessage(message) {
  return make(
    "li",
    { class: `message${message.mine ? " mine" : ""}` },
    make(
      "p",
      { class: "meta" },
      `${message.mine ? text("you") : nameOf(message)} · ${timeOfDay(message.at_ms)}`,
    ),
    make("p", { class: "said" }, message.text),
  );
}
