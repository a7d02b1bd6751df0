// Labels: the control for those of one task, and the dialog that renames and removes them in all tasks.
import { describe } from "./api.js";
import { dialog, element, field } from "./elements.js";
import { notify } from "./notices.js";
import { texts } from "./texts.js";

const PAGE = 200;
export const MOST = 20;
export const LONGEST = 50;
export const sorted = (names) => [...new Set(names)].sort();

// Returns a field that takes the name of a label, its input, and the list of what it suggests.
export function naming(text, id, known) {
  const list = element("datalist", { id }, ...known.map((name) => element("option", { value: name })));
  const input = element("input", { maxlength: LONGEST, autocomplete: "off", enterkeyhint: "done", list: id });
  return { input, list, part: element("div", {}, field(text, input), list) };
}

// Returns a control whose value is text, as that of others is: the labels in JSON. What was typed and not added counts.
export function control(known) {
  const boxes = element("div", { class: "labels" });
  const { input, part } = naming(texts.addLabel, "labels", known);
  const checked = () => [...boxes.querySelectorAll(":checked")].map((box) => box.value);
  const show = (names) => {
    const box = (name) => element("input", { type: "checkbox", value: name, checked: true });
    boxes.replaceChildren(...names.map((name) => element("label", { class: "version" }, box(name), name)));
  };
  const add = () => {
    show(sorted([...checked(), input.value.trim()].filter(Boolean)));
    input.value = "";
    input.focus();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing || !input.value.trim()) return;
    event.preventDefault();
    add();
  });
  const button = element("button", { type: "button", "aria-label": texts.addLabel, onclick: add }, texts.add);
  return {
    part: element("fieldset", { class: "versions" }, element("legend", {}, texts.fields.labels), boxes, element("div", { class: "naming" }, part, button)),
    input,
    get value() {
      return JSON.stringify(sorted([...checked(), input.value.trim()].filter(Boolean)));
    },
    set value(names) {
      show(names);
      input.value = "";
    },
  };
}

// Returns a control that opens a list of labels; its value is those that are checked. `changed` gets them.
export function chooser(changed) {
  const checked = () => [...panel.querySelectorAll(":checked")].map((box) => box.value);
  const panel = element("fieldset", { tabindex: -1, onchange: () => {
    sum();
    changed(checked());
  } });
  const summary = element("summary", {});
  const sum = () => (summary.textContent = texts.filterLabels(checked()));
  const part = element("details", {
    class: "chooser",
    onkeydown: (event) => {
      if (event.key !== "Escape" || !part.open) return;
      part.open = false;
      summary.focus();
    },
    onfocusout: ({ relatedTarget }) => {
      if (relatedTarget !== null && !part.contains(relatedTarget)) part.open = false;
    },
  }, summary, panel);
  return {
    part,
    show(names, chosen) {
      const focused = panel.contains(document.activeElement) && document.activeElement.value;
      const box = (name) => element("input", { type: "checkbox", value: name, checked: chosen.includes(name) });
      const rows = names.map((name) => element("label", { class: "version" }, box(name), name));
      panel.replaceChildren(element("legend", { class: "unseen" }, texts.labels), ...rows);
      sum();
      if (focused !== false) ([...panel.querySelectorAll("input")].find(({ value }) => value === focused) ?? panel).focus();
    },
    get value() {
      return checked();
    },
    set value(chosen) {
      for (const box of panel.querySelectorAll("input")) box.checked = chosen.includes(box.value);
      sum();
    },
  };
}

async function all(request) {
  const uses = [];
  for (let more = true; more; ) {
    const after = uses.length ? `&after=${encodeURIComponent(uses.at(-1).name)}` : "";
    const { content } = await request("GET", `/labels?limit=${PAGE}${after}`);
    uses.push(...content);
    more = content.length === PAGE;
  }
  return uses;
}

// Opens the dialog. `sent` ends when what waits to be sent has been; `changed` gets a name, and the one in its place.
export function manage(request, { sent, changed }) {
  const list = element("ul", { class: "sessions" });
  const problem = element("p", { role: "alert", class: "problem" });
  let busy = false;
  const act = async (path, body, text) => {
    if (busy) return;
    busy = true;
    problem.textContent = "";
    try {
      await sent();
      let count = 0;
      for (let more = true; more; ) {
        const { content } = await request("POST", path, { body });
        count += content.tasks;
        ({ more } = content);
      }
      notify(text(count));
      changed(body.name, body.to ?? "");
      await show();
      (list.querySelector("input") ?? close).focus();
    } catch (error) {
      problem.textContent = describe(error);
    } finally {
      busy = false;
    }
  };
  const row = ({ name, tasks }) => {
    const input = element("input", { maxlength: LONGEST, required: true, autocomplete: "off", value: name, "aria-label": texts.newNameOf(name) });
    const rename = () => {
      const to = input.value.trim();
      if (to && input.value !== shown) act("/labels/rename", { name, to }, (count) => texts.labelRenamed(name, to, count));
    };
    const shown = input.value; // a name may have line breaks, which it cannot show
    const remove = () => confirm(texts.removeLabelAsk(name)) && act("/labels/remove", { name }, (count) => texts.labelRemoved(name, count));
    return element(
      "li",
      {},
      element("form", { class: "naming", onsubmit: (event) => {
        event.preventDefault();
        rename();
      } }, input, element("button", { type: "submit", "aria-label": texts.renameLabel(name) }, texts.renameIt)),
      element("span", { class: "hint" }, texts.inTasks(tasks)),
      element("button", { type: "button", class: "danger", "aria-label": texts.removeLabel(name), onclick: remove }, texts.removeIt),
    );
  };
  const show = async () => {
    const uses = await all(request);
    list.replaceChildren(...(uses.length ? uses.map(row) : [element("li", {}, texts.noLabels)]));
  };
  const close = element("button", { type: "button", onclick: () => made.close() }, texts.close);
  const made = dialog(texts.labels, element("p", { class: "hint" }, texts.labelsHint), list, problem, element("div", { class: "actions" }, close));
  show().catch((error) => (problem.textContent = describe(error)));
}
