// Requests to the API. Tokens are in cookies that scripts cannot read; the header shows the service that the page sends them.
import { texts } from "./texts.js";

const SECONDS = 15;
export const FROM_PAGE = { "X-Requested-With": "board" };
const RENEWED = "session renewed";

export class Unreachable extends Error {
  constructor(seconds = 0) {
    super("unreachable");
    this.seconds = seconds;
  }
}

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? String(status));
    this.status = status;
    this.body = body;
    this.type = (body.type ?? "").split("#")[1] ?? "";
  }
}

export class SignedOut extends Error {}

// Returns what a person reads of a request that failed.
export function describe(error) {
  if (error instanceof Problem) return texts.problem(error.body);
  if (error instanceof Unreachable) return texts.unreachable;
  if (error instanceof SignedOut) return texts.sessionEnded;
  throw error;
}

// Returns what `work` returns, while no other tab does anything under that name.
export function alone(name, work) {
  return navigator.locks ? navigator.locks.request(name, work) : work(); // plain HTTP has no locks
}

// Returns the key under which this browser keeps what is an account's. Its id alone would be another's where the database
// of the service has been replaced.
export const keyOf = ({ id, created_at: created }) => (created ? `${id} ${created}` : String(id));

// Returns the headers that name the account which the page shows, by its key.
export function shown(key) {
  const [id, created] = key.split(" ");
  return { "X-Account": id, ...(created ? { "X-Account-Created": created } : {}) };
}

function options(method, { body, key, account, headers = {} } = {}) {
  return {
    method,
    body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
    headers: {
      Accept: "application/json, application/problem+json",
      ...FROM_PAGE,
      ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      ...(key ? { "Idempotency-Key": key } : {}),
      ...(account === undefined ? {} : shown(account)),
      ...headers,
    },
  };
}

async function attempt(method, path, more) {
  let response;
  try {
    // no copy of a task stays in the browser's cache when its owner has signed out
    response = await fetch(path, { ...options(method, more), cache: "no-store", signal: AbortSignal.timeout(SECONDS * 1000) });
  } catch {
    throw new Unreachable();
  }
  const type = response.headers.get("Content-Type") ?? "";
  const busy = response.status === 429 && type.startsWith("application/problem+json");
  if (response.status >= 500 || (response.status === 429 && !busy)) throw wait(response);
  if (response.ok) {
    return { content: response.status === 204 ? null : await content(response), headers: response.headers };
  }
  const problem = new Problem(response.status, await content(response));
  if (["rate-limited", "overloaded", "mail-queue-full"].includes(problem.type)) throw wait(response);
  throw problem;
}

// Returns the JSON of a response. Raises Unreachable where the connection was lost within it, or something between us and
// the service answered.
const content = (response) =>
  response.json().catch(() => {
    throw new Unreachable();
  });

const wait = (response) => new Unreachable(Number(response.headers.get("Retry-After")) || 0);

// Returns { content, headers }. Raises Unreachable where a later attempt may succeed, Problem for a refusal, SignedOut.
export async function request(method, path, more) {
  const began = Date.now();
  try {
    return await attempt(method, path, more);
  } catch (error) {
    if (!(error instanceof Problem && error.status === 401 && error.type.startsWith("token-"))) throw error;
  }
  await renew(began, more?.account);
  try {
    return await attempt(method, path, more);
  } catch (error) {
    throw error instanceof Problem && error.status === 401 ? new SignedOut() : error;
  }
}

// Returns `request` for one account: it is refused where another has signed in to this browser meanwhile.
export const requestsOf = (account) => (method, path, more) => request(method, path, { ...more, account });

// One tab renews the session for all: a refresh token that is used twice ends it.
async function renew(began, account) {
  await alone("session", async () => {
    if (Number(localStorage.getItem(RENEWED)) > began) return;
    try {
      await attempt("POST", "/session/refresh", { account });
    } catch (error) {
      throw error instanceof Problem ? new SignedOut() : error;
    }
    localStorage.setItem(RENEWED, Date.now());
  });
}
