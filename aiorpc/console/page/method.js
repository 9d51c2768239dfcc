// The view of one method: what it does now, what it takes, and who calls it.

import { tile } from "./charts.js";
import { add, fill, h, keyed, linkTo, put, scrolling } from "./dom.js";
import { defaultOf, typeOf } from "./form.js";
import { clock, count, duration, errorRate, kindOf, milliseconds, rate } from "./format.js";
import { edges, keyOf, methodOf, promiseOf, state } from "./state.js";
import { COMPONENTS, tryIt } from "./trying.js";

/** What is known of a method that no service has, or whose service does not answer. */
const UNANSWERED = { why: "no service that answers has this method" };

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
  const failure = h("p", { class: "failure text", hidden: true });
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
    h(
      "dl",
      { class: "tiles" },
      Object.values(tiles).map((each) => each.element),
    ),
    failure,
    h("div", { class: "columns" }, left, trying.element),
  ]);
  let before;

  return function update() {
    const rows = (state.rows.get(service) ?? []).filter((row) => row.method === name);
    const row = rows[0];
    // An instance with very many methods leaves some out of what it says of itself.
    const described = methodOf(service, name, row?.kind) ?? (row && { kind: row.kind });
    const gone = state.gone.get(service);
    const isMissing = state.view !== null && !row;
    put(
      note,
      gone !== undefined
        ? `No answer since ${clock(new Date(gone))}.`
        : isMissing
          ? "No service that answers has this method."
          : "",
    );
    put(kind, row ? kindOf(row.kind, described?.stream) : "");
    const promise = described
      ? promiseOf(service, name, described.kind)
      : isMissing
        ? UNANSWERED
        : null;
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
    tiles.errors.update(errorRate(row.errors_per_second), values("errors"), {
      bad: row.errors_per_second > 0,
    });
    tiles.p50.update(milliseconds(row.p50_ms), values("p50"));
    tiles.p99.update(milliseconds(row.p99_ms), values("p99"));
    tiles.now.update(
      row.waiting
        ? `${count(row.in_flight)} + ${count(row.waiting)} waiting`
        : count(row.in_flight),
    );
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
    keyed(
      facts,
      known,
      ([label]) => label,
      made,
      (child, [, text]) => put(child.value, text),
    );
  }
}

const SIGNS = { var_positional: "*", var_keyword: "**" };

/** The arguments as a table, the types of the result and of the payload, and all schemas. */
function shapes(promise) {
  if (promise === null) return h("p", { class: "note" }, "Asking the service…");
  if (promise.why !== undefined)
    return h("p", { class: "note" }, `No description: ${promise.why}.`);
  const root = COMPONENTS(promise);
  const made = [];
  if (promise.parameters) made.push(argumentsTable(promise, root));
  if (promise.event_type)
    made.push(
      h(
        "p",
        {},
        "Handles ",
        h("code", {}, promise.event_type),
        " of ",
        h("code", {}, promise.source_service),
        ".",
      ),
    );
  for (const [label, schema] of [
    ["Payload: ", promise.payload],
    [promise.stream ? "Each item: " : "Result: ", promise.result],
  ]) {
    if (schema) made.push(h("p", {}, label, h("code", {}, typeOf(schema, root))));
  }
  if (promise.errors?.length)
    made.push(
      h(
        "p",
        {},
        "Expected errors: ",
        promise.errors.map((each, at) => [
          at ? ", " : "",
          h("code", { title: each.path }, each.name),
        ]),
      ),
    );
  if (promise.idempotent)
    made.push(
      h("p", {}, h("span", { class: "badge" }, "idempotent"), " A call with a key runs once."),
    );
  const { schemas, ...own } = promise;
  made.push(
    h(
      "details",
      {},
      h("summary", {}, "JSON Schemas"),
      h("pre", { tabindex: 0 }, JSON.stringify({ ...own, schemas: used(own, schemas) }, null, 2)),
    ),
  );
  return made;
}

function argumentsTable({ parameters }, root) {
  if (parameters.length === 0) return h("p", { class: "note" }, "It takes no arguments.");
  const rows = parameters.map(({ name, kind, required, schema }) => {
    const standard = required
      ? h("span", { class: "required" }, "required")
      : h("code", {}, defaultOf(schema) ?? "–");
    return h(
      "tr",
      {},
      h("th", { scope: "row", class: "mono" }, `${SIGNS[kind] ?? ""}${name}`),
      h("td", {}, h("code", {}, typeOf(schema, root))),
      h("td", {}, standard),
    );
  });
  const table = h(
    "table",
    {},
    h("caption", { class: "hidden" }, "Arguments"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["Argument", "Type", "Default"].map((label) => h("th", { scope: "col" }, label)),
      ),
    ),
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
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["Caller", "Calls /s", "Calls", "Last call"].map((label, at) =>
          h("th", { scope: "col", class: CALLER_CLASSES[at] }, label),
        ),
      ),
    ),
    body,
  );
  const box = scrolling("Callers", table);
  const none = h("p", { class: "note" }, "No caller seen yet.");
  return {
    element: h("div", {}, box, none),
    update(found) {
      box.hidden = found.length === 0;
      none.hidden = found.length > 0;
      keyed(
        body,
        found,
        (edge) => keyOf(edge.from, edge.fromMethod, edge.kind),
        makeCaller,
        (child, edge) => child.update(edge),
      );
    },
  };
}

function makeCaller(edge) {
  const name = edge.fromMethod ? `${edge.from}.${edge.fromMethod}` : edge.from;
  const known = state.rows.has(edge.from);
  const figures = CALLER_CLASSES.slice(1).map((kind) => h("td", { class: kind }));
  const first = h(
    "th",
    { scope: "row", class: "mono" },
    known ? h("a", { href: linkTo(edge.from, edge.fromMethod) }, name) : name,
  );
  return {
    element: h("tr", {}, first, figures),
    update(now) {
      [
        rate(now.perSecond),
        count(now.calls),
        now.ago < 5 ? "now" : `${duration(now.ago)} ago`,
      ].forEach((text, at) => put(figures[at], text));
    },
  };
}
