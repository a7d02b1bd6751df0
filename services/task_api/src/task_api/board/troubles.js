// Changes that need a person: somebody else changed the task too, deleted it, or the service refused the change.
import { controls } from "./details.js";
import { dialog, element } from "./elements.js";
import { conflicts, differing, fields } from "./outbox.js";
import { described, reminding } from "./schedule.js";
import { moment, texts } from "./texts.js";

const WRITTEN = {
  status: (value) => texts.status[value],
  priority: (value) => texts.priority[value],
  due_at: moment,
  labels: (value) => value.join(", "),
  recurrence: described,
  reminders: (value) => value.map(reminding).join(", "),
};
const written = (name, value) => (value && (WRITTEN[name]?.(value) ?? value)) || texts.none;

// Opens the dialog of one change. `settle` gets the operations that take its place, or nothing to drop it.
export function open(entry, settle) {
  const [operation] = entry.operations;
  const { kind, theirs, problem } = entry.trouble;
  const button = (text, settled, kind = "") =>
    element("button", { type: "button", class: kind, onclick: () => {
      made.close();
      settle(settled());
    } }, text);
  const later = element("button", { type: "button", onclick: () => made.close() }, texts.later);
  const mine = { ...operation.base, ...operation.changes, ...operation.task };
  let made;
  const question = (title, hint, task, ...answers) =>
    dialog(title, element("p", {}, hint), facts(task), element("div", { class: "actions" }, ...answers, later));
  if (kind === "conflict") {
    made = merge(operation, theirs, settle, later);
  } else if (kind === "gone") {
    const restored = () => [{ op: "restore", id: operation.id, base: operation.base, changes: operation.changes }];
    made = question(texts.gone, texts.goneHint, mine, button(texts.restore, restored, "primary"), button(texts.letGo, () => null));
  } else if (kind === "lost") {
    const again = () => [{ op: "create", id: `new-${entry.key}`, task: fields(mine) }];
    made = question(texts.gone, texts.lostHint, mine, button(texts.createAgain, again, "primary"), button(texts.letGo, () => null));
  } else if (kind === "deleted") {
    const anyway = () => [{ ...operation, base: fields(theirs) }];
    const keep = button(texts.keepTheirs, () => null, "primary");
    made = question(texts.conflict, texts.deleteConflictHint, theirs, keep, button(texts.deleteAnyway, anyway, "danger"));
  } else {
    const again = button(texts.retry, () => entry.operations, "primary");
    made = question(texts.refused, texts.problem(problem), mine, again, button(texts.discardChange, () => null, "danger"));
  }
  return made;
}

const facts = (task) =>
  element(
    "dl",
    { class: "facts" },
    ...Object.keys(texts.fields).filter((name) => task[name]?.length).flatMap((name) => [
      element("dt", {}, texts.fields[name]),
      element("dd", {}, written(name, task[name])),
    ]),
  );

// Both versions of each field that both changed, and what it is to be.
function merge(operation, theirs, settle, later) {
  const mine = { ...operation.base, ...operation.changes };
  const names = conflicts(operation, theirs);
  const { parts, read, write, problem } = controls({ ...theirs, ...operation.changes });
  const rows = names.map((name) =>
    element(
      "fieldset",
      { class: "versions" },
      element("legend", {}, texts.fields[name]),
      ...[[texts.yours, mine], [texts.theirs, theirs]].map(([who, task], index) =>
        element(
          "label",
          { class: "version" },
          element("input", { type: "radio", name, ...(index === 0 ? { checked: true } : {}), onchange: () => write(name, task[name]) }),
          element("span", {}, element("strong", {}, who), " ", written(name, task[name])),
        ),
      ),
      parts[name],
    ),
  );
  const wrong = element("p", { role: "alert", class: "problem" });
  const form = element(
    "form",
    {
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        wrong.textContent = problem() ?? "";
        if (wrong.textContent) return;
        const merged = { ...fields(theirs), ...operation.changes, ...Object.fromEntries(names.map((name) => [name, read()[name]])) };
        const changed = differing(theirs, merged);
        made.close();
        const changes = Object.fromEntries(changed.map((name) => [name, merged[name]]));
        settle(changed.length ? [{ ...operation, base: fields(theirs), changes }] : null);
      },
    },
    element("p", {}, texts.conflictHint),
    ...rows,
    wrong,
    element(
      "div",
      { class: "actions" },
      element("button", { type: "submit", class: "primary" }, texts.keepMerged),
      element("button", { type: "button", onclick: () => {
        made.close();
        settle(null);
      } }, texts.keepTheirs),
      later,
    ),
  );
  const made = dialog(texts.conflict, form);
  return made;
}
