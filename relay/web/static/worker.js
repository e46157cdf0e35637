// Keeps the pages' own files, so that they open without a network and can be installed. The node
// writes VERSION and FILES above; a new version of the node has another, and takes the old one's
// place. The network comes first: what is kept serves only where there is none, and then the page
// and all that it loads, since what the network has may be of another version. Nothing else is
// kept: no answer of the node's, and no address with what stands behind ? in it.

const CACHE = `montana-${VERSION}`;
const KEPT_PAGES_MAXIMUM = 100;
const kept_pages = new Set(); // Pages that were opened without a network, by their clients' ids.

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) =>
        Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name))),
      )
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { pathname, origin } = new URL(event.request.url);
  if (
    event.request.method !== "GET" ||
    origin !== self.location.origin ||
    !FILES.includes(pathname)
  )
    return;
  const is_page = event.request.mode === "navigate";
  if (is_page) event.respondWith(openPage(event.request, pathname, event.resultingClientId));
  else if (kept_pages.has(event.clientId)) event.respondWith(keptFile(pathname));
});

async function openPage(request, pathname, client_id) {
  try {
    return await fetch(request);
  } catch (error) {
    const found = await keptFile(pathname);
    if (found.type === "error") throw error;
    kept_pages.add(client_id);
    if (kept_pages.size > KEPT_PAGES_MAXIMUM) kept_pages.delete(kept_pages.values().next().value);
    return found;
  }
}

async function keptFile(pathname) {
  return (await caches.match(pathname, { cacheName: CACHE })) ?? Response.error();
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(
    self.clients.matchAll({ type: "window" }).then((windows) => {
      const open = windows.find(({ url }) => new URL(url).pathname === "/me");
      return open ? open.focus() : self.clients.openWindow("/me");
    }),
  );
});
