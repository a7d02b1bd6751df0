// When a task comes again, by a rule (RFC 5545), and when it reminds: a control for each, and both in words.
import { element, field, select } from "./elements.js";
import { moment, number, texts, weekdays } from "./texts.js";

const DAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];
const SIMPLE = { DAILY: [], WEEKLY: ["BYDAY"], MONTHLY: ["BYMONTHDAY"], YEARLY: [] };
const LAST = "-1";
export const here = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

const partsOf = (rule) => Object.fromEntries(rule.split(";").map((part) => part.split("=")));
const dated = (until) => `${until.slice(0, 4)}-${until.slice(4, 6)}-${until.slice(6)}`;

// Whether the browser knows a time zone of this name.
export function known(zone) {
  try {
    return Boolean(new Intl.DateTimeFormat("en", { timeZone: zone }));
  } catch {
    return false;
  }
}

// Returns the parts of a rule; null for one that the control cannot show.
function simple(rule) {
  const parts = partsOf(rule);
  const shown = ["FREQ", "INTERVAL", "COUNT", "UNTIL", ...(SIMPLE[parts.FREQ] ?? [])];
  const plain =
    Object.hasOwn(SIMPLE, parts.FREQ) &&
    Object.keys(parts).every((name) => shown.includes(name)) &&
    (parts.BYMONTHDAY ?? LAST) === LAST &&
    /^(\d{8})?$/.test(parts.UNTIL ?? "") &&
    (parts.BYDAY ?? "MO").split(",").every((day) => DAYS.includes(day));
  return plain ? parts : null;
}

// A rule in a few words, for a card.
export const brief = (rule) => {
  const { FREQ, INTERVAL = "1" } = partsOf(rule);
  return texts.every(FREQ, Number(INTERVAL));
};

// A rule in words, or as it is where the control cannot show it.
export function described(rule) {
  const parts = simple(rule);
  if (!parts) return rule;
  const { BYDAY, BYMONTHDAY, COUNT, UNTIL } = parts;
  const days = BYDAY?.split(",").map((day) => weekdays[DAYS.indexOf(day)]).join(", ");
  return [brief(rule), days ?? (BYMONTHDAY && texts.lastDay), COUNT ? texts.times(Number(COUNT)) : UNTIL && texts.untilDay(dated(UNTIL))]
    .filter(Boolean)
    .join("; ");
}

// Returns a control whose value is the rule, "" for none; one that it cannot show is a choice as text, and kept.
export function control() {
  const frequency = select([], "");
  const interval = element("input", { type: "number", min: 1, max: 999, required: true, inputmode: "numeric" });
  const boxes = DAYS.map((day) => element("input", { type: "checkbox", value: day }));
  const days = element(
    "div",
    { class: "labels", role: "group", "aria-label": texts.onDays },
    ...boxes.map((box, index) => element("label", { class: "version" }, box, weekdays[index])),
  );
  const monthly = select([["", texts.sameDay], [LAST, texts.lastDay]], "");
  const end = select(Object.entries(texts.ends), "");
  const count = element("input", { type: "number", min: 1, max: 9999, required: true, inputmode: "numeric" });
  const until = element("input", { type: "date", required: true, max: "9999-12-30" });
  const fields = {
    interval: field("", interval),
    monthly: field(texts.onDay, monthly),
    end: field(texts.endsAfter, end),
    count: field(texts.count, count),
    until: field(texts.untilLabel, until),
  };
  const part = element(
    "fieldset",
    { class: "versions" },
    element("legend", {}, texts.fields.recurrence),
    element("div", { class: "fields" }, field(texts.frequency, frequency), fields.interval, fields.monthly, fields.end, fields.count, fields.until),
    days,
  );
  const sync = () => {
    const chosen = frequency.value;
    const ruled = Object.hasOwn(SIMPLE, chosen);
    fields.interval.hidden = fields.end.hidden = !ruled;
    fields.interval.firstChild.textContent = texts.intervals[chosen] ?? "";
    days.hidden = chosen !== "WEEKLY";
    fields.monthly.hidden = chosen !== "MONTHLY";
    fields.count.hidden = !ruled || end.value !== "COUNT";
    fields.until.hidden = !ruled || end.value !== "UNTIL";
  };
  part.addEventListener("change", sync);
  const chosenDays = () => boxes.filter((box) => box.checked).map((box) => box.value).join(",");
  return {
    part,
    // The first input that has no sensible value, null where all have.
    get wrong() {
      const shown = [interval, count, until].filter((input) => !input.closest(".field").hidden);
      return shown.find((input) => !input.validity.valid) ?? null;
    },
    inputs: [interval, count, until],
    get value() {
      const chosen = frequency.value;
      if (!Object.hasOwn(SIMPLE, chosen)) return chosen;
      const parts = {
        FREQ: chosen,
        INTERVAL: interval.value !== "1" && interval.value,
        BYDAY: chosen === "WEEKLY" && chosenDays(),
        BYMONTHDAY: chosen === "MONTHLY" && monthly.value,
        COUNT: end.value === "COUNT" && count.value,
        UNTIL: end.value === "UNTIL" && until.value.replaceAll("-", ""),
      };
      return Object.entries(parts).filter(([, value]) => value).map((part) => part.join("=")).join(";");
    },
    set value(rule) {
      const parts = rule ? simple(rule) : {};
      const other = rule && !parts ? rule : null;
      const choices = [["", texts.never], ...Object.entries(texts.frequencies), ...(other ? [[other, other]] : [])];
      frequency.replaceChildren(...choices.map(([key, text]) => element("option", { value: key }, text)));
      frequency.value = other ?? parts.FREQ ?? "";
      interval.value = parts?.INTERVAL ?? "1";
      boxes.forEach((box) => (box.checked = (parts?.BYDAY ?? "").split(",").includes(box.value)));
      monthly.value = parts?.BYMONTHDAY ?? "";
      end.value = parts?.COUNT ? "COUNT" : parts?.UNTIL ? "UNTIL" : "";
      count.value = parts?.COUNT ?? "10";
      until.value = parts?.UNTIL ? dated(parts.UNTIL) : "";
      sync();
    },
  };
}

export const MOST_REMINDERS = 5;
const UNITS = { D: "day", H: "hour", M: "minute", S: "second" };
const BEFORE = ["PT0S", "PT5M", "PT15M", "PT1H", "P1D", "P7D"];

// One reminder in words.
export function reminding({ at, before }) {
  if (at) return texts.remindsAt(moment(at));
  if (before === "PT0S") return texts.remindsThen;
  const parts = [...before.matchAll(/(\d+)(.)/g)].map(([, count, unit]) => number(count, { style: "unit", unit: UNITS[unit], unitDisplay: "long" }));
  return texts.remindsBefore(parts.join(" "));
}

// Returns a control whose value is text, as that of others is: the reminders in JSON. What was chosen and not added counts.
export function reminders() {
  const boxes = element("div", { class: "labels" });
  const choice = select([["", texts.choose], ...BEFORE.map((before) => [before, reminding({ before })]), ["at", texts.atMoment]], "");
  const at = element("input", { type: "datetime-local", max: "9999-12-30T00:00" });
  const when = field(texts.remindAt, at);
  const sync = () => (when.hidden = choice.value !== "at");
  choice.addEventListener("change", sync);
  const all = () => {
    const kept = new Set([...boxes.querySelectorAll(":checked")].map((box) => box.value));
    if (choice.value !== "at") choice.value && kept.add(JSON.stringify({ before: choice.value }));
    else if (at.value) kept.add(JSON.stringify({ at: new Date(at.value).toISOString() }));
    return [...kept].map((text) => JSON.parse(text));
  };
  const show = (all) => {
    const box = (one) => element("input", { type: "checkbox", value: JSON.stringify(one), checked: true });
    boxes.replaceChildren(...all.map((one) => element("label", { class: "version" }, box(one), reminding(one))));
    choice.value = at.value = "";
    sync();
  };
  const add = () => {
    if (wrong()) return at.focus();
    show(all());
    choice.focus();
  };
  const wrong = () => choice.value === "at" && !at.value;
  const button = element("button", { type: "button", "aria-label": texts.addReminder, onclick: add }, texts.add);
  return {
    part: element(
      "fieldset",
      { class: "versions" },
      element("legend", {}, texts.fields.reminders),
      boxes,
      element("div", { class: "naming" }, field(texts.remindMe, choice), button),
      when,
    ),
    choice,
    at,
    wrong,
    get value() {
      return JSON.stringify(all());
    },
    set value(all) {
      show(all);
    },
  };
}
