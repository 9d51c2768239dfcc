// What the page knows: what services are, and what they do now. Gets it by server-sent events, and
// remembers the last minutes. A hidden page closes its stream, so the console looks at nothing.

/** Looks that are kept for the small charts. */
export const KEPT = 90;
/** Milliseconds for which a service that went away is shown. */
const GONE_FOR = 10 * 60 * 1000;

export const state = {
  facts: null,
  /** connecting, live, paused, lost */
  connection: "connecting",
  /** What services say of themselves, by name. */
  services: new Map(),
  view: null,
  instances: [],
  /** The rows of methods by service. */
  rows: new Map(),
  /** When a service that answers no more was last seen, by name. */
  gone: new Map(),
  /** Figures of the last looks: of everything, of a service, of a method. */
  history: new Map(),
  trouble: "",
  /** Looks since the page was opened. */
  looks: 0,
};

const listeners = new Set();
let source = null;

/** Call `listener` at each change; return a function that stops that. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const tell = () => {
  for (const listener of [...listeners]) listener();
};

function become(connection) {
  state.connection = connection;
  tell();
}

export function watch() {
  const open = () => {
    if (source !== null || document.hidden) return;
    source = new EventSource("/api/live");
    source.addEventListener("services", (event) => describe(JSON.parse(event.data)));
    source.addEventListener("view", (event) => look(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      become("lost");
      if (source?.readyState === EventSource.CLOSED) {
        source = null; // refused: the browser does not try again by itself
        setTimeout(open, 3000);
      }
    });
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
      become("paused");
    } else {
      become("connecting");
      open();
    }
  });
  addEventListener("pagehide", () => source?.close());
  open();
}

function describe({ services }) {
  for (const service of services) state.services.set(service.name, service);
  tell();
}

export const keyOf = (...names) => names.join("\u0000");

function remember(key, figures) {
  const kept = state.history.get(key) ?? [];
  kept.push(figures);
  if (kept.length > KEPT) kept.shift();
  state.history.set(key, kept);
}

/** Figures of many rows together. `null` if no row has a figure. */
export function totals(rows) {
  const sum = (name) => {
    const known = rows
      .map((row) => row[name])
      .filter((value) => value !== null && value !== undefined);
    return known.length ? known.reduce((a, b) => a + b, 0) : null;
  };
  return {
    calls: sum("calls_per_second"),
    errors: sum("errors_per_second"),
    running: sum("in_flight"),
    waiting: sum("waiting"),
  };
}

function look({ view, instances }) {
  state.trouble = view.trouble;
  if (view.trouble) {
    state.connection = "live";
    tell();
    return;
  }
  const now = Date.now();
  state.looks += 1;
  state.view = view;
  state.instances = instances;
  const rows = new Map();
  for (const row of view.methods) {
    if (!rows.has(row.service)) rows.set(row.service, []);
    rows.get(row.service).push(row);
    remember(keyOf(row.service, row.method, row.kind), {
      calls: row.calls_per_second,
      errors: row.errors_per_second,
      p50: row.p50_ms,
      p99: row.p99_ms,
    });
  }
  for (const name of state.rows.keys()) {
    if (!rows.has(name)) {
      const last = state.gone.get(name) ?? now;
      state.gone.set(name, last);
      if (now - last < GONE_FOR) rows.set(name, state.rows.get(name).map(still));
      else state.gone.delete(name);
    }
  }
  for (const name of Object.keys(view.services)) state.gone.delete(name);
  state.rows = rows;
  for (const [name, own] of rows) remember(name, totals(own));
  remember("", totals(view.methods));
  state.connection = "live";
  tell();
}

/** The row of a method that nobody answers for. */
const still = (row) => ({
  ...row,
  instances: 0,
  calls_per_second: null,
  errors_per_second: null,
  p50_ms: null,
  p99_ms: null,
  in_flight: null,
  waiting: null,
  queue: null,
  consumers: null,
});

/** What a service says of a method. */
export const methodOf = (service, method, kind) =>
  state.services
    .get(service)
    ?.methods.find((each) => each.name === method && (kind === undefined || each.kind === kind));

const promised = new Map();
/** Looks until a service that did not tell is asked again: at first, doubled each time, at most. */
const PAUSE = { first: 2, most: 32 };

/**
 * What the method of a service takes and returns: `{parameters, result, schemas, ...}`, `{why}` if
 * the service does not tell, or `null` while it is asked. It is asked again after a deploy, and
 * after a pause if it did not tell.
 */
export function promiseOf(service, method, kind) {
  const described = state.services.get(service);
  let known = promised.get(service);
  if (known === undefined || known.of !== described) {
    known = { of: described, answer: null, methods: new Map(), askAt: 0, pause: PAUSE.first };
    promised.set(service, known);
  }
  if (state.looks >= known.askAt) ask(service, known);
  if (known.answer === null) return null;
  const key = keyOf(method, kind);
  if (!known.methods.has(key)) known.methods.set(key, chosen(known.answer, method, kind));
  return known.methods.get(key);
}

function ask(service, known) {
  known.askAt = Infinity; // not while it is asked
  const done = (answer) => {
    if (!answer.service) {
      known.askAt = state.looks + known.pause;
      known.pause = Math.min(2 * known.pause, PAUSE.most);
    }
    if (known.answer?.why !== answer.why || answer.service) known.methods.clear();
    known.answer = answer;
    tell();
  };
  read("/api/contract", { service }).then(done, (error) => done({ why: error.message }));
}

function chosen({ service, schemas, why }, method, kind) {
  if (!service) return { why };
  const parts = {
    Rpc: service.methods.find((each) => each.name === method),
    EventHandler: service.handlers.find((each) => each.method === method),
    Consumer: service.consumers.find((each) => each.method === method),
  };
  const found = kind in parts ? parts[kind] : service.routes.find((each) => each.method === method);
  return found ? { ...found, schemas } : { why: "nobody passes it arguments" };
}

/** The queues of a service, with the messages that wait in them. Methods may share a queue. */
export function queuesOf(service) {
  const queues = new Map();
  for (const row of state.rows.get(service) ?? []) {
    const queue = methodOf(service, row.method, row.kind)?.queue;
    if (queue && row.queue !== null) queues.set(queue, row);
  }
  return queues;
}

/** Entrypoints that a message starts, and what STATS calls a sender that left no call ids. */
const SENT = new Set(["Rpc", "EventHandler", "Consumer"]);
const UNKNOWN = "(unknown)";

/** Who calls whom: one edge for each calling and called method. */
export function edges() {
  const found = [];
  for (const row of state.view?.methods ?? []) {
    for (const [caller, seen] of Object.entries(row.callers ?? {})) {
      if (!SENT.has(row.kind) && caller === UNKNOWN) continue; // a timer has no caller
      const dot = caller.lastIndexOf(".");
      found.push({
        from: dot > 0 ? caller.slice(0, dot) : caller,
        fromMethod: dot > 0 ? caller.slice(dot + 1) : "",
        to: row.service,
        method: row.method,
        kind: row.kind,
        calls: seen.calls,
        perSecond: seen.calls_per_second,
        ago: seen.ago,
      });
    }
  }
  return found;
}

// --- what the page asks for

let token = "";
try {
  token = sessionStorage.getItem("aiorpc-token") ?? "";
} catch {
  // The browser keeps nothing: the user enters the token again after a reload.
}

export const hasToken = () => token !== "";

export function keepToken(text) {
  token = text;
  try {
    if (text) sessionStorage.setItem("aiorpc-token", text);
    else sessionStorage.removeItem("aiorpc-token");
  } catch {
    // As above.
  }
  tell();
}

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (response.status === 401) keepToken("");
  throw new Error(body.error ?? `The console answered ${response.status}`);
}

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The console does not answer. Does `aiorpc console` still run?");
  }
  return answered(response);
}

/** Read something. */
export function read(path, query = {}) {
  const words = new URLSearchParams(query);
  return asked(words.size ? `${path}?${words}` : path, { headers: { "aiorpc-console-page": "1" } });
}

const posted = (path, body, given, signal) =>
  asked(path, {
    method: "POST",
    headers: { "content-type": "application/json", "aiorpc-console-token": given },
    body: JSON.stringify(body),
    signal,
  });

/** Change something. This needs the token. */
export const change = (path, body, signal) => posted(path, body, token, signal);

/** Keep the token `text`, if it is right. */
export async function useToken(text) {
  await posted("/api/token", {}, text);
  keepToken(text);
}
