// Where a file that comes in is written: {write(bytes), close() -> Blob|null, abort()}, all async.

const FOLDER = "received";
const FORGET_MS = 24 * 3600 * 1000;
const MEMORY_MAXIMUM_BYTES = 256 * 1024 * 1024;

/** Where the user says, or null where this browser can't ask. To be called from a click; raises
 * AbortError when the user changes their mind. */
export async function pickSink(name) {
  if (!("showSaveFilePicker" in window)) return null;
  const handle = await window.showSaveFilePicker({ suggestedName: name });
  const stream = await handle.createWritable();
  return {
    write: (bytes) => stream.write(bytes),
    close: () => stream.close().then(() => null),
    abort: () => stream.abort(),
  };
}

/** In the browser's own storage for this origin, else in memory; the Blob is there for as long as
 * the page is open. */
export async function keptSink(type) {
  try {
    return await storedSink(type);
  } catch {
    return memorySink(type);
  }
}

async function storedSink(type) {
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle(FOLDER, { create: true });
  await sweep(folder);
  const name = `${Date.now()}-${crypto.randomUUID()}`;
  const handle = await folder.getFileHandle(name, { create: true });
  const stream = await handle.createWritable();
  return {
    write: (bytes) => stream.write(bytes),
    async close() {
      await stream.close();
      return (await handle.getFile()).slice(0, undefined, type);
    },
    async abort() {
      await stream.abort();
      await folder.removeEntry(name);
    },
  };
}

/** Remove what pages that are closed have left behind. */
async function sweep(folder) {
  const names = [];
  for await (const name of folder.keys()) names.push(name);
  for (const name of names) {
    if (Date.now() - parseInt(name, 10) < FORGET_MS) continue;
    await folder.removeEntry(name).catch(() => {}); // Another page has it open.
  }
}

function memorySink(type) {
  let parts = [];
  let size = 0;
  return {
    async write(bytes) {
      size += bytes.byteLength;
      if (size > MEMORY_MAXIMUM_BYTES) throw new RangeError("the file doesn't fit into memory");
      parts.push(bytes);
    },
    async close() {
      return new Blob(parts, { type });
    },
    async abort() {
      parts = [];
    },
  };
}
