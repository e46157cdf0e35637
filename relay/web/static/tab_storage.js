// What a tab keeps over a reload. In a frame of another's page a browser may forbid that: then it is
// kept for as long as the page is open.

class Memory {
  #values = new Map();

  getItem(name) {
    return this.#values.get(name) ?? null;
  }

  setItem(name, value) {
    this.#values.set(name, String(value));
  }

  removeItem(name) {
    this.#values.delete(name);
  }
}

export const tab_storage = open();

function open() {
  try {
    // The mere look at it is refused where it is forbidden.
    return window.sessionStorage;
  } catch {
    return new Memory();
  }
}
