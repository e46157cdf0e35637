// What the browser keeps for this origin: keys that can't be read out, and who has been met.

const NAME = "montana";
const VERSION = 1;
let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("keys");
      request.result.createObjectStore("people", { keyPath: "identity" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  }).catch((error) => {
    opened = null;
    throw error;
  });
  return opened;
}

/** Do `work(objectStore)` in a transaction of its own; what its request gives, once it is kept. */
async function within(store, mode, work) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(store, mode);
    const request = work(transaction.objectStore(store));
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onabort = () => reject(transaction.error);
    transaction.onerror = () => reject(transaction.error);
  });
}

export const readKey = (name) => within("keys", "readonly", (store) => store.get(name));
export const keepKey = (name, key) => within("keys", "readwrite", (store) => store.put(key, name));
export const dropKey = (name) => within("keys", "readwrite", (store) => store.delete(name));

/** Keep `key` under `name` if nothing is there; what is there afterwards. Two tabs that begin at
 * the same time have one key. */
export async function keepFirstKey(name, key) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction("keys", "readwrite");
    const store = transaction.objectStore("keys");
    const request = store.get(name);
    request.onsuccess = () => {
      if (request.result === undefined) store.put(key, name);
    };
    transaction.oncomplete = () => resolve(request.result ?? key);
    transaction.onabort = () => reject(transaction.error);
  });
}

export const readPeople = () => within("people", "readonly", (store) => store.getAll());
export const keepPerson = (person) => within("people", "readwrite", (store) => store.put(person));
export const dropPerson = (identity) =>
  within("people", "readwrite", (store) => store.delete(identity));
