// The view of all services, the view of one service, and the table of methods that both have.

import { spark, tile } from "./charts.js";
import { add, fill, h, keyed, linkTo, put, scrolling, set } from "./dom.js";
import { clock, count, duration, errorRate, kindOf, milliseconds, moment, plural, rate } from "./format.js";
import { keyOf, methodOf, queuesOf, state, totals } from "./state.js";

/** Methods above which the services begin folded. */
const MANY = 60;

/** The columns after the name: how they read a row of a method, and in which width they show. */
const COLUMNS = [
  { name: "kind", label: "Kind", width: "middle" },
  { name: "calls", label: "Calls", unit: "/s", of: (row) => row.calls_per_second, show: rate, sorts: true },
  { name: "chart", label: "Recent", width: "wide" },
  { name: "errors", label: "Errors", unit: "/s", of: (row) => row.errors_per_second, show: errorRate, sorts: true, bad: true },
  { name: "p50", label: "p50", unit: "ms", of: (row) => row.p50_ms, show: milliseconds, width: "middle" },
  { name: "p99", label: "p99", unit: "ms", of: (row) => row.p99_ms, show: milliseconds, sorts: true },
  { name: "running", label: "Running", of: (row) => row.in_flight, show: count, width: "middle" },
  { name: "waiting", label: "Waiting", of: (row) => row.waiting, show: count, width: "wide" },
  { name: "queue", label: "Queue", of: (row) => row.queue, show: count, shared: true },
  { name: "consumers", label: "Consumers", of: (row) => row.consumers, show: count, width: "wide", shared: true },
];

const remembered = { filter: "", sort: "name", down: false, folded: new Map() };

/** The table. `only`: the one service to show. */
function methodTable(only) {
  const head = h("tr", {}, heading({ name: "name", label: "Method", sorts: true }));
  add(head, COLUMNS.map(heading));
  const table = h("table", { class: "methods" }, h("caption", { class: "hidden" }, "Methods and what they do now"));
  const first = h("thead", {}, head);
  table.append(first);
  const box = scrolling("Methods", table);

  function heading(column) {
    const label = [column.label, column.unit && h("span", { class: "unit" }, ` ${column.unit}`)];
    const cell = h("th", { scope: "col", class: classOf(column), "data-name": column.name });
    if (!column.sorts) add(cell, label);
    else cell.append(h("button", { type: "button", class: "sort", on: { click: () => sort(column.name) } }, label));
    return cell;
  }

  function sort(name) {
    remembered.down = remembered.sort === name ? !remembered.down : name !== "name";
    remembered.sort = name;
    update();
  }

  function update() {
    for (const cell of head.children) {
      const sorted = cell.dataset.name === remembered.sort;
      set(cell, "aria-sort", sorted ? (remembered.down ? "descending" : "ascending") : null);
    }
    const groups = [...state.rows]
      .filter(([name]) => only === undefined || name === only)
      .map(([name, rows]) => ({ name, rows: rows.filter(matches), totals: groupTotals(name, rows) }))
      .filter((group) => group.rows.length > 0);
    groups.sort(order((group) => [group.name, group.totals]));
    const body = (group) => makeGroup(group, only === undefined);
    keyed(table, groups, (group) => group.name, body, (child, group) => child.update(group), first);
    return groups;
  }

  return { element: box, update };
}

const classOf = (column) => `${["name", "kind"].includes(column.name) ? "" : "number"} ${column.width ?? ""}`.trim();

function matches(row) {
  const words = remembered.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${row.service}.${row.method} ${kindOf(row.kind, false)}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Compare by the chosen column; by name if the values are equal. */
function order(read) {
  const value = (figures) => {
    const column = COLUMNS.find((each) => each.name === remembered.sort);
    return column?.of(figures) ?? -1;
  };
  const turn = remembered.down ? -1 : 1;
  return (a, b) => {
    const [nameA, figuresA] = read(a);
    const [nameB, figuresB] = read(b);
    if (remembered.sort === "name") return turn * nameA.localeCompare(nameB);
    return turn * (value(figuresA) - value(figuresB)) || nameA.localeCompare(nameB);
  };
}

function groupTotals(name, rows) {
  const sums = totals(rows);
  const queues = [...queuesOf(name).values()];
  const all = (field) => (queues.length ? queues.reduce((sum, row) => sum + row[field], 0) : null);
  return {
    calls_per_second: sums.calls,
    errors_per_second: sums.errors,
    p50_ms: null,
    p99_ms: null,
    in_flight: sums.running,
    waiting: sums.waiting,
    queue: all("queue"),
    consumers: all("consumers"),
  };
}

/** The rows of a service: its own, unless it is alone, and those of its methods. */
function makeGroup({ name }, hasOwn) {
  const element = h("tbody", {});
  const fold = h("button", { type: "button", class: "fold", "aria-label": `Methods of ${name}` });
  const about = h("span", { class: "note" });
  const figures = cells();
  const own = h(
    "tr",
    { class: "service" },
    h("th", { scope: "rowgroup" }, h("div", { class: "name" }, fold, h("a", { href: linkTo(name) }, name), about)),
    figures.elements,
  );
  if (hasOwn) element.append(own);
  let last = null;
  fold.addEventListener("click", () => {
    remembered.folded.set(name, isOpen(name));
    update(last);
  });

  function update(group) {
    last = group;
    const open = !hasOwn || remembered.filter !== "" || isOpen(name);
    set(fold, "aria-expanded", String(open));
    const gone = state.gone.get(name);
    element.classList.toggle("gone", gone !== undefined);
    put(about, gone === undefined ? aboutService(name) : `no answer since ${clock(new Date(gone))}`);
    figures.update(group.totals, state.history.get(name));
    const shown = open ? [...group.rows].sort(order((row) => [row.method, row])) : [];
    const key = (row) => keyOf(row.method, row.kind);
    const shared = hasOwn ? sharedQueues(name) : new Set();
    keyed(element, shown, key, makeMethod, (child, row) => child.update(row, shared), hasOwn && own);
  }
  return { element, update };
}

/** The queues that several methods of a service share: their figures stand in its own row. */
function sharedQueues(name) {
  const seen = new Set();
  const shared = new Set();
  for (const { queue } of state.services.get(name)?.methods ?? []) {
    if (queue && seen.has(queue)) shared.add(queue);
    seen.add(queue);
  }
  return shared;
}

const isOpen = (name) => {
  const folded = remembered.folded.get(name);
  if (folded !== undefined) return !folded;
  return (state.view?.methods.length ?? 0) <= MANY;
};

function aboutService(name) {
  const version = state.services.get(name)?.version;
  const all = state.instances.filter((each) => each.service === name);
  const silent = all.filter((each) => !each.answers).length;
  const parts = [version, plural(all.length, "instance")];
  if (silent) parts.push(`${silent} without an answer`);
  return parts.filter(Boolean).join(" · ");
}

function makeMethod(row) {
  const note = h("span", { class: "note" });
  const figures = cells();
  const element = h(
    "tr",
    { class: "method" },
    h("th", { scope: "row" }, h("div", { class: "name" }, h("a", { href: linkTo(row.service, row.method) }, row.method), note)),
    figures.elements,
  );
  return {
    element,
    update(now, shared) {
      const described = methodOf(now.service, now.method, now.kind);
      put(note, described?.description ?? "");
      const history = state.history.get(keyOf(now.service, now.method, now.kind));
      figures.update(now, history, kindOf(now.kind, described?.stream), shared.has(described?.queue));
    },
  };
}

/** The cells after the name. */
function cells() {
  const line = spark();
  const badge = h("span", { class: "kind" });
  const made = COLUMNS.map((column) => {
    const cell = h("td", { class: classOf(column) });
    if (column.name === "chart") cell.append(line.element);
    if (column.name === "kind") cell.append(badge);
    return cell;
  });
  return {
    elements: made,
    update(row, history, kind = "", isShared = false) {
      put(badge, kind);
      line.update((history ?? []).map((each) => each.calls));
      COLUMNS.forEach((column, at) => {
        if (column.of === undefined) return;
        const value = column.of(row);
        put(made[at], isShared && column.shared ? "" : column.show(value));
        made[at].classList.toggle("none", !value);
        made[at].classList.toggle("bad", Boolean(column.bad && value));
      });
    },
  };
}

// --- the view of all services

export function services(main) {
  const filter = h("input", {
    type: "search",
    id: "filter",
    placeholder: "Filter: shop quote",
    autocomplete: "off",
    spellcheck: "false",
    value: remembered.filter,
    on: {
      input: () => {
        remembered.filter = filter.value;
        update();
      },
    },
  });
  const all = h("button", { type: "button", class: "quiet", on: { click: foldAll } });
  const tiles = {
    services: tile("Services", "", { chart: false }),
    instances: tile("Instances", "", { chart: false }),
    calls: tile("Calls", "/s"),
    errors: tile("Errors", "/s"),
    running: tile("Running", "calls"),
    queue: tile("Messages in queues", "", { chart: false }),
  };
  const table = methodTable();
  const foot = h("p", { class: "note", role: "status" });
  const empty = h("div", { class: "empty" });
  const strip = h("dl", { class: "tiles" }, Object.values(tiles).map((each) => each.element));
  const tools = h(
    "div",
    { class: "tools" },
    h("label", { for: "filter", class: "hidden" }, "Filter by service, method or kind"),
    filter,
    all,
  );
  add(main, [h("h1", { class: "hidden" }, "Services"), strip, tools, table.element, foot, empty]);

  function foldAll() {
    const open = [...state.rows.keys()].some(isOpen);
    for (const name of state.rows.keys()) remembered.folded.set(name, open);
    update();
  }

  function update() {
    const groups = table.update();
    const names = [...state.rows.keys()];
    const answering = state.instances.filter((each) => each.answers).length;
    const sums = totals(state.view?.methods ?? []);
    const history = state.history.get("") ?? [];
    tiles.services.update(count(names.length - state.gone.size));
    tiles.instances.update(`${count(answering)}`, null, { bad: answering < state.instances.length });
    tiles.calls.update(rate(sums.calls), history.map((each) => each.calls));
    tiles.errors.update(errorRate(sums.errors), history.map((each) => each.errors), { bad: sums.errors > 0 });
    tiles.running.update(count(sums.running), history.map((each) => each.running));
    const waiting = names.flatMap((name) => [...queuesOf(name).values()]).reduce((sum, row) => sum + row.queue, 0);
    tiles.queue.update(state.view ? count(waiting) : "–");
    put(all, names.some(isOpen) ? "Fold all" : "Unfold all");
    const left = state.view?.left_out ?? 0;
    put(foot, left ? `${count(left)} methods are left out: an instance has too many for one answer.` : "");
    table.element.hidden = groups.length === 0;
    tools.hidden = names.length === 0;
    empty.hidden = groups.length > 0;
    if (groups.length === 0) fill(empty, emptyText(names));
  }
  return update;
}

function emptyText(names) {
  if (state.view === null) return [h("p", {}, "Asking the services…")];
  if (names.length > 0) return [h("p", {}, "No method fits the filter.")];
  return [
    h("p", {}, "No service answers on this broker."),
    h("p", { class: "note" }, "Start one, and it shows here: ", h("code", {}, "aiorpc run MODULE --broker URL")),
  ];
}

// --- the view of one service

export function service(main, name) {
  const note = h("p", { class: "note" });
  const about = h("p", { class: "lead" });
  const facts = h("ul", { class: "chips", "aria-label": "Metadata" });
  const table = methodTable(name);
  const body = h("tbody", {});
  const columns = ["Process", "Version", "aiorpc", "Worker", "Running since", "Up"];
  const instances = h(
    "table",
    {},
    h("caption", { class: "hidden" }, "Instances"),
    h("thead", {}, h("tr", {}, columns.map((label, at) => h("th", { scope: "col", class: at === 5 ? "number" : at === 2 || at === 3 || at === 4 ? "middle" : "" }, label)))),
    body,
  );
  add(main, [
    h("nav", { class: "crumbs", "aria-label": "Breadcrumb" }, h("a", { href: "#/services" }, "Services"), h("span", { "aria-current": "page" }, name)),
    h("h1", {}, h("span", { class: "mono" }, name)),
    note,
    about,
    facts,
    h("h2", {}, "Methods"),
    table.element,
    h("h2", {}, "Instances"),
    scrolling("Instances", instances),
  ]);

  return function update() {
    const described = state.services.get(name);
    const gone = state.gone.get(name);
    const known = state.rows.has(name);
    put(note, gone !== undefined ? `No answer since ${clock(new Date(gone))}.` : known ? aboutService(name) : state.view ? "No service of this name answers." : "Asking the services…");
    note.classList.toggle("warn", gone !== undefined || (state.view !== null && !known));
    put(about, described?.description ?? "");
    const chips = Object.entries(described?.metadata ?? {});
    facts.hidden = chips.length === 0;
    keyed(facts, chips, ([key]) => key, ([key, text]) => ({ element: h("li", {}, h("b", {}, key), " ", text) }));
    table.element.hidden = table.update().length === 0;
    const own = state.instances.filter((each) => each.service === name);
    keyed(body, own, (each) => each.id, makeInstance, (child, each) => child.update(each));
  };
}

function makeInstance() {
  const made = Array.from({ length: 6 }, (_, at) => h(at ? "td" : "th", at ? { class: at === 5 ? "number" : at >= 2 && at <= 4 ? "middle" : "" } : { scope: "row", class: "mono" }));
  const element = h("tr", {}, made);
  return {
    element,
    update(each) {
      element.classList.toggle("gone", !each.answers);
      const texts = [each.process, each.version || "–", each.aiorpc || "–", each.worker || "–", moment(each.started)];
      texts.forEach((text, at) => put(made[at], text));
      put(made[5], each.answers ? duration(each.uptime) : "no answer");
    },
  };
}
