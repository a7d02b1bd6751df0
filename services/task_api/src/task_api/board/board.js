// The board: three columns, what narrows them, and what can be done with the tasks in them.
import * as account from "./account.js";
import { requestsOf } from "./api.js";
import { Column, STATUSES } from "./columns.js";
import * as details from "./details.js";
import { choices, dialog, element, field, select } from "./elements.js";
import { DEFAULTS, fromAddress, matcher, narrowed, order, toAddress } from "./filters.js";
import * as labels from "./labels.js";
import { notify, readOut } from "./notices.js";
import { batches, fields } from "./outbox.js";
import * as troubles from "./troubles.js";
import { texts } from "./texts.js";

const READ_OUT_MILLISECONDS = 700;
const UNDO_SECONDS = 20;

export class Board {
  constructor(tasks, outbox, { account: who, signOut }) {
    this.tasks = tasks;
    this.outbox = outbox;
    this.who = who;
    this.signOut = signOut;
    this.selected = new Set();
    this.editing = null; // the task whose title is being edited, its column, and how to end that without a change
    this.filters = fromAddress(location.search);
    this.columns = STATUSES.map((status) => new Column(status, this));
    this.parts = [this.header(), element("main", {}, this.tools(), this.state(), this.bulk(), this.choice(), this.board())];
    tasks.addEventListener("change", () => this.update());
    outbox.addEventListener("change", () => this.connection());
    tasks.addEventListener("reach", () => this.connection());
    tasks.addEventListener("renamed", ({ made }) => this.rename(made));
  }

  header() {
    this.sign = element("p", { class: "sign" });
    return element(
      "header",
      {},
      element("h1", {}, texts.title),
      this.sign,
      element("button", { type: "button", class: "quiet wide", onclick: () => this.help() }, texts.help),
      this.who && element("button", { type: "button", class: "quiet", onclick: () => account.manage(this.who, { signOut: this.signOut, notify }) }, texts.account),
    );
  }

  tools() {
    this.title = element("input", { maxlength: 200, autocomplete: "off", enterkeyhint: "done" });
    const add = element(
      "form",
      { class: "add", onsubmit: (event) => {
        event.preventDefault();
        this.add();
      } },
      field(texts.newTask, this.title),
      element("button", { type: "submit", class: "primary" }, texts.add),
    );
    const { q, priority, due, sort } = this.filters;
    const narrow = (name) => ({ oninput: (event) => this.narrow({ [name]: event.target.value }) });
    this.controls = {
      q: element("input", { type: "search", value: q, autocomplete: "off", ...narrow("q") }),
      project: select([], "", narrow("project")),
      label: labels.chooser((label) => this.narrow({ label })),
      priority: select([["", texts.anyPriority], ...Object.entries(texts.priority).reverse()], priority, narrow("priority")),
      due: select([["", texts.anyDue], ...Object.entries(texts.due)], due, narrow("due")),
      sort: select(Object.entries(texts.sorts), sort, narrow("sort")),
    };
    this.clear = element("button", { type: "button", onclick: () => {
      Object.entries(DEFAULTS).forEach(([name, value]) => (this.controls[name].value = value));
      this.narrow(DEFAULTS);
      this.controls.q.focus();
    } }, texts.clearFilters);
    this.offered = {
      project: { names: [], parts: [field(texts.filterProject, this.controls.project)] },
      label: { names: [], parts: [this.controls.label.part, this.managing()] },
    };
    const more = element(
      "div",
      { class: "more", id: "filters" },
      this.offered.project.parts,
      this.offered.label.parts[0],
      field(texts.filterPriority, this.controls.priority),
      field(texts.filterDue, this.controls.due),
      field(texts.sort, this.controls.sort),
      this.offered.label.parts[1],
      this.clear,
    );
    const toggle = element("button", { type: "button", class: "toggle", "aria-expanded": "false", "aria-controls": "filters", onclick: () => {
      const open = more.classList.toggle("open");
      toggle.setAttribute("aria-expanded", open);
    } }, texts.filters);
    const search = element("search", { class: "search" }, field(texts.search, this.controls.q), toggle, more);
    return element("div", { class: "tools" }, add, search);
  }

  managing() {
    const changed = (name, to) => {
      const { label } = this.filters;
      if (label.includes(name)) this.narrow({ label: [...new Set(label.map((one) => (one === name ? to : one)).filter(Boolean))] });
      this.tasks.poll();
    };
    const manage = () => labels.manage(requestsOf(this.tasks.account), { sent: () => this.outbox.send(), changed });
    return element("button", { type: "button", class: "quiet", onclick: manage }, texts.editLabels);
  }

  // What is shown in place of tasks: loading, failed, none.
  state() {
    this.note = element("div", { class: "state", role: "status" });
    return this.note;
  }

  bulk() {
    this.amount = element("strong", {});
    const choose = (named, act) => {
      const made = select([["", texts.choose], ...Object.entries(named)], "", {
        onchange: () => {
          act(made.value);
          made.value = "";
        },
      });
      return made;
    };
    const button = (text, act, kind = "") => element("button", { type: "button", class: kind, onclick: act }, text);
    this.toolbar = element(
      "section",
      { class: "bulk", "aria-label": texts.bulk, hidden: true },
      this.amount,
      field(texts.moveSelected, choose(texts.status, (status) => this.move(this.chosen(), status))),
      field(texts.prioritySelected, choose(texts.priority, (priority) => this.changeAll(this.chosen(), () => ({ priority })))),
      this.labelling(),
      button(texts.remove, () => this.remove(this.chosen()), "danger"),
      button(texts.selectAll, () => this.selectAll()),
      button(texts.clearSelection, () => this.clearSelection()),
    );
    return this.toolbar;
  }

  // Adds a label to the tasks that are selected.
  labelling() {
    const { input, list, part } = labels.naming(texts.addLabel, "labels-known", []);
    this.suggested = list;
    return element(
      "form",
      { class: "naming", onsubmit: (event) => {
        event.preventDefault();
        const name = input.value.trim();
        if (!name) return;
        input.value = "";
        const tasks = this.chosen().filter((task) => !task.labels.includes(name));
        this.changeAll(tasks, (task) => ({ labels: labels.sorted([...task.labels, name]) }));
      } },
      part,
      element("button", { type: "submit", "aria-label": texts.addLabel }, texts.add),
    );
  }

  // On a phone one column is shown at a time.
  choice() {
    this.switches = this.columns.map((column) =>
      element("button", { type: "button", onclick: () => this.show(column.status) }),
    );
    return element("nav", { class: "choice", "aria-label": texts.columns }, ...this.switches);
  }

  board() {
    this.area = element("div", { class: "board", data: { shown: STATUSES[0] } }, ...this.columns.map(({ section }) => section));
    return this.area;
  }

  placed() {
    this.update();
    this.connection();
    const id = Number(new URLSearchParams(location.search).get("task"));
    if (id) this.wanted = id;
  }

  show(status) {
    this.area.dataset.shown = status;
    this.update();
  }

  update() {
    const matches = matcher(this.filters);
    const lists = Object.fromEntries(STATUSES.map((status) => [status, []]));
    const held = this.editing && this.now(this.editing.task);
    if (held) lists[this.editing.column.status].push(held);
    for (const task of this.tasks.shown.values()) if (task.id !== held?.id && matches(task)) lists[task.status].push(task);
    const compare = order(this.filters.sort);
    for (const id of this.selected) if (!this.tasks.shown.has(id)) this.selected.delete(id);
    const focused = this.columns.find(({ list }) => list.contains(document.activeElement));
    const id = document.activeElement.closest(".card")?.dataset.id;
    this.columns.forEach((column, index) => {
      column.set(lists[column.status].sort(compare));
      const { status } = column;
      this.switches[index].textContent = `${texts.status[status]} ${column.tasks.length}`;
      this.switches[index].setAttribute("aria-current", String(this.area.dataset.shown === status));
    });
    if (focused && document.activeElement === document.body) this.follow(id, focused);
    const count = this.columns.reduce((sum, { tasks }) => sum + tasks.length, 0);
    this.offer("project", (task) => task.project ?? []);
    this.offer("label", (task) => task.labels);
    this.clear.hidden = !narrowed(this.filters) && this.filters.sort === DEFAULTS.sort;
    this.toolbar.hidden = !this.selected.size;
    this.amount.textContent = texts.selected(this.selected.size);
    this.explain(count);
    if (this.wanted && this.tasks.shown.has(this.wanted)) {
      const task = this.tasks.shown.get(this.wanted);
      this.wanted = null;
      this.open(task);
    }
    return count;
  }

  // Keeps the focus where somebody else moved or deleted the task that had it: on the task, or on the next one.
  follow(id, column) {
    const at = (one) => one.tasks.findIndex((task) => String(task.id) === id);
    const other = this.columns.find((one) => at(one) >= 0 && getComputedStyle(one.section).display !== "none");
    if (other) other.focus(at(other));
    else if (!column.focus(column.current)) this.title.focus();
  }

  // Offers the projects or labels that there are.
  offer(kind, of) {
    const offered = this.offered[kind];
    const chosen = this.filters[kind];
    const used = new Set([chosen].flat().filter(Boolean));
    for (const task of this.tasks.shown.values()) [of(task)].flat().forEach((name) => used.add(name));
    const names = [...used].sort((a, b) => a.localeCompare(b));
    for (const part of offered.parts) part.hidden = !names.length;
    const control = this.controls[kind];
    const state = (list, values) => JSON.stringify([list, [values].flat().sort()]);
    if (state(offered.names, control.value) === state(names, chosen)) return;
    offered.names = names;
    if (kind === "project") {
      choices(control, [["", texts.anyProject], ...names.map((name) => [name, name])], chosen);
    } else {
      control.show(names, chosen);
      this.suggested.replaceChildren(...names.map((name) => element("option", { value: name })));
    }
  }

  explain(count) {
    const { state } = this.tasks;
    const none = !this.tasks.shown.size;
    const kind = none && state === "loading" ? "loading" : none && state === "failed" ? "failed" : count ? "" : none ? "empty" : "noMatch";
    this.area.setAttribute("aria-busy", String(kind === "loading"));
    this.area.hidden = kind !== "";
    if (this.explained === kind) return;
    this.explained = kind;
    this.note.hidden = !kind;
    const again = element("button", { type: "button", onclick: () => this.tasks.poll() }, texts.tryAgain);
    const contents = {
      loading: [element("p", {}, texts.loading)],
      failed: [element("p", { class: "big" }, texts.failed), element("p", {}, texts.unreachable), again],
      empty: [element("p", { class: "big" }, texts.empty), element("p", {}, texts.emptyHint)],
      noMatch: [element("p", { class: "big" }, texts.noMatch), element("p", {}, texts.noMatchHint)],
    };
    this.note.replaceChildren(...(contents[kind] ?? []));
  }

  // The small sign of how the connection is, and of what waits.
  connection() {
    const { waiting, keeping, troubled, state } = this.outbox;
    const due = waiting.length + keeping;
    const offline = state === "offline" || !this.tasks.reachable;
    const kind = troubled.length ? "trouble" : offline ? "offline" : due ? "saving" : "online";
    const text = {
      trouble: () => texts.trouble(troubled.length),
      offline: () => (due ? texts.offlineWaiting(due) : texts.offline),
      saving: () => texts.saving(due),
      online: () => texts.online,
    }[kind]();
    this.sign.dataset.kind = kind;
    if (this.sign.textContent !== text) {
      const act = element("button", { type: "button", class: "link", onclick: () => this.settleNext() }, text);
      this.sign.replaceChildren(kind === "trouble" ? act : text);
    }
    clearTimeout(this.readingOut);
    if (this.kind !== kind) {
      this.readingOut = setTimeout(() => {
        if (this.kind === kind || (kind === "saving" || (!this.kind && kind === "online"))) return;
        this.kind = kind;
        readOut(text, { alert: kind === "trouble" });
      }, READ_OUT_MILLISECONDS);
    }
  }

  failed(text) {
    notify(text, { alert: true });
  }

  narrow(changed) {
    Object.assign(this.filters, changed);
    history.replaceState(null, "", toAddress(this.filters));
    this.columns.forEach(({ scroller }) => (scroller.scrollTop = 0));
    const count = this.update();
    clearTimeout(this.counted);
    this.counted = setTimeout(() => readOut(texts.shown(count)), READ_OUT_MILLISECONDS);
  }

  // What people do.

  async add() {
    const title = this.title.value.trim();
    if (!title) {
      this.title.focus();
      return;
    }
    this.title.value = "";
    const { project, label } = this.filters;
    const task = { title, description: "", status: "pending", priority: "normal", due_at: null, project: project || null, labels: labels.sorted(label) };
    const kept = await this.keep([{ op: "create", id: `new-${Date.now()}-${Math.random().toString(36).slice(2)}`, task }]);
    if (kept) readOut(texts.added(title));
    else this.title.value ||= title;
  }

  async keep(operations) {
    try {
      return await this.outbox.add(operations);
    } catch (error) {
      console.error(error);
      this.failed(texts.noStorage);
      return null;
    }
  }

  // The task with this id now; it may have been new when the person began.
  now(task) {
    const id = this.tasks.name(task.id);
    return this.tasks.shown.get(id) ?? { ...task, id };
  }

  change(task, changes, base = fields(task)) {
    const { id } = this.now(task);
    readOut(texts.saved(changes.title ?? task.title));
    return this.keep([{ op: "update", id, changes, base }]);
  }

  shift(task, by) {
    const status = STATUSES[STATUSES.indexOf(task.status) + by];
    if (status) this.move([task], status, true);
  }

  async move(chosen, status, follow = false) {
    const moving = chosen.map((task) => this.now(task)).filter((task) => task.status !== status);
    if (!moving.length) return;
    await this.changeAll(moving, () => ({ status }), moving.length === 1 ? texts.moved(moving[0].title, texts.status[status]) : texts.movedMany(moving.length, texts.status[status]));
    if (!follow) return;
    const column = this.columns.find((one) => one.status === status);
    const index = column.tasks.findIndex(({ id }) => id === this.now(moving[0]).id);
    if (index >= 0) {
      if (this.area.dataset.shown !== status) this.show(status);
      column.focus(index);
    }
  }

  // Makes the changes that `changed` returns for each task.
  async changeAll(tasks, changed, text = texts.saved(texts.selected(tasks.length))) {
    const operations = tasks.map((task) => ({ op: "update", id: task.id, changes: changed(task), base: fields(task) }));
    for (const part of operations.length === 1 ? [operations] : batches(operations)) await this.keep(part);
    readOut(text);
  }

  async remove(chosen) {
    const tasks = chosen.map((task) => this.now(task));
    const focused = this.columns.find(({ section }) => section.contains(document.activeElement));
    this.clearSelection();
    const parts = batches(tasks.map((task) => ({ op: "delete", id: task.id, base: fields(task) })));
    const numbers = [];
    for (const part of parts) numbers.push(await this.keep(part));
    if (focused && !focused.focus(focused.current)) this.title.focus();
    notify(texts.deleted(tasks.length), {
      seconds: UNDO_SECONDS,
      undo: async () => {
        for (const [index, part] of parts.entries()) {
          if (await this.outbox.drop(numbers[index])) continue;
          await this.keep(part.map(({ id, base }) => ({ op: "restore", id: this.tasks.name(id), base })));
        }
        readOut(texts.undone);
      },
    });
  }

  open(task) {
    const address = new URLSearchParams(toAddress(this.filters).slice(1));
    if (Number.isInteger(task.id)) address.set("task", task.id);
    history.replaceState(null, "", `?${address}`);
    details.open(task, {
      who: this.who,
      projects: this.offered.project.names,
      labels: this.offered.label.names,
      save: (changes) => this.change(task, changes),
      remove: () => this.remove([task]),
      closed: () => history.replaceState(null, "", toAddress(this.filters)),
    });
  }

  settleNext() {
    const [entry] = this.outbox.troubled;
    if (entry) troubles.open(entry, (operations) => this.outbox.settle(entry.number, operations));
  }

  dropped(id, status) {
    this.columns.forEach(({ section }) => section.classList.remove("target"));
    const task = [...this.tasks.shown.values()].find((one) => String(one.id) === id);
    if (task) this.move(this.selected.has(task.id) ? this.chosen() : [task], status);
  }

  // Selection.

  chosen() {
    return [...this.selected].map((id) => this.tasks.shown.get(id)).filter(Boolean);
  }

  select(id, on) {
    if (on) this.selected.add(id);
    else this.selected.delete(id);
    this.update();
    readOut(texts.selected(this.selected.size));
  }

  selectAll() {
    this.columns.forEach(({ tasks }) => tasks.forEach(({ id }) => this.selected.add(id)));
    this.update();
    readOut(texts.selected(this.selected.size));
  }

  clearSelection() {
    const inside = this.toolbar.contains(document.activeElement);
    this.selected.clear();
    this.update();
    if (inside) this.title.focus();
  }

  rename(made) {
    for (const [id, task] of made) if (this.selected.delete(id)) this.selected.add(task.id ?? task);
  }

  // The keyboard, where a card has the focus.

  pressed(event, column, task) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const aside = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const index = { ArrowUp: column.current - 1, ArrowDown: column.current + 1, Home: 0, End: Infinity }[event.key];
    if (aside && event.shiftKey) this.shift(task, aside);
    else if (aside) this.beside(column, aside);
    else if (index !== undefined) column.focus(index);
    else if (event.key === "Delete") this.remove(this.selected.size ? this.chosen() : [task]);
    else return;
    event.preventDefault();
  }

  beside(column, by) {
    for (let at = this.columns.indexOf(column) + by; this.columns[at]; at += by) {
      const other = this.columns[at];
      if (!other.tasks.length) continue;
      if (getComputedStyle(other.section).display === "none") this.show(other.status);
      other.focus(column.current);
      return;
    }
  }

  help() {
    const close = element("button", { type: "button", class: "primary", onclick: () => made.close() }, texts.close);
    const made = dialog(
      texts.help,
      element("dl", { class: "facts" }, ...texts.keys.flatMap(([keys, what]) => [element("dt", {}, element("kbd", {}, keys)), element("dd", {}, what)])),
      element("p", {}, element("a", { href: "/docs" }, texts.api)),
      element("div", { class: "actions" }, close),
    );
  }
}
