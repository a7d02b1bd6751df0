// Changes on their way to the service. Each is kept in this browser first, then sent with a key under which the service
// does it once, and forgotten when the service has confirmed it. Changes of one task are sent in the order they were made.
import { Problem, SignedOut, Unreachable, alone, requestsOf } from "./api.js";
import { sorted } from "./labels.js";
import { changes } from "./storage.js";

export const FIELDS = ["title", "description", "status", "priority", "due_at", "project", "labels", "recurrence", "time_zone", "reminders"];
const AT_ONCE = 6;
const MOST_OPERATIONS = 500;
const LONGEST_WAIT = 30;
const KEY_HOURS = 23; // the service remembers a key for 24

const uuid = () => crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const versionOf = (headers) => Number(headers.get("ETag").replaceAll('"', ""));
export const fields = (task) => Object.fromEntries(FIELDS.map((name) => [name, task[name]]));
const instant = ({ at, before }) => (at ? Date.parse(at) : before); // whatever digits a moment is written with
const plain = (name, value) =>
  name === "reminders" ? JSON.stringify((value ?? []).map(instant)) : name === "labels" ? JSON.stringify(sorted(value ?? [])) : name === "due_at" && value ? Date.parse(value) : value ?? null;
const same = (name, a, b) => plain(name, a) === plain(name, b);
export const differing = (a, b) => FIELDS.filter((name) => !same(name, a[name], b[name]));

// Fields that two people changed to different values since `base`.
export const conflicts = ({ base, changes: mine }, theirs) =>
  Object.keys(mine).filter((name) => !same(name, theirs[name], base[name]) && !same(name, theirs[name], mine[name]));

export class Outbox extends EventTarget {
  constructor(account, tasks, announce) {
    super();
    this.account = account;
    this.request = requestsOf(account);
    this.tasks = tasks;
    this.announce = announce; // to other tabs
    this.entries = [];
    this.keeping = 0;
    this.settling = new Set(); // numbers of changes that a person has decided on
    this.state = "online"; // offline, signed-out
    this.pause = 0;
  }

  get mine() {
    return this.entries.filter((entry) => entry.account === this.account);
  }

  get waiting() {
    return this.mine.filter((entry) => !entry.trouble);
  }

  get troubled() {
    return this.mine.filter(({ trouble, number }) => trouble && !this.settling.has(number));
  }

  // Takes over what an earlier version of the page kept under the account's id alone. What is older than the account was
  // another's, who had that id in a database that has been replaced.
  async adopt({ id, created_at: created }) {
    const old = ({ account, at }) => account === String(id) && account !== this.account && at >= Date.parse(created);
    await changes.edit((all) => ({ put: all.filter(old).map((entry) => ({ ...entry, account: this.account })) }));
  }

  // Reads what any tab has put there.
  async read() {
    this.entries = await changes.all();
    this.tasks.overlay(this.mine);
    this.dispatchEvent(new Event("change"));
  }

  async changed() {
    await this.read();
    this.announce({ kind: "outbox" });
  }

  // Keeps a change, then sends it. Returns its number. A change of what has not been sent yet joins it.
  async add(operations) {
    const [first] = operations;
    const entry = { account: this.account, key: uuid(), at: Date.now(), operations };
    const number = await this.kept((all) => {
      const open = all.findLast((one) => one.account === this.account && one.operations.some(({ id }) => id === first.id));
      const target = open?.operations.find(({ id }) => id === first.id);
      const joins = operations.length === 1 && first.op === "update" && open && !open.sent && !open.trouble;
      if (joins && ["create", "update"].includes(target.op)) {
        // a new object: several operations may share the one that is replaced
        const part = target.op === "create" ? "task" : "changes";
        target[part] = { ...target[part], ...first.changes };
        return { put: [open], result: open.number };
      }
      return { add: [entry] };
    });
    this.send();
    return number ?? this.entries.find(({ key }) => key === entry.key)?.number;
  }

  // Edits what is kept, and reads it again.
  async edit(edit) {
    const result = await changes.edit(edit);
    await this.changed();
    return result;
  }

  // As `edit`, for a change that counts as waiting meanwhile too.
  async kept(edit) {
    this.keeping += 1;
    this.dispatchEvent(new Event("change"));
    try {
      return await this.edit(edit);
    } finally {
      this.keeping -= 1;
      this.dispatchEvent(new Event("change"));
    }
  }

  // Takes back a change that was not sent yet; returns whether it was one.
  async drop(number) {
    return this.edit((all) => {
      const entry = all.find((one) => one.number === number && !one.sent);
      return entry ? { remove: [number], result: true } : { result: false };
    });
  }

  // Puts what a person decided in the place of a change that is in trouble; without operations it is dropped.
  async settle(number, operations) {
    this.settling.add(number);
    try {
      await this.kept((all) => {
        const entry = all.find((one) => one.number === number);
        if (!entry) return {};
        return operations
          ? { put: [{ ...fresh(entry), operations }] }
          : { remove: [number] };
      });
    } finally {
      this.settling.delete(number);
      this.dispatchEvent(new Event("change"));
    }
    this.send();
  }

  // Forgets all changes of the account, also one that is on its way.
  async clear() {
    await this.edit((all) => ({ remove: all.filter(({ account }) => account === this.account).map(({ number }) => number) }));
  }

  // Sends nothing any more: another account may use the page from now on.
  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  // Sends everything that may be sent, one tab at a time; again later where the service cannot be reached.
  async send() {
    if (this.stopped) return;
    if (this.sending) {
      this.again = true;
      return;
    }
    this.sending = true;
    clearTimeout(this.timer);
    try {
      do {
        this.again = false;
        await alone("outbox", () => this.drain());
      } while (this.again);
      this.pause = 0;
      this.become("online");
    } catch (error) {
      if (error instanceof SignedOut) {
        this.become("signed-out");
      } else {
        if (!(error instanceof Unreachable)) console.error(error);
        this.pause = Math.max(Math.min(Math.max(this.pause * 2, 1), LONGEST_WAIT), error.seconds ?? 0);
        this.become("offline");
      }
    } finally {
      this.sending = false;
    }
    if (this.state === "offline" && !this.stopped) this.timer = setTimeout(() => this.send(), this.pause * 1000);
  }

  become(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }

  async drain() {
    while (!this.stopped) {
      await this.read();
      const blocked = new Set();
      const entry = this.mine.find((one) => {
        const ids = one.operations.map(({ id }) => id);
        const free = !one.trouble && !ids.some((id) => blocked.has(id));
        if (!free) ids.forEach((id) => blocked.add(id));
        return free;
      });
      if (!entry) return;
      await this.deliver(entry);
    }
  }

  async deliver(entry) {
    if (entry.operations[0].op === "restore") {
      await this.restore(entry);
      return;
    }
    if (!entry.sent) {
      const prepared = await this.prepare(entry);
      if (!prepared.body) return;
      // from here on the same bytes go out under this key, however often
      const kept = await changes.edit((all) => {
        const one = all.find(({ number }) => number === entry.number);
        if (!one || JSON.stringify(one.operations) !== JSON.stringify(entry.operations)) return { result: null };
        const sent = { ...one, sent: prepared.body, sentAt: Date.now() };
        return { put: [sent], result: sent };
      });
      if (!kept) return; // undone, or changed once more: begin anew
      entry = kept;
    } else if (Date.now() - entry.sentAt > KEY_HOURS * 3_600_000 && this.twin(entry)) {
      await this.finish(entry, []);
      return;
    }
    try {
      const { content } = await this.request("POST", "/tasks/bulk", { body: entry.sent, key: entry.key });
      await this.finish(entry, content.results);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      await this.refused(entry, error);
    }
  }

  // Restores tasks that were deleted. One that is there stays as it is, so this may be sent again.
  async restore(entry) {
    const results = [];
    try {
      await several(entry.operations, async ({ id }) => {
        const { content, headers } = await this.request("POST", `/tasks/${id}/restore`);
        results.push({ id, task: content, version: versionOf(headers) });
      });
    } catch (error) {
      if (!(error instanceof Problem)) {
        await this.restored(entry, results);
        throw error;
      }
      if (entry.operations.length > 1) return this.split(entry);
      const trouble = error.status === 404 ? { kind: "lost" } : { kind: "refused", problem: error.body };
      return this.replace(entry, { ...fresh(entry), trouble });
    }
    const [{ id, base, changes }] = entry.operations;
    if (!changes) return this.finish(entry, results);
    this.tasks.apply(results);
    return this.replace(entry, { ...fresh(entry), operations: [{ op: "update", id, base, changes }] });
  }

  // Keeps what is left to restore: a limit of the service on requests may be lower than the number of all.
  async restored(entry, results) {
    const done = new Set(results.map(({ id }) => id));
    const operations = entry.operations.filter(({ id }) => !done.has(id));
    if (!done.size || !operations.length) return;
    this.tasks.apply(results);
    await this.replace(entry, { ...entry, operations });
  }

  // A task that an old request has made already, although its response was lost.
  twin(entry) {
    const [{ op, task }] = entry.operations;
    const near = (made) => Math.abs(Date.parse(made.created_at) - entry.sentAt) < 600_000;
    return op === "create" && [...this.tasks.server.values()].some((made) => near(made) && !differing(made, task).length);
  }

  async refused(entry, problem) {
    if (problem.status === 409) throw new Unreachable(1); // the first request with this key is still in flight
    const moved = problem.status === 412 || problem.status === 404;
    if (moved && entry.operations.length > 1) return this.split(entry);
    if (moved) return this.replace(entry, fresh(entry));
    if (entry.operations.length > 1) return this.split(entry);
    return this.replace(entry, { ...fresh(entry), trouble: { kind: "refused", problem: problem.body } });
  }

  async replace(entry, by) {
    await this.edit((all) => (all.some(({ number }) => number === entry.number) ? { put: [by] } : {}));
  }

  // Sends each operation as a change of its own: in one transaction, one that fails stops all others. Their numbers are
  // between that of the change and the next one: changes of one task stay in order.
  async split(entry) {
    const { number, sent, sentAt, ...rest } = entry;
    const step = 1 / (entry.operations.length + 1);
    const put = entry.operations.map((operation, index) => ({
      ...rest,
      number: number + (index + 1) * step,
      key: uuid(),
      operations: [operation],
    }));
    await this.edit((all) => (all.some((one) => one.number === number) ? { remove: [number], put } : {}));
  }

  // Returns { body } to send; no body where the change had to be divided, is done already, or needs a person.
  async prepare(entry) {
    const operations = [];
    const current = await this.current(entry.operations);
    for (const operation of entry.operations) {
      if (operation.op === "create") {
        operations.push({ op: "create", task: operation.task });
        continue;
      }
      const { task: theirs, version } = current.get(operation.id);
      const trouble = this.trouble(operation, theirs);
      if (trouble && entry.operations.length > 1) {
        await this.split(entry);
        return {};
      }
      if (trouble) {
        await this.replace(entry, { ...fresh(entry), trouble });
        return {};
      }
      if (!theirs) continue; // deleted, as it should be
      if (operation.op === "delete") operations.push({ op: "delete", id: operation.id, version });
      else if (Object.keys(operation.changes).some((name) => !same(name, operation.changes[name], theirs[name]))) {
        operations.push({ op: "update", id: operation.id, version, changes: operation.changes });
      }
    }
    if (!operations.length) {
      const results = entry.operations.map(({ id }) => ({ id, ...current.get(id) }));
      await this.finish(entry, results);
      return {};
    }
    return { body: JSON.stringify({ operations }) };
  }

  trouble(operation, theirs) {
    if (operation.op === "delete") {
      return theirs && differing(operation.base, theirs).length ? { kind: "deleted", theirs } : null;
    }
    if (!theirs) return { kind: "gone" };
    return conflicts(operation, theirs).length ? { kind: "conflict", theirs } : null;
  }

  // Returns tasks as they are now, with their versions; null for those that are gone. Of many, those that the feed has
  // brought are taken as it did: the service refuses a version that is not the task's any more, and they are sent singly.
  async current(operations) {
    const current = new Map();
    await several(operations.filter(({ op }) => op !== "create"), async ({ id }) => {
      const known = operations.length > 1 && this.tasks.server.get(id);
      if (known?.version) {
        current.set(id, { task: known, version: known.version });
        return;
      }
      try {
        const { content, headers } = await this.request("GET", `/tasks/${id}`);
        current.set(id, { task: content, version: versionOf(headers) });
      } catch (error) {
        if (!(error instanceof Problem && error.status === 404)) throw error;
        current.set(id, { task: null });
      }
    });
    return current;
  }

  // Forgets a change that the service has confirmed. What came after it builds on its result.
  async finish(entry, results) {
    const made = new Map();
    results.forEach((result, index) => {
      const operation = entry.operations[index];
      if (operation?.op === "create" && result.task) made.set(operation.id, result.task);
    });
    await changes.edit((all) => ({
      remove: [entry.number],
      put: all
        .filter((one) => one.number !== entry.number && one.operations.some(({ id }) => made.has(id)))
        .map((one) => ({
          ...one,
          operations: one.operations.map((operation) => {
            const task = made.get(operation.id);
            return task ? { ...operation, id: task.id, base: fields(task) } : operation;
          }),
        })),
    }));
    this.tasks.renamed(made);
    this.tasks.apply(results);
    this.announce({ kind: "tasks", results, made: [...made].map(([id, task]) => [id, task.id]) });
    await this.changed();
  }
}

// The change as one that was never sent.
function fresh({ sent, sentAt, trouble, ...rest }) {
  return { ...rest, key: uuid() };
}

// Does the same for each, a few at once; nothing more after a failure.
async function several(all, work) {
  const left = [...all];
  const next = async () => {
    try {
      while (left.length) await work(left.pop());
    } finally {
      left.length = 0;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
}

export function batches(operations) {
  const parts = [];
  for (let at = 0; at < operations.length; at += MOST_OPERATIONS) parts.push(operations.slice(at, at + MOST_OPERATIONS));
  return parts;
}
