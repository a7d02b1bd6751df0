// The dialog with everything about one task.
import { describe, request } from "./api.js";
import { dialog, element, field, select } from "./elements.js";
import * as labelled from "./labels.js";
import { FIELDS, differing, fields } from "./outbox.js";
import * as schedule from "./schedule.js";
import { moment, texts } from "./texts.js";

export const options = (named) => Object.entries(named);

// A moment as an input of the type datetime-local has it, in the person's time zone.
function local(time) {
  if (!time) return "";
  const at = new Date(time);
  return new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

const PARSE = {
  title: (text) => text.trim(),
  due_at: (text) => (text ? new Date(text).toISOString() : null),
  project: (text) => text.trim() || null,
  labels: JSON.parse,
  reminders: JSON.parse,
  recurrence: (text) => text || null,
  time_zone: (text) => text.trim() || null,
};

// Returns controls for a task's fields, and functions that read and write them. A control cannot show every value: no
// line break in a title, no second, no last day of the year 9999. One that nobody changed keeps its value.
export function controls(task, projects = [], known = []) {
  const title = element("input", { maxlength: 200, required: true, autocomplete: "off" });
  const description = element("textarea", { maxlength: 10000, rows: 6 });
  const status = select(options(texts.status), task.status);
  const priority = select(options(texts.priority), task.priority);
  const due = element("input", { type: "datetime-local", max: "9999-12-30T00:00" });
  const suggested = element("datalist", { id: "projects" }, ...projects.map((name) => element("option", { value: name })));
  const project = element("input", { maxlength: 100, autocomplete: "off", list: suggested.id });
  const labels = labelled.control(known);
  const recurrence = schedule.control();
  const reminders = schedule.reminders();
  const zone = element("input", { maxlength: 64, autocomplete: "off" });
  const parts = {
    title: field(texts.fields.title, title),
    description: field(texts.fields.description, description),
    status: field(texts.fields.status, status),
    priority: field(texts.fields.priority, priority),
    due_at: field(texts.fields.due_at, due),
    project: element("div", {}, field(texts.fields.project, project), suggested),
    labels: labels.part,
    recurrence: recurrence.part,
    time_zone: field(texts.fields.time_zone, zone),
    reminders: reminders.part,
  };
  const all = { title, description, status, priority, due_at: due, project, labels, recurrence, time_zone: zone, reminders };
  const written = {};
  const write = (name, value) => {
    all[name].value = name === "due_at" ? local(value) : value ?? "";
    written[name] = { value, shown: all[name].value };
  };
  // Only a rule needs a time zone: a new one gets the person's.
  recurrence.part.addEventListener("change", () => {
    parts.time_zone.hidden = !recurrence.value;
    const before = written.recurrence.value !== null || written.time_zone.value !== null;
    zone.value = before ? zone.value : recurrence.value && (zone.value || schedule.here());
  });
  FIELDS.forEach((name) => write(name, task[name]));
  const value = (name) => {
    const text = all[name].value;
    if (text === written[name].shown) return written[name].value;
    return name in PARSE ? PARSE[name](text) : text;
  };
  const read = () => Object.fromEntries(FIELDS.map((name) => [name, value(name)]));
  // Returns what is wrong with the controls, and puts the focus there; nothing where they can be read.
  const problem = () => {
    const late = due.value !== written.due_at.shown && due.validity.rangeOverflow;
    const many = JSON.parse(labels.value).length > labelled.MOST;
    const remind = JSON.parse(reminders.value);
    const unremindable = !due.value && remind.some(({ before }) => before);
    const undue = recurrence.value !== "" && !due.value;
    const unruled = recurrence.wrong;
    const unzoned = recurrence.value !== "" && zone.value !== written.time_zone.shown && zone.value.trim() && !schedule.known(zone.value.trim());
    const [wrong = null, text = null] = [
      !title.value.trim() && [title, texts.titleNeeded],
      (due.validity.badInput || late) && [due, texts.dueIncomplete],
      many && [labels.input, texts.manyLabels],
      unruled && [unruled, texts.repetitionIncomplete],
      undue && [due, texts.dueNeeded],
      reminders.wrong() && [reminders.at, texts.momentNeeded],
      remind.length > schedule.MOST_REMINDERS && [reminders.choice, texts.manyReminders],
      unremindable && [due, texts.dueNeededToRemind],
      unzoned && [zone, texts.zoneUnknown],
    ].find(Boolean) ?? [];
    for (const one of [title, due, labels.input, reminders.choice, reminders.at, zone, ...recurrence.inputs]) one.setAttribute("aria-invalid", one === wrong);
    wrong?.focus();
    return text;
  };
  return { parts, read, write, problem };
}

// Returns a part that lists who changed the task and when, read as soon as it is opened.
function history(task, who) {
  const list = element("ol", { class: "history" });
  const by = (id) => who && (id === who.id ? texts.you : texts.accountOf(id));
  const entry = ({ kind, fields: names, account_id: id, changed_at: time }) =>
    element(
      "li",
      {},
      names.length ? texts.changedFields(texts.kinds[kind], names.map((name) => texts.fields[name] ?? name)) : texts.kinds[kind],
      element("span", { class: "hint" }, [moment(time), by(id)].filter(Boolean).join(", ")),
    );
  const read = async () => {
    try {
      const { content } = await request("GET", `/tasks/${task.id}/history`, { account: who?.key });
      list.replaceChildren(...content.map(entry));
    } catch (error) {
      list.replaceChildren(element("li", {}, describe(error)));
    }
  };
  const part = element("details", { ontoggle: () => part.open && read() }, element("summary", {}, texts.history), list);
  return part;
}

// Opens the dialog. `save` gets what was changed and returns null where it could not be kept, `remove` deletes; `closed` is called in any case.
export function open(task, { who, projects, labels, save, remove, closed }) {
  const base = fields(task);
  const { parts, read, problem: wrong } = controls(task, projects, labels);
  parts.time_zone.hidden = !task.recurrence;
  const changed = () => differing(base, read());
  const problem = element("p", { role: "alert", class: "problem" });
  const form = element(
    "form",
    {
      novalidate: true,
      onsubmit: async (event) => {
        event.preventDefault();
        problem.textContent = wrong() ?? "";
        if (problem.textContent) return;
        const now = read();
        const names = changed();
        const kept = !names.length || (await save(Object.fromEntries(names.map((name) => [name, now[name]])))) !== null;
        if (kept) made.close();
        else problem.textContent = texts.noStorage; // what was written stays in the fields
      },
    },
    parts.title,
    parts.description,
    element("div", { class: "fields" }, parts.status, parts.priority, parts.due_at, parts.project),
    parts.recurrence,
    parts.time_zone,
    parts.reminders,
    parts.labels,
    problem,
    Number.isInteger(task.id) && history(task, who),
    element("p", { class: "hint" }, `${texts.created(moment(task.created_at))}. ${texts.changed(moment(task.updated_at))}.`),
    element(
      "div",
      { class: "actions" },
      element("button", { type: "submit", class: "primary" }, texts.save),
      element("button", { type: "button", onclick: () => leave() }, texts.cancel),
      element("button", { type: "button", class: "danger", onclick: () => {
        made.close();
        remove();
      } }, texts.remove),
    ),
  );
  const made = dialog(texts.edit, form);
  const leave = () => {
    if (!changed().length || confirm(texts.discard)) made.close();
  };
  made.addEventListener("cancel", (event) => {
    event.preventDefault();
    leave();
  });
  made.addEventListener("close", closed);
  return made;
}
