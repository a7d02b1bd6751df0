// Signing in, registering, and what people manage about their own account.
import { Problem, describe, request, requestsOf } from "./api.js";
import { dialog, element, field } from "./elements.js";
import { moment, texts } from "./texts.js";

const { registration } = document.documentElement.dataset;

// Returns a form that runs `work` once at a time, and shows why it failed.
function form(submit, work, ...contents) {
  const problem = element("p", { role: "alert", class: "problem" });
  const button = element("button", { type: "submit", class: "primary" }, submit);
  return element(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        problem.textContent = "";
        button.disabled = true;
        try {
          await work();
        } catch (error) {
          problem.textContent = describe(error);
        } finally {
          button.disabled = false;
        }
      },
    },
    ...contents,
    problem,
    element("div", { class: "actions" }, button),
  );
}

const password = (autocomplete) =>
  element("input", { type: "password", autocomplete, required: true, maxlength: 128, ...(autocomplete === "new-password" ? { minlength: 12 } : {}) });

// Shows the sign-in in `place`; returns the account once somebody has signed in.
export function signIn(place, { ended = false } = {}) {
  return new Promise((resolve) => {
    const email = element("input", { type: "email", autocomplete: "username", required: true, maxlength: 254 });
    const secret = password("current-password");
    const code = element("input", { autocomplete: "one-time-code", inputmode: "numeric", minlength: 6, maxlength: 32 });
    const factor = field(texts.code, code);
    factor.hidden = true;
    const enter = async (name, value) => {
      const credentials = { email: name, password: value, ...(code.value ? { code: code.value } : {}) };
      try {
        resolve((await request("POST", "/session", { body: credentials })).content);
      } catch (error) {
        if (!(error instanceof Problem && error.type === "second-factor-needed")) throw error;
        factor.hidden = false;
        code.required = true;
        code.focus();
        throw error;
      }
    };
    const show = (title, other, ...contents) => {
      place.replaceChildren(
        element(
          "main",
          { class: "sheet" },
          element("h1", {}, title),
          ended && element("p", {}, texts.sessionEnded),
          ...contents,
          other,
        ),
      );
      place.querySelector("input").focus();
    };
    const link = (text, to) => element("p", {}, element("button", { type: "button", class: "link", onclick: to }, text));
    const toSignIn = () =>
      show(
        texts.signIn,
        registration !== "closed" && link(texts.needAccount, toRegister),
        form(texts.signIn, () => enter(email.value, secret.value), field(texts.email, email), field(texts.password, secret), factor),
      );
    const toRegister = () => {
      const chosen = password("new-password");
      const choose = field(texts.password, chosen, texts.passwordHint);
      const back = link(texts.haveAccount, toSignIn);
      if (registration !== "mail") {
        const register = async () => {
          await request("POST", "/auth/register", { body: { email: email.value, password: chosen.value } });
          await enter(email.value, chosen.value);
        };
        show(texts.register, back, form(texts.register, register, field(texts.email, email), choose));
        return;
      }
      const token = element("input", { autocomplete: "off", required: true, maxlength: 128 });
      const verify = async () => {
        await request("POST", "/auth/verify", { body: { token: token.value.trim(), password: chosen.value } });
        await enter(email.value, chosen.value);
      };
      const send = async () => {
        await request("POST", "/auth/register", { body: { email: email.value } });
        show(texts.register, back, element("p", { role: "status" }, texts.mailSent), form(texts.register, verify, field(texts.token, token), choose));
      };
      show(texts.register, back, form(texts.sendMail, send, field(texts.email, email)));
    };
    toSignIn();
  });
}

// Opens the dialog of the account.
export async function manage(account, { signOut, notify }) {
  const request = requestsOf(account.key);
  const list = element("ul", { class: "sessions", "aria-live": "polite" });
  const old = password("current-password");
  const chosen = password("new-password");
  const change = async () => {
    await request("POST", "/auth/password", { body: { password: old.value, new_password: chosen.value } });
    old.value = chosen.value = "";
    notify(texts.passwordChanged);
    await show();
  };
  const calendars = calendarsOf(request, notify);
  const close = element("button", { type: "button", onclick: () => made.close() }, texts.close);
  const out = (everywhere) => () => {
    made.close();
    signOut(everywhere);
  };
  const made = dialog(
    texts.account,
    element("p", {}, account.email),
    element(
      "div",
      { class: "actions" },
      element("button", { type: "button", onclick: out(false) }, texts.signOut),
      element("button", { type: "button", onclick: out(true) }, texts.signOutEverywhere),
      close,
    ),
    element("h3", {}, texts.sessions),
    list,
    element("h3", {}, texts.calendar),
    ...calendars.parts,
    element("h3", {}, texts.changePassword),
    form(
      texts.changePassword,
      change,
      element("input", { type: "email", autocomplete: "username", value: account.email, hidden: true }),
      field(texts.password, old),
      field(texts.newPassword, chosen, texts.passwordHint),
    ),
  );
  const show = async () => {
    const { content } = await request("GET", "/auth/sessions");
    list.replaceChildren(
      ...content.map((session) => {
        const name = session.user_agent ?? texts.unknownDevice;
        const end = async () => {
          await request("DELETE", `/auth/sessions/${session.id}`).catch((error) => notify(describe(error)));
          await show();
        };
        return element(
          "li",
          {},
          element("span", {}, element("strong", {}, session.current ? texts.thisSession : name), element("br"), texts.began(moment(session.created_at)), session.address ? ` · ${session.address}` : ""),
          !session.current && element("button", { type: "button", "aria-label": texts.endSessionOf(name), onclick: end }, texts.endSession),
        );
      }),
    );
  };
  await Promise.all([
    show().catch((error) => list.replaceChildren(element("li", {}, describe(error)))),
    calendars.show().catch((error) => notify(describe(error))),
  ]);
}

// Returns what makes, lists and ends addresses for calendar programs, and a function that shows those that there are.
function calendarsOf(request, notify) {
  const list = element("ul", { class: "sessions", "aria-live": "polite" });
  const address = element("input", { readonly: true });
  const made = field(texts.calendarAddress, address, texts.calendarHint);
  made.hidden = true;
  const show = async () => {
    const { content } = await request("GET", "/auth/tokens");
    const ours = content.filter(({ calendar, scopes }) => calendar && !scopes.length);
    list.replaceChildren(
      ...ours.map((token) => {
        const end = async () => {
          await request("DELETE", `/auth/tokens/${token.id}`).catch((error) => notify(describe(error)));
          made.hidden = true;
          await show();
        };
        const lasts = texts.lasts(moment(token.created_at), moment(token.expires_at));
        const label = texts.endCalendar(moment(token.created_at));
        return element("li", {}, element("span", {}, lasts), element("button", { type: "button", "aria-label": label, onclick: end }, texts.endSession));
      }),
    );
  };
  const make = async () => {
    const body = { name: texts.calendar, scopes: ["calendar:read"], days: 365 };
    const { content } = await request("POST", "/auth/tokens", { body });
    address.value = `${location.origin}/tasks.ics?token=${content.token}`;
    made.hidden = false;
    address.select();
    await show();
    await navigator.clipboard?.writeText(address.value).then(() => notify(texts.calendarCopied), () => {}); // else it is selected
  };
  return { parts: [list, form(texts.makeCalendar, make, made)], show };
}
