// A meeting without a node, for looking at the pages: its state is what a test sets.

const EMPTY = {
  phase: "idle",
  online: true,
  you: "0001",
  role: null,
  room: null,
  call: null,
  relayOnly: false,
  invitation: null,
  knocking: [],
  local: {
    microphone: false,
    camera: false,
    screen: false,
    cameraStream: null,
    screenStream: null,
    level: 0,
  },
  peers: [],
  chat: [],
  files: [],
  warning: null,
  receipt: null,
  over: null,
  failure: null,
};

export class Meeting extends EventTarget {
  state = structuredClone(EMPTY);
  done = [];
  host = {
    admit: async (id) => this.done.push(["admit", id]),
    deny: async (id) => this.done.push(["deny", id]),
    kick: async (id) => this.done.push(["kick", id]),
    setRoom: async (room) => this.set({ room: { ...this.state.room, ...room } }),
    invite: async () => "another-invitation-0123456789abcdef",
  };

  set(changes) {
    this.state = { ...this.state, ...changes };
    this.dispatchEvent(new Event("change"));
  }

  setLocal(changes) {
    this.set({ local: { ...this.state.local, ...changes } });
  }

  useMedia({ microphone, camera }) {
    this.setLocal({
      microphone: microphone !== null,
      camera: camera !== null,
      cameraStream: camera && new MediaStream([camera]),
    });
  }

  async createRoom({ name, lobby }) {
    if (this.refuses) throw this.refuses;
    this.set({
      phase: "in",
      name,
      invitation: "invitation-0123456789abcdef-0123456789abcdef",
      room: {
        id: "r",
        host: "0001",
        locked: false,
        lobby,
        people_maximum: 12,
        pays: "node",
        knocking: [],
      },
    });
  }

  async joinRoom({ name }) {
    if (this.refuses) throw this.refuses;
    this.set({
      phase: "in",
      name,
      room: {
        id: "r",
        host: "0002",
        locked: false,
        lobby: false,
        people_maximum: 12,
        pays: "node",
        knocking: [],
      },
    });
  }

  async openCall({ call }) {
    const role = window.fakeRole ?? "callee";
    const kind = window.fakeKind ?? "voice";
    this.set({
      phase: "ringing",
      call: {
        id: call,
        role,
        other: "user:alice",
        status: "ringing",
        kind,
        price_second: "1",
        seconds: 0,
        spent: null,
        left: null,
        left_s: null,
        relayed: true,
      },
    });
  }

  async resume() {
    return false;
  }
  async setMicrophone(on) {
    this.setLocal({ microphone: on });
  }
  async setCamera(on) {
    this.setLocal({ camera: on });
  }
  async shareScreen(on) {
    this.setLocal({ screen: on });
  }
  async answer() {
    this.set({ phase: "in", call: { ...this.state.call, status: "active" } });
  }
  reject() {
    this.set({ phase: "over", over: "rejected" });
  }
  hangUp() {
    this.set({ phase: "over", over: "hung-up" });
  }
  leave() {
    this.set({ phase: "over", over: "left" });
  }
  say(text) {
    this.done.push(["say", text]);
  }
  setVerified(id, matches) {
    this.done.push(["verified", id, matches]);
  }
}
