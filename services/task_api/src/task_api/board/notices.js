// Short messages: read out, shown for a while, and with a way back where there is one.
import { element } from "./elements.js";
import { texts } from "./texts.js";

const SECONDS = 6;
const list = element("div", { class: "notices" });
const spoken = element("div", { role: "status", class: "unseen" });
const urgent = element("div", { role: "alert", class: "unseen" });

export const region = element("section", { "aria-label": texts.messages }, list, spoken, urgent);

// Forgets all messages.
export function clear() {
  for (const place of [list, spoken, urgent]) place.replaceChildren();
}

// Has a message read out.
export function readOut(text, { alert = false } = {}) {
  const place = alert ? urgent : spoken;
  place.textContent = "";
  setTimeout(() => (place.textContent = text), 50); // the same text again is read again
}

// Shows a message, with `undo` for so many seconds; they do not pass while the pointer or the focus is on it.
export function notify(text, { undo, seconds = SECONDS, alert = false } = {}) {
  let timer;
  const close = () => {
    clearTimeout(timer);
    notice.remove();
  };
  const wait = () => (timer = setTimeout(close, seconds * 1000));
  const hold = () => clearTimeout(timer);
  const notice = element(
    "div",
    { class: alert ? "notice alert" : "notice", onmouseenter: hold, onfocusin: hold, onmouseleave: wait, onfocusout: wait },
    element("span", {}, text),
    undo &&
      element("button", { type: "button", onclick: () => {
        close();
        undo();
      } }, texts.undo),
    element("button", { type: "button", class: "quiet", "aria-label": texts.dismiss, onclick: close }, "✕"),
  );
  list.append(notice);
  while (list.children.length > 3) list.firstChild.querySelector(".quiet").click();
  readOut(text, { alert });
  wait();
  return notice;
}
