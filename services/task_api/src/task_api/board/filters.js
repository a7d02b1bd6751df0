// Which tasks are shown and in which order. All of it is in the page's address, which can be shared.
export const DEFAULTS = { q: "", project: "", label: [], priority: "", due: "", sort: "newest" };
const DAY = 86_400_000;
const PRIORITIES = ["high", "normal", "low"];

export function fromAddress(search) {
  const parameters = new URLSearchParams(search);
  const values = Object.entries(DEFAULTS).map(([name, value]) => [name, parameters.get(name) ?? value]);
  return { ...Object.fromEntries(values), label: [...new Set(parameters.getAll("label"))] };
}

export function toAddress(filters) {
  const changed = Object.entries(filters).filter(([name, value]) => value !== DEFAULTS[name]);
  const parameters = new URLSearchParams(changed.flatMap(([name, value]) => [value].flat().map((one) => [name, one])));
  return String(parameters) ? `?${parameters}` : "/";
}

export const narrowed = ({ q, project, label, priority, due }) => Boolean(q.trim() || project || label.length || priority || due);

// Returns a function of a task: whether it is shown.
export function matcher({ q, project, label, priority, due }, now = Date.now()) {
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  const midnight = new Date(now).setHours(24, 0, 0, 0);
  return (task) => {
    if (project && task.project !== project) return false;
    if (!label.every((name) => task.labels.includes(name))) return false;
    if (priority && task.priority !== priority) return false;
    const at = task.due_at ? Date.parse(task.due_at) : null;
    if (due === "none" && at !== null) return false;
    if (due === "overdue" && !overdue(task, now)) return false;
    if (due === "today" && (at === null || at < midnight - DAY || at >= midnight)) return false;
    if (due === "week" && (at === null || at < now || at >= now + 7 * DAY)) return false;
    if (!words.length) return true;
    const text = `${task.title}\n${task.description}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
}

export const overdue = (task, now = Date.now()) =>
  task.due_at !== null && task.status !== "completed" && Date.parse(task.due_at) < now;

const later = (a, b) => (a < b ? 1 : a > b ? -1 : 0);
const newest = (a, b) => b.order - a.order;
const ORDERS = {
  newest,
  changed: (a, b) => later(a.updated_at, b.updated_at) || newest(a, b),
  priority: (a, b) => PRIORITIES.indexOf(a.priority) - PRIORITIES.indexOf(b.priority) || newest(a, b),
  due: (a, b) => (a.due_at ? Date.parse(a.due_at) : Infinity) - (b.due_at ? Date.parse(b.due_at) : Infinity) || newest(a, b),
};

export const order = (sort) => (Object.hasOwn(ORDERS, sort) ? ORDERS[sort] : newest);
