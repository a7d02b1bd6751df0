// One column of the board. Only the cards that can be seen, and the one that has the focus, are in the page.
import { element } from "./elements.js";
import { overdue } from "./filters.js";
import { brief, described, reminding } from "./schedule.js";
import { moment, number, texts } from "./texts.js";

export const STATUSES = ["pending", "in_progress", "completed"];
const CARD_REM = 6.5;
const MORE = 4;

export class Column {
  constructor(status, board) {
    this.status = status;
    this.board = board;
    this.tasks = [];
    this.cards = new Map();
    this.current = 0;
    this.count = element("span", { class: "count" });
    this.list = element("ol", { class: "cards", role: "list" });
    this.note = element("p", { class: "note" }, texts.emptyColumn);
    this.scroller = element("div", { class: "scroller" }, this.list, this.note);
    this.heading = element("h2", { id: `column-${status}` }, texts.status[status], " ", this.count);
    this.section = element(
      "section",
      { class: "column", "aria-labelledby": this.heading.id, data: { status } },
      this.heading,
      this.scroller,
    );
    this.scroller.addEventListener("scroll", () => this.render(), { passive: true });
    this.list.addEventListener("focusin", (event) => this.focused(event));
    new ResizeObserver(() => this.render()).observe(this.scroller);
    for (const kind of ["dragover", "dragleave", "drop"]) this.section.addEventListener(kind, (event) => this.dragged(event));
  }

  set(tasks) {
    const id = this.tasks[this.current]?.id;
    this.tasks = tasks;
    const at = tasks.findIndex((task) => task.id === id || task.id === this.board.tasks.name(id));
    this.current = Math.max(0, Math.min(at < 0 ? this.current : at, tasks.length - 1));
    this.count.textContent = number(tasks.length);
    this.note.hidden = tasks.length > 0;
    this.list.hidden = tasks.length === 0;
    this.render();
  }

  get height() {
    return CARD_REM * parseFloat(getComputedStyle(document.documentElement).fontSize);
  }

  render() {
    const height = this.height;
    const { scrollTop, clientHeight } = this.scroller;
    this.list.style.height = `${this.tasks.length * height}px`;
    const first = Math.max(0, Math.floor(scrollTop / height) - MORE);
    const last = Math.min(this.tasks.length - 1, Math.ceil((scrollTop + clientHeight) / height) + MORE);
    const wanted = [];
    for (let index = first; index <= last; index++) wanted.push(index);
    if (this.tasks.length && (this.current < first || this.current > last)) wanted.push(this.current);
    wanted.sort((a, b) => a - b);
    const focus = document.activeElement;
    const kept = new Set();
    let previous = null;
    for (const index of wanted) {
      const task = this.tasks[index];
      const card = this.card(task);
      kept.add(task.id);
      card.update(task, index, this.tasks.length, index === this.current, height);
      const place = previous ? previous.nextSibling : this.list.firstChild;
      if (card.input) this.pass(place, card.item);
      else if (card.item !== place) this.list.insertBefore(card.item, place);
      previous = card.item;
    }
    for (const [id, card] of this.cards) {
      if (kept.has(id)) continue;
      card.item.remove();
      this.cards.delete(id);
    }
    if (focus !== document.activeElement && focus?.isConnected && this.list.contains(focus)) focus.focus({ preventScroll: true });
  }

  // Moves what is between two places behind all others: a field that were moved itself would lose the focus.
  pass(place, item) {
    while (place !== item) {
      const next = place.nextSibling;
      this.list.append(place);
      place = next;
    }
  }

  // The card of a task, also where the task has got its id from the service meanwhile.
  card(task) {
    for (const [id, card] of this.cards) {
      if (id !== task.id && this.board.tasks.name(id) === task.id) {
        this.cards.get(task.id)?.item.remove();
        this.cards.delete(id);
        this.cards.set(task.id, card);
      }
    }
    if (!this.cards.has(task.id)) this.cards.set(task.id, new Card(this));
    return this.cards.get(task.id);
  }

  focused(event) {
    const item = event.target.closest("li");
    const index = Number(item.dataset.index);
    if (index === this.current) return;
    this.current = index;
    this.render();
  }

  // Puts the focus on a card, and the card into view.
  focus(index) {
    if (!this.tasks.length) return false;
    this.current = Math.max(0, Math.min(index, this.tasks.length - 1));
    const height = this.height;
    const top = this.current * height;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + height > scrollTop + clientHeight) this.scroller.scrollTop = top + height - clientHeight;
    this.render();
    this.cards.get(this.tasks[this.current].id).title.focus({ preventScroll: true });
    return true;
  }

  dragged(event) {
    if (!event.dataTransfer.types.includes("text/task")) return;
    event.preventDefault();
    const inside = event.type === "dragleave" && this.section.contains(event.relatedTarget);
    this.section.classList.toggle("target", event.type === "dragover" || inside);
    if (event.type === "drop") this.board.dropped(event.dataTransfer.getData("text/task"), this.status);
  }
}

class Card {
  constructor(column) {
    const { board } = column;
    this.column = column;
    this.box = element("input", { type: "checkbox", onchange: () => board.select(this.task.id, this.box.checked) });
    this.title = element("button", { type: "button", class: "title", onclick: () => this.edit() });
    this.meta = element("span", { class: "meta" });
    this.back = element("button", { type: "button", class: "quiet", onclick: () => board.shift(this.task, -1) }, "←");
    this.forth = element("button", { type: "button", class: "quiet", onclick: () => board.shift(this.task, 1) }, "→");
    this.more = element("button", { type: "button", class: "quiet", onclick: () => board.open(this.task) }, "⋯");
    this.item = element(
      "li",
      { class: "card", draggable: "true" },
      element("label", { class: "box" }, this.box),
      this.title,
      element("div", { class: "row" }, this.meta, this.back, this.forth, this.more),
    );
    this.item.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData("text/task", String(this.task.id));
      event.dataTransfer.effectAllowed = "move";
    });
    this.item.addEventListener("keydown", (event) => board.pressed(event, column, this.task));
  }

  update(task, index, count, current, height) {
    const { item, box, title, back, forth, more } = this;
    item.style.transform = `translateY(${index * height}px)`;
    item.dataset.index = index;
    item.setAttribute("aria-setsize", count);
    item.setAttribute("aria-posinset", index + 1);
    const selected = this.column.board.selected.has(task.id);
    box.checked = selected;
    for (const one of [box, title, back, forth, more]) one.tabIndex = current ? 0 : -1;
    const shown = JSON.stringify([task, overdue(task), selected]);
    if (this.shown === shown) return;
    this.shown = shown;
    this.task = task;
    item.classList.toggle("selected", selected);
    item.dataset.id = task.id;
    item.dataset.priority = task.priority;
    item.dataset.mark = task.mark ?? "";
    title.textContent = task.title;
    title.setAttribute("aria-label", task.title);
    title.title = task.title;
    box.setAttribute("aria-label", texts.selectTask(task.title));
    more.setAttribute("aria-label", texts.details(task.title));
    const at = STATUSES.indexOf(task.status);
    for (const [button, status] of [[back, STATUSES[at - 1]], [forth, STATUSES[at + 1]]]) {
      button.disabled = !status;
      button.setAttribute("aria-label", texts.moveTo(task.title, texts.status[status] ?? ""));
    }
    this.meta.replaceChildren(...this.facts(task));
  }

  facts(task) {
    const due = task.due_at && (overdue(task) ? texts.overdue(moment(task.due_at)) : texts.dueOn(moment(task.due_at)));
    const mark = { waiting: texts.waiting, refused: texts.refusedMark }[task.mark] ?? texts.conflictMark;
    return [
      task.priority !== "normal" && element("span", { class: `fact ${task.priority}` }, texts.priority[task.priority]),
      task.project && element("span", { class: "fact" }, task.project),
      due && element("span", { class: overdue(task) ? "fact late" : "fact" }, due),
      task.recurrence && element("span", { class: "fact recurring", title: texts.repeats(described(task.recurrence)) }, `↻ ${brief(task.recurrence)}`),
      task.reminders.length && element("span", { class: "fact", title: texts.reminds(task.reminders.map(reminding)) }, `⏰ ${number(task.reminders.length)}`),
      task.labels.length && element("span", { class: "fact labelled", title: task.labels.join(", ") }, task.labels.join(", ")),
      task.mark && element("span", { class: "fact mark" }, mark),
    ].filter(Boolean);
  }

  // Edits the title in its place: Enter and leaving save, Escape does not. The card stays where it is meanwhile, whatever
  // others do to the task.
  edit() {
    if (this.input) return;
    const { task, column: { board } } = this;
    const end = (save, focus) => {
      if (!this.input) return;
      const value = this.input.value.trim();
      const input = this.input;
      this.input = null;
      input.replaceWith(this.title);
      if (focus) this.title.focus();
      board.editing = null;
      if (save && value && value !== shown) board.change(task, { title: value });
      board.update();
    };
    this.input = element("input", {
      class: "title",
      maxlength: 200,
      value: task.title,
      "aria-label": texts.rename(task.title),
      onkeydown: (event) => {
        event.stopPropagation();
        if (event.isComposing) return;
        if (event.key === "Enter" || event.key === "Escape") {
          event.preventDefault();
          end(event.key === "Enter", true);
        }
      },
      onblur: () => end(true, false),
    });
    const shown = this.input.value.trim(); // a title may have line breaks, which it cannot show
    this.item.draggable = false;
    this.title.replaceWith(this.input);
    this.item.draggable = true;
    board.editing = { task, column: this.column, drop: () => end(false, false) };
    this.input.focus();
    this.input.select();
  }
}
