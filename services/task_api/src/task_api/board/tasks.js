// The tasks: as the service has them, and with the changes over them that are on their way.
import { Problem, SignedOut, requestsOf } from "./api.js";
import { snapshot } from "./storage.js";
import { SILENCE_SECONDS, listen } from "./stream.js";

// Fields that a task lacks which an earlier version of the page has kept.
const LATER = { labels: [], recurrence: null, time_zone: null, reminders: [] };
const PAGE = 200;
const POLL_SECONDS = 4;
const LISTENING_SECONDS = 60; // between polls while the stream reports changes
const SNAPSHOT_MILLISECONDS = 2000;

// Moments as text are in order once all have the same digits.
const exact = (time) => (time.includes(".") ? time : time.replace("Z", ".000000Z"));
const kept = (task) => ({ ...LATER, ...task, updated_at: exact(task.updated_at), order: task.id });

export class Tasks extends EventTarget {
  constructor(account, announce) {
    super();
    this.account = account;
    this.announce = announce; // to other tabs
    this.receivedAt = -Infinity; // when the stream showed that it lives
    this.ending = new AbortController();
    this.request = requestsOf(account);
    this.server = new Map();
    this.since = null; // how far the feed of changes is read
    this.unseen = new Set(); // of an earlier feed, until the new one has named them
    this.shown = this.server;
    this.entries = [];
    this.state = "loading"; // ready, failed, signed-out
    this.reachable = true;
    this.applied = 0;
    this.names = new Map(); // of a new task's first id, the one the service chose
  }

  // Shows what this browser kept, then follows the service from there.
  async start() {
    try {
      const { since, tasks } = (await snapshot.get(this.account)) ?? { tasks: [] };
      tasks.forEach((task) => this.server.set(task.id, kept(task)));
      this.since = since;
      if (tasks.length) this.become("ready");
    } catch {
      // nothing is kept here
    }
    await this.poll();
    const report = (stream) => {
      this.observe(stream);
      this.announce({ kind: "stream", stream });
    };
    listen(this.account, () => this.since, {
      signal: this.ending.signal,
      received: (news) => report({ lives: true, news }),
      ended: () => report({ lives: false, news: true }),
    });
  }

  // Takes what the stream shows, which this tab or another one reads.
  observe({ lives, news }) {
    this.receivedAt = lives ? Date.now() : -Infinity;
    if (news) this.poll();
  }

  become(state) {
    this.state = state;
    this.update();
  }

  failed(error) {
    if (error instanceof SignedOut || (error instanceof Problem && error.status === 401)) {
      this.become("signed-out");
    } else {
      this.reached(false);
      if (this.state === "loading") this.become("failed");
      if (error instanceof Problem) console.error(error);
    }
  }

  reached(reachable) {
    if (this.reachable === reachable) return;
    this.reachable = reachable;
    this.dispatchEvent(new Event("reach"));
  }

  stop() {
    clearTimeout(this.timer);
    this.stopped = true;
    this.ending.abort();
  }

  // Reads on in the feed of changes, now and every few seconds, less often while the stream lives.
  async poll() {
    this.again = this.polling;
    if (this.polling || this.stopped) return;
    clearTimeout(this.timer);
    this.polling = true;
    try {
      if (!document.hidden || this.state === "loading") await this.follow();
    } catch (error) {
      this.failed(error);
    }
    this.polling = false;
    if (this.state === "signed-out" || this.stopped) return;
    const listening = this.reachable && Date.now() - this.receivedAt < SILENCE_SECONDS * 1000;
    const seconds = this.again ? 0 : listening ? LISTENING_SECONDS : POLL_SECONDS;
    this.timer = setTimeout(() => this.poll(), seconds * 1000);
  }

  async follow() {
    for (let more = true; more && !this.stopped; ) {
      const { applied } = this;
      const { content, expired } = await this.page();
      this.reached(true);
      if (expired) {
        this.since = null;
        this.unseen = new Set(this.server.keys());
        continue;
      }
      if (applied !== this.applied) continue; // the page may be older than what we know: it is read again
      content.changes.forEach((change) => this.take(change));
      this.since = content.next;
      more = content.more;
      const forgotten = !more && this.forgetUnseen();
      if (content.changes.length || forgotten || this.state !== "ready") this.become("ready");
    }
  }

  async page() {
    const since = this.since ? `&since=${encodeURIComponent(this.since)}` : "";
    try {
      return await this.request("GET", `/tasks/changes?limit=${PAGE}${since}`);
    } catch (error) {
      if (this.since && error instanceof Problem && [400, 410].includes(error.status)) return { expired: true };
      throw error;
    }
  }

  take({ id, task }) {
    this.unseen.delete(id);
    if (task) this.server.set(id, kept(task));
    else this.server.delete(id);
  }

  // Returns whether there was any.
  forgetUnseen() {
    const { size } = this.unseen;
    for (const id of this.unseen) this.server.delete(id);
    this.unseen.clear();
    return size > 0;
  }

  // Takes the results of a change, but for what has been changed again since.
  apply(results) {
    for (const { id, task, version } of results) {
      if (!task) this.server.delete(id);
      else if (!(this.server.get(task.id)?.updated_at > exact(task.updated_at))) this.server.set(task.id, kept({ ...task, version }));
    }
    this.applied++;
    this.update();
  }

  renamed(made) {
    for (const [id, task] of made) this.names.set(id, task.id ?? task);
    if (made.size) this.dispatchEvent(Object.assign(new Event("renamed"), { made }));
  }

  name(id) {
    return this.names.get(id) ?? id;
  }

  overlay(entries) {
    this.entries = entries;
    this.update();
  }

  update() {
    if (this.entries.length) {
      this.shown = new Map(this.server);
      this.entries.forEach((entry) => entry.operations.forEach((operation) => this.show(entry, operation)));
    } else {
      this.shown = this.server;
    }
    this.dispatchEvent(new Event("change"));
    this.saving ??= setTimeout(() => {
      this.saving = null;
      const state = { since: this.since, tasks: [...this.server.values()] };
      if (!this.stopped && !this.unseen.size) snapshot.put(this.account, state).catch(() => {});
    }, SNAPSHOT_MILLISECONDS);
  }

  show(entry, { op, id, task, changes, base }) {
    const mark = { entry: entry.number, mark: entry.trouble ? entry.trouble.kind : "waiting" };
    const at = new Date(entry.at).toISOString();
    if (op === "create" && this.names.has(id)) return; // the service has it already
    const held = this.shown.get(id);
    if (op === "create") {
      this.shown.set(id, { ...LATER, ...task, id, created_at: at, updated_at: at, order: 2 ** 53 + entry.number, ...mark });
    } else if (op === "delete") {
      if (!entry.trouble) this.shown.delete(id);
      else if (held) this.shown.set(id, { ...held, ...mark });
    } else if (held || op === "restore" || entry.trouble) {
      this.shown.set(id, { ...LATER, created_at: at, updated_at: at, order: Number(id) || 0, ...base, ...held, id, ...changes, ...mark });
    }
  }
}
