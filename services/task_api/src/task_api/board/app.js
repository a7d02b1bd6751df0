// The page: who it is for, and then their board.
import { Problem, SignedOut, Unreachable, keyOf, request } from "./api.js";
import * as account from "./account.js";
import { Board } from "./board.js";
import { element } from "./elements.js";
import { clear, region } from "./notices.js";
import { Outbox } from "./outbox.js";
import { snapshot } from "./storage.js";
import { Tasks } from "./tasks.js";
import { texts } from "./texts.js";

const LOCAL = { id: 0, email: "" };
const KNOWN = "account";
const accounts = document.documentElement.dataset.accounts === "on";
const place = element("div", { class: "page" });
const progress = element("p", { class: "loading", role: "status" }, texts.loading);
const tabs = new BroadcastChannel("board");

// Forgets what this browser keeps of an account, but for the changes that wait: those are sent after its next sign-in.
async function forget() {
  localStorage.removeItem(KNOWN);
  await snapshot.clear().catch(() => {});
}

// Removes what the page still shows of an account: its dialogs, messages, and filters.
function blank() {
  document.querySelectorAll("dialog").forEach((one) => one.remove());
  clear();
  history.replaceState(null, "", "/");
}

// Returns whose tasks these are; without a connection, whose they were last. null where somebody has to sign in.
async function whose() {
  if (!accounts) return LOCAL;
  try {
    const { content } = await request("GET", "/auth/me");
    localStorage.setItem(KNOWN, JSON.stringify(content));
    return content;
  } catch (error) {
    if (error instanceof Unreachable) {
      const known = localStorage.getItem(KNOWN);
      if (known) return JSON.parse(known);
      progress.textContent = texts.unreachable;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return whose();
    }
    if (!(error instanceof SignedOut || error instanceof Problem)) throw error;
    await forget();
    return null;
  }
}

async function use(who) {
  const key = keyOf(who);
  const announce = (message) => tabs.postMessage({ account: key, ...message });
  const tasks = new Tasks(key, announce);
  const outbox = new Outbox(key, tasks, announce);
  let left;
  const end = new Promise((resolve) => (left = resolve));
  const signOut = async (everywhere) => {
    const { length } = outbox.mine;
    if (length && !confirm(texts.unsaved(length))) return;
    for (const path of everywhere ? ["/auth/sessions", "/session"] : ["/session"]) {
      try {
        await request("DELETE", path, { account: key });
      } catch (error) {
        if (!(error instanceof Unreachable)) continue; // the session has ended already
        board.failed(texts.unreachable);
        return;
      }
    }
    await outbox.clear();
    tabs.postMessage({ account: key, kind: "signed-out" });
    left({ ended: false });
  };
  const board = new Board(tasks, outbox, { account: accounts ? { ...who, key } : null, signOut });
  place.replaceChildren(...board.parts);
  board.placed();

  const stop = new AbortController();
  const on = (target, kind, listener) => target.addEventListener(kind, listener, { signal: stop.signal });
  on(tabs, "message", ({ data }) => {
    if (data.account !== key) return;
    if (data.kind === "outbox") outbox.read().then(() => outbox.send());
    if (data.kind === "tasks") {
      tasks.renamed(new Map(data.made));
      tasks.apply(data.results);
    }
    if (data.kind === "stream") tasks.observe(data.stream);
    if (data.kind === "signed-out") left({ ended: false });
  });
  on(window, "online", () => Promise.all([outbox.send(), tasks.poll()]));
  on(window, "offline", () => outbox.become("offline"));
  on(document, "visibilitychange", () => document.hidden || tasks.poll());
  on(tasks, "reach", () => tasks.reachable && outbox.send());
  on(tasks, "change", () => tasks.state === "signed-out" && left({ ended: true }));
  on(outbox, "change", () => outbox.state === "signed-out" && left({ ended: true }));

  try {
    await outbox.adopt(who);
    await outbox.read();
  } catch {
    board.failed(texts.noStorage);
  }
  outbox.send();
  await tasks.start();
  const how = await end;
  if (!how.ended) board.editing?.drop();
  stop.abort();
  tasks.stop();
  outbox.stop();
  await forget();
  return how;
}

// Returns who signs in, in this tab or in another one.
async function signedIn(how) {
  const stop = new AbortController();
  const elsewhere = new Promise((resolve) => {
    const listen = async ({ data }) => {
      const who = data.kind === "signed-in" && (await whose());
      if (who) resolve(who);
    };
    tabs.addEventListener("message", listen, { signal: stop.signal });
  });
  const here = account.signIn(place, how).then((who) => {
    tabs.postMessage({ kind: "signed-in" });
    return who;
  });
  const who = await Promise.race([here, elsewhere]);
  stop.abort();
  localStorage.setItem(KNOWN, JSON.stringify(who));
  return who;
}

async function start() {
  document.title = texts.title;
  document.body.replaceChildren(place, region);
  place.append(element("main", {}, progress));
  if ("serviceWorker" in navigator) {
    const policy = window.trustedTypes?.createPolicy("board", { createScriptURL: (url) => url }) ?? { createScriptURL: (url) => url };
    navigator.serviceWorker.register(policy.createScriptURL("/board/worker.js"), { scope: "/" }).catch(() => {});
  }
  let who = await whose();
  for (let how = {}, shown; ; ) {
    who ??= await signedIn(how);
    if (shown !== undefined && shown !== keyOf(who)) blank();
    shown = keyOf(who);
    how = await use(who);
    if (!how.ended) blank();
    who = how.ended ? await whose() : null; // somebody else may have signed in, in another tab
  }
}

start();
