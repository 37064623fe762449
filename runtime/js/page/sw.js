/** Service worker: keeps the files of one version of this page, so that it works without a network. */

// `nin-edge web` writes the line `const PAGE = {"version": ..., "files": [...]};` above.
// @ts-ignore
const page = /** @type {{version: string, files: string[]}} */ (PAGE);
const worker = /** @type {any} */ (self);
const ours = `nin-edge ${worker.registration.scope} `; // an origin may have several such pages
const name = ours + page.version;

worker.addEventListener("install", (/** @type {any} */ event) => {
  const fresh = page.files.map((file) => new Request(file, { cache: "no-cache" }));
  const keep = async () => {
    await (await caches.open(name)).addAll(fresh);
    await worker.skipWaiting();
  };
  event.waitUntil(keep());
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
  const answer = async () => {
    const url = event.request.url.replace(/(index\.html)?([?#].*)?$/, "");
    return (await (await caches.open(name)).match(url)) ?? fetch(event.request);
  };
  event.respondWith(answer());
});
