// Returns an element with these properties: `on…` are listeners, `data` its data attributes, true and false switch an
// attribute; children are elements or text. Text never becomes markup.
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(made.dataset, value);
    else if (key === "value") made.value = value;
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

let ids = 0;

// Returns a label with its control, and a hint below it where there is one.
export function field(label, control, hint) {
  control.id ||= `field-${++ids}`;
  const parts = [element("label", { for: control.id }, label), control];
  if (hint) {
    control.setAttribute("aria-describedby", `${control.id}-hint`);
    parts.push(element("p", { id: `${control.id}-hint`, class: "hint" }, hint));
  }
  return element("div", { class: "field" }, ...parts);
}

// Returns a select of [value, text] pairs.
export function select(options, value, properties = {}) {
  const made = element("select", properties);
  choices(made, options, value);
  return made;
}

// Replaces the options of a select.
export function choices(made, options, value) {
  made.replaceChildren(...options.map(([key, text]) => element("option", { value: key }, text)));
  made.value = value;
}

// Opens a modal dialog with these contents, and returns it. It is removed when it closes. The browser puts the focus back at
// once: the close event comes later, when a person may have gone on to another field.
export function dialog(title, ...contents) {
  const id = `dialog-${++ids}`;
  const made = element("dialog", { "aria-labelledby": id }, element("h2", { id }, title), ...contents);
  made.addEventListener("close", () => made.remove());
  document.body.append(made);
  made.showModal();
  return made;
}
