// The view of one method: what it does now, what it takes, who calls it, and a form to try it.

import { tile } from "./charts.js";
import { add, fill, h, keyed, linkTo, put, scrolling, set } from "./dom.js";
import { fieldsOf, parsed, typeOf } from "./form.js";
import { clock, count, duration, errorRate, kindOf, milliseconds, rate } from "./format.js";
import { change, edges, hasToken, keyOf, methodOf, promiseOf, state, useToken } from "./state.js";

/** Characters of a result that are shown. */
const MOST = 100_000;

export function method(main, service, name) {
  const kind = h("span", { class: "kind" });
  const note = h("p", { class: "note warn", role: "status" });
  const about = h("p", { class: "lead text" });
  const tiles = {
    calls: tile("Calls", "/s"),
    errors: tile("Errors", "/s"),
    p50: tile("p50", "ms"),
    p99: tile("p99", "ms"),
    now: tile("Running", "", { chart: false }),
    queue: tile("Messages in its queue", "", { chart: false }),
  };
  const facts = h("dl", { class: "facts" });
  const failure = h("p", { class: "failure text" });
  const takes = h("div", {});
  const callers = callersTable();
  const left = h(
    "div",
    {},
    h("section", {}, h("h2", {}, "Arguments and result"), takes),
    h("section", {}, h("h2", {}, "Called by"), callers.element),
    h("section", {}, h("h2", {}, "Facts"), facts),
  );
  const trying = tryIt(service, name);
  add(main, [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Breadcrumb" },
      h("a", { href: "#/services" }, "Services"),
      h("a", { href: linkTo(service) }, service),
      h("span", { "aria-current": "page" }, name),
    ),
    h("h1", {}, h("span", { class: "mono" }, `${service}.${name}`), " ", kind),
    note,
    about,
    h("dl", { class: "tiles" }, Object.values(tiles).map((each) => each.element)),
    failure,
    h("div", { class: "columns" }, left, trying.element),
  ]);
  let before;

  return function update() {
    const rows = (state.rows.get(service) ?? []).filter((row) => row.method === name);
    const row = rows[0];
    const described = methodOf(service, name, row?.kind);
    const gone = state.gone.get(service);
    put(note, gone !== undefined ? `No answer since ${clock(new Date(gone))}.` : state.view && !row ? "No service that answers has this method." : "");
    put(kind, row ? kindOf(row.kind, described?.stream) : "");
    const promise = described ? promiseOf(service, name, described.kind) : null;
    put(about, promise?.description || described?.description || "");
    if (row) showFigures(row);
    if (promise !== before) {
      before = promise;
      fill(takes, shapes(promise));
    }
    callers.update(edges().filter((edge) => edge.to === service && edge.method === name));
    trying.update(described, promise, gone === undefined && row !== undefined);
  };

  function showFigures(row) {
    const history = state.history.get(keyOf(service, name, row.kind)) ?? [];
    const values = (field) => history.map((each) => each[field]);
    tiles.calls.update(rate(row.calls_per_second), values("calls"));
    tiles.errors.update(errorRate(row.errors_per_second), values("errors"), { bad: row.errors_per_second > 0 });
    tiles.p50.update(milliseconds(row.p50_ms), values("p50"));
    tiles.p99.update(milliseconds(row.p99_ms), values("p99"));
    tiles.now.update(row.waiting ? `${count(row.in_flight)} + ${count(row.waiting)} waiting` : count(row.in_flight));
    tiles.queue.update(count(row.queue));
    failure.hidden = !row.last_error;
    put(failure, row.last_error ? `Last error: ${row.last_error}` : "");
    const described = methodOf(service, name, row.kind);
    const known = [
      ["Kind", row.kind],
      ["Queue", described?.queue],
      ["Route", described?.route],
      ["Instances", count(row.instances)],
      ["Consumers", row.consumers === null ? null : count(row.consumers)],
      ["Calls since the start", row.calls === null ? null : count(row.calls)],
      ["Errors since the start", row.errors === null ? null : count(row.errors)],
      ...Object.entries(described?.facts ?? {}),
    ].filter(([, text]) => text !== null && text !== undefined && text !== "");
    const made = ([label]) => {
      const value = h("dd", { class: "mono" });
      return { element: h("div", {}, h("dt", {}, label), value), value };
    };
    keyed(facts, known, ([label]) => label, made, (child, [, text]) => put(child.value, text));
  }
}

const SIGNS = { var_positional: "*", var_keyword: "**" };
const COMPONENTS = (promise) => ({ components: { schemas: promise.schemas } });

/** The arguments as a table, the types of the result and of the payload, and all schemas. */
function shapes(promise) {
  if (promise === null) return h("p", { class: "note" }, "Asking the service…");
  if (promise.why !== undefined) return h("p", { class: "note" }, `No description: ${promise.why}.`);
  const root = COMPONENTS(promise);
  const made = [];
  if (promise.parameters) made.push(argumentsTable(promise, root));
  if (promise.event_type) made.push(h("p", {}, "Handles ", h("code", {}, promise.event_type), " of ", h("code", {}, promise.source_service), "."));
  for (const [label, schema] of [["Payload: ", promise.payload], [promise.stream ? "Each item: " : "Result: ", promise.result]]) {
    if (schema) made.push(h("p", {}, label, h("code", {}, typeOf(schema, root))));
  }
  if (promise.errors?.length) made.push(h("p", {}, "Expected errors: ", promise.errors.map((each, at) => [at ? ", " : "", h("code", { title: each.path }, each.name)])));
  if (promise.idempotent) made.push(h("p", {}, h("span", { class: "badge" }, "idempotent"), " A call with a key runs once."));
  const { schemas, ...own } = promise;
  made.push(h("details", {}, h("summary", {}, "JSON Schemas"), h("pre", { tabindex: 0 }, JSON.stringify({ ...own, schemas: used(own, schemas) }, null, 2))));
  return made;
}

function argumentsTable({ parameters }, root) {
  if (parameters.length === 0) return h("p", { class: "note" }, "It takes no arguments.");
  const rows = parameters.map(({ name, kind, required, schema }) => {
    const standard = required ? h("span", { class: "required" }, "required") : schema.default === undefined ? "–" : h("code", {}, JSON.stringify(schema.default));
    return h("tr", {}, h("th", { scope: "row", class: "mono" }, `${SIGNS[kind] ?? ""}${name}`), h("td", {}, h("code", {}, typeOf(schema, root))), h("td", {}, standard));
  });
  const table = h(
    "table",
    {},
    h("caption", { class: "hidden" }, "Arguments"),
    h("thead", {}, h("tr", {}, ["Argument", "Type", "Default"].map((label) => h("th", { scope: "col" }, label)))),
    h("tbody", {}, rows),
  );
  return scrolling("Arguments", table);
}

/** The schemas that a value refers to, and those that these refer to. */
function used(value, schemas, found = {}) {
  for (const [, name] of JSON.stringify(value).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) {
    if (name in schemas && !(name in found)) {
      found[name] = schemas[name];
      used(schemas[name], schemas, found);
    }
  }
  return found;
}

const CALLER_CLASSES = ["", "number", "number", "number middle"];

function callersTable() {
  const body = h("tbody", {});
  const table = h(
    "table",
    {},
    h("caption", { class: "hidden" }, "Callers"),
    h("thead", {}, h("tr", {}, ["Caller", "Calls /s", "Calls", "Last call"].map((label, at) => h("th", { scope: "col", class: CALLER_CLASSES[at] }, label)))),
    body,
  );
  const box = scrolling("Callers", table);
  const none = h("p", { class: "note" }, "No caller seen yet.");
  return {
    element: h("div", {}, box, none),
    update(found) {
      box.hidden = found.length === 0;
      none.hidden = found.length > 0;
      keyed(body, found, (edge) => keyOf(edge.from, edge.fromMethod, edge.kind), makeCaller, (child, edge) => child.update(edge));
    },
  };
}

function makeCaller(edge) {
  const name = edge.fromMethod ? `${edge.from}.${edge.fromMethod}` : edge.from;
  const known = state.rows.has(edge.from);
  const figures = CALLER_CLASSES.slice(1).map((kind) => h("td", { class: kind }));
  const first = h("th", { scope: "row", class: "mono" }, known ? h("a", { href: linkTo(edge.from, edge.fromMethod) }, name) : name);
  return {
    element: h("tr", {}, first, figures),
    update(now) {
      [rate(now.perSecond), count(now.calls), now.ago < 5 ? "now" : `${duration(now.ago)} ago`].forEach((text, at) => put(figures[at], text));
    },
  };
}

// --- try it

function tryIt(service, name) {
  const body = h("div", {});
  const element = h("section", { class: "panel try", "aria-label": "Try it" }, h("h2", {}, "Try it"), body);
  let before = "";

  function update(described, promise, answers) {
    const mode = modeOf(described, promise, answers);
    // What the user has entered stays if the service only restarts.
    const key = `${mode} ${mode === "form" ? JSON.stringify(promise) : ""}`;
    if (key === before) return;
    before = key;
    const shown = {
      form: () => form(service, name, described.stream, promise),
      token: () => tokenForm(),
      readonly: () =>
        h("p", { class: "note" }, "This console shows only. To call methods and replay messages, start it with ", h("code", {}, "--allow-changes"), "."),
      other: () => h("p", { class: "note" }, "Nobody calls this method: an event, a message, a timer or a request starts it."),
      gone: () => h("p", { class: "note" }, "No instance answers."),
      wait: () => h("p", { class: "note" }, "Asking the services…"),
    };
    fill(body, shown[mode]());
  }
  return { element, update };
}

function modeOf(described, promise, answers) {
  if (state.facts === null || state.view === null) return "wait";
  if (described && described.kind !== "Rpc") return "other";
  if (!state.facts.changes) return "readonly";
  if (!answers || !described) return "gone";
  if (!hasToken()) return "token";
  return promise === null ? "wait" : "form";
}

/** The form for the token that the command printed. */
export function tokenForm() {
  const input = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
  const trouble = h("p", { class: "failure", role: "alert", hidden: true });
  async function submit(event) {
    event.preventDefault();
    try {
      await useToken(input.value.trim());
    } catch (error) {
      trouble.hidden = false;
      put(trouble, error.message);
      input.focus();
    }
  }
  return h(
    "form",
    { on: { submit } },
    h("p", { class: "note" }, "Enter the token that ", h("code", {}, "aiorpc console"), " printed, or open the URL that it printed."),
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), input),
    h("button", { type: "submit", class: "primary" }, "Use the token"),
    trouble,
  );
}

function form(service, name, isStream, promise) {
  const parameters = promise.parameters?.map(asField);
  const fields = parameters ? fieldsOf(parameters, COMPONENTS(promise), { isSecret: secretsOf(promise) }) : null;
  const raw = h("textarea", { id: "raw", rows: 5, class: "mono", spellcheck: "false" }, "{}");
  const rawField = h(
    "div",
    { class: "field" },
    h("label", { for: "raw" }, "Arguments by name, as a JSON object"),
    raw,
  );
  const asJson = h("input", { type: "checkbox", id: "as-json" });
  const timeout = h("input", { id: "timeout", inputmode: "decimal", value: "30", size: 5, autocomplete: "off" });
  const call = h("button", { type: "submit", class: "primary" }, "Call");
  const stop = h("button", { type: "button", hidden: true }, "Cancel");
  const trouble = h("p", { class: "failure text", role: "alert", hidden: true });
  const result = h("div", { class: "result", role: "status" });
  let running = null;

  const swap = () => {
    const useRaw = fields === null || asJson.checked;
    rawField.hidden = !useRaw;
    if (fields) fields.element.hidden = useRaw;
  };
  asJson.addEventListener("change", () => {
    if (asJson.checked) {
      try {
        raw.value = JSON.stringify(fields.value(), null, 2);
      } catch {
        // The fields are not whole yet.
      }
    }
    swap();
  });
  swap();
  stop.addEventListener("click", () => running?.abort());

  function fail(text, input) {
    trouble.hidden = false;
    put(trouble, text);
    if (input) {
      input.setAttribute("aria-invalid", "true");
      input.focus();
    }
  }

  async function submit(event) {
    event.preventDefault();
    if (running) return;
    trouble.hidden = true;
    for (const input of element.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    let wish;
    try {
      wish = wanted();
    } catch (error) {
      fail(error.message, error.field);
      return;
    }
    running = new AbortController();
    set(call, "disabled", true);
    stop.hidden = false;
    fill(result, h("p", { class: "note" }, "Calling…"));
    try {
      fill(result, outcome(await change("/api/call", wish, running.signal)));
    } catch (error) {
      fill(result);
      fail(error.name === "AbortError" ? "The call is cancelled." : error.message);
    } finally {
      running = null;
      set(call, "disabled", null);
      stop.hidden = true;
    }
  }

  function wanted() {
    const useRaw = fields === null || asJson.checked;
    const kwargs = useRaw ? parsed(raw, "The arguments") : fields.value();
    if (kwargs === null || typeof kwargs !== "object" || Array.isArray(kwargs)) {
      throw Object.assign(new Error("The arguments must be a JSON object: each argument by its name"), { field: raw });
    }
    const seconds = Number(timeout.value);
    if (!(seconds > 0 && seconds <= 300)) {
      throw Object.assign(new Error("The timeout must be more than 0 and at most 300 seconds"), { field: timeout });
    }
    return { service, method: name, ...placed(kwargs, promise.parameters ?? []), stream: isStream, timeout: seconds };
  }

  const element = h(
    "form",
    { on: { submit }, novalidate: true },
    fields?.isEmpty && h("p", { class: "note" }, "It takes no arguments."),
    fields?.element,
    rawField,
    fields && !fields.isEmpty && h("div", { class: "check" }, asJson, h("label", { for: "as-json" }, "Edit as JSON")),
    h(
      "div",
      { class: "send" },
      call,
      stop,
      h("span", { class: "timeout" }, h("label", { for: "timeout" }, "Timeout"), timeout, h("span", { class: "unit" }, "s")),
    ),
    trouble,
    result,
  );
  return element;
}

/** A parameter as a field; one for any number of arguments takes a list or an object. */
function asField({ name, kind, required, schema }) {
  const many = { var_positional: { type: "array", items: schema }, var_keyword: { type: "object" } };
  return { name, required: required && !(kind in many), schema: many[kind] ?? schema };
}

/** Put arguments in their places: by position if a parameter takes them by position only. */
function placed(given, parameters) {
  const kwargs = { ...given };
  const take = (name) => {
    const value = kwargs[name];
    delete kwargs[name];
    return value;
  };
  const rest = parameters.find((each) => each.kind === "var_positional");
  const more = rest && Array.isArray(kwargs[rest.name]) ? take(rest.name) : [];
  const args = [];
  for (const { name, kind } of parameters) {
    const byPosition = kind === "positional_only" || (kind === "positional_or_keyword" && more.length > 0);
    if (!byPosition || !(name in kwargs)) break;
    args.push(take(name));
  }
  const named = parameters.find((each) => each.kind === "var_keyword");
  const others = named && named.name in kwargs ? take(named.name) : {};
  return { args: [...args, ...more], kwargs: { ...kwargs, ...others } };
}

function secretsOf(promise) {
  const named = promise.sensitive ?? [];
  return (path) => named.some((each) => path === each || path.startsWith(`${each}.`));
}

function outcome(tried) {
  const time = h("span", { class: "note" }, `${milliseconds(tried.milliseconds)} ms`);
  if (tried.error) {
    const origin = tried.remote ? "The method raised " : "";
    const parts = [h("h3", {}, h("span", { class: "badge bad" }, "Error"), " ", time), h("p", { class: "failure text" }, origin, h("b", {}, tried.error), tried.text && `: ${tried.text}`)];
    if (tried.messages && Object.keys(tried.messages).length) parts.push(h("pre", { tabindex: 0 }, JSON.stringify(tried.messages, null, 2)));
    return parts;
  }
  const text = JSON.stringify(tried.result, null, 2);
  const cut = text.length > MOST;
  return [
    h("h3", {}, h("span", { class: "badge good" }, "Answer"), " ", time),
    h("pre", { tabindex: 0, "aria-label": "Result" }, cut ? text.slice(0, MOST) : text),
    (cut || tried.more) && h("p", { class: "note" }, "There is more than is shown."),
  ];
}
