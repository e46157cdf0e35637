// Keeps the pages' own files, so that they open without a network and can be installed. The node
// writes VERSION and FILES above; a new version of the node has another, and takes the old one's
// place. The network comes first: what is kept serves only where there is none. Nothing else is
// kept: no answer of the node's, and no address with what stands behind ? in it.

const CACHE = `montana-${VERSION}`;

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
  event.respondWith(
    fetch(event.request).catch(async (error) => {
      const found = await caches.match(pathname, { cacheName: CACHE });
      if (!found) throw error;
      return found;
    }),
  );
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(
    self.clients.matchAll({ type: "window" }).then((windows) => {
      const open = windows.find(({ url }) => new URL(url).pathname === "/me");
      return open ? open.focus() : self.clients.openWindow("/me");
    }),
  );
});
