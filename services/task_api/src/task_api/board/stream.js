// Hears of changes by server-sent events. One tab reads the stream for all of this browser's: over HTTP/1.1 a browser has
// six connections to the service, and the account a limited number of streams.
import { FROM_PAGE, shown } from "./api.js";

const EVENTS = "text/event-stream";
export const SILENCE_SECONDS = 40; // the service sends something every 15
const AGAIN_SECONDS = 30; // where there is no stream: a proxy, another version of the service, too many of them

const after = (seconds, work) => setTimeout(work, seconds * 1000);

// Calls `received(news)` with each sign of life of the stream, true where there are changes to read, and `ended()` without one.
export async function listen(account, since, { signal, received, ended }) {
  if (!navigator.locks) return; // plain HTTP has no locks: no tab can be chosen
  try {
    await navigator.locks.request(`stream ${account}`, { signal }, async () => {
      while (!signal.aborted) {
        const seconds = await read(account, since(), signal, received).catch(() => AGAIN_SECONDS);
        ended();
        await new Promise((resolve) => {
          const timer = after(seconds, resolve);
          signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
        });
      }
    });
  } catch (error) {
    if (!signal.aborted) console.error(error);
  }
}

// Reads a stream to its end; returns after how many seconds to open another.
async function read(account, since, signal, received) {
  const headers = { ...FROM_PAGE, Accept: EVENTS, ...shown(account), ...(since ? { "Last-Event-ID": since } : {}) };
  const stop = new AbortController();
  const quit = () => stop.abort();
  signal.addEventListener("abort", quit, { once: true });
  let silence = after(SILENCE_SECONDS, quit);
  try {
    const response = await fetch("/tasks/changes", { headers, cache: "no-store", signal: stop.signal });
    if (!response.ok || !(response.headers.get("Content-Type") ?? "").startsWith(EVENTS)) return AGAIN_SECONDS;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "", retry = 4; ; ) {
      const { done, value } = await reader.read();
      if (done) return retry;
      clearTimeout(silence);
      silence = after(SILENCE_SECONDS, quit);
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      received(lines.some(isNews));
      const wanted = lines.find((line) => line.startsWith("retry: "));
      if (wanted) retry = Number(wanted.slice(7)) / 1000;
    }
  } finally {
    quit();
    clearTimeout(silence);
    signal.removeEventListener("abort", quit);
  }
}

// Whether it is the data of a page with changes, or of the end of the feed.
const isNews = (line) => line.startsWith("data: ") && JSON.parse(line.slice(6)).changes?.length !== 0;
