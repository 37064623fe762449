/** Service worker: keeps the files of one version of the page, so that it works offline. */

// `nin-edge web` writes the line `const PAGE = {"version": ..., "files": [...]};` above.
// @ts-ignore
const page = /** @type {{version: string, files: string[]}} */ (PAGE);
const worker = /** @type {any} */ (self);
const ours = `nin-edge ${worker.registration.scope} `; // an origin may have several such pages
const name = ours + page.version;

worker.addEventListener("install", (/** @type {any} */ event) => {
  const fresh = page.files.map((file) => new Request(file, { cache: "no-cache" }));
  const kept = caches.open(name).then((cache) => cache.addAll(fresh));
  event.waitUntil(kept.then(() => worker.skipWaiting()));
});

worker.addEventListener("activate", (/** @type {any} */ event) => {
  const clear = async () => {
    const old = (await caches.keys()).filter((key) => key.startsWith(ours) && key !== name);
    await Promise.all(old.map((key) => caches.delete(key)));
    await worker.clients.claim();
  };
  event.waitUntil(clear());
});

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const url = event.request.url.replace(/(index\.html)?([?#].*)?$/, "");
  const kept = caches.open(name).then((cache) => cache.match(url));
  event.respondWith(kept.then((response) => response ?? fetch(event.request)));
});
