// Opens the page without a connection: the network first, and what it last returned where there is none.
// Requests of the API never come from here.
const KEPT = "page";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  if (request.mode === "navigate" && url.pathname === "/") event.respondWith(networkFirst(request, "/"));
  else if (url.pathname.startsWith("/board/")) event.respondWith(keptFirst(request));
});

async function networkFirst(request, name) {
  const kept = await caches.open(KEPT);
  try {
    const response = await fetch(request);
    if (response.ok) {
      const old = await kept.match(name);
      await kept.put(name, response.clone());
      if (old && (await old.text()) !== (await response.clone().text())) await forget(kept, response.clone());
    }
    if (response.status < 500) return response;
    return (await kept.match(name)) ?? response;
  } catch (error) {
    const response = await kept.match(name);
    if (response) return response;
    throw error;
  }
}

// Files that the page does not name any more are of another version.
async function forget(kept, page) {
  const text = await page.text();
  for (const request of await kept.keys()) {
    const { pathname } = new URL(request.url);
    if (pathname !== "/" && !text.includes(pathname)) await kept.delete(request);
  }
}

async function keptFirst(request) {
  const kept = await caches.open(KEPT);
  const cached = await kept.match(request);
  if (cached) return cached;
  const response = await fetch(request);
  if (response.ok && (response.headers.get("Cache-Control") ?? "").includes("immutable")) {
    await kept.put(request, response.clone());
  }
  return response;
}
