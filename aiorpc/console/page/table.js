// The table of methods and what they do now: by service, with a filter and an order.

import { spark } from "./charts.js";
import { add, h, keyed, linkTo, put, scrolling, set } from "./dom.js";
import { clock, count, errorRate, kindOf, milliseconds, plural, rate } from "./format.js";
import { keyOf, methodOf, queuesOf, state, totals } from "./state.js";

/** Methods above which the services begin folded. */
const MANY = 60;

/** The columns after the name: how they read a row of a method, and in which width they show. */
const COLUMNS = [
  { name: "kind", label: "Kind", width: "middle" },
  {
    name: "calls",
    label: "Calls",
    unit: "/s",
    of: (row) => row.calls_per_second,
    show: rate,
    sorts: true,
  },
  { name: "chart", label: "Recent", width: "wide" },
  {
    name: "errors",
    label: "Errors",
    unit: "/s",
    of: (row) => row.errors_per_second,
    show: errorRate,
    sorts: true,
    bad: true,
  },
  {
    name: "p50",
    label: "p50",
    unit: "ms",
    of: (row) => row.p50_ms,
    show: milliseconds,
    width: "middle",
  },
  {
    name: "p99",
    label: "p99",
    unit: "ms",
    of: (row) => row.p99_ms,
    show: milliseconds,
    sorts: true,
  },
  { name: "running", label: "Running", of: (row) => row.in_flight, show: count, width: "middle" },
  { name: "waiting", label: "Waiting", of: (row) => row.waiting, show: count, width: "wide" },
  { name: "queue", label: "Queue", of: (row) => row.queue, show: count, shared: true },
  {
    name: "consumers",
    label: "Consumers",
    of: (row) => row.consumers,
    show: count,
    width: "wide",
    shared: true,
  },
];

export const remembered = { filter: "", sort: "name", down: false, folded: new Map() };

/** The table. `only`: the one service to show. */
export function methodTable(only) {
  const head = h("tr", {}, heading({ name: "name", label: "Method", sorts: true }));
  add(head, COLUMNS.map(heading));
  const table = h(
    "table",
    { class: "methods" },
    h("caption", { class: "hidden" }, "Methods and what they do now"),
  );
  const first = h("thead", {}, head);
  table.append(first);
  const box = scrolling("Methods", table);

  function heading(column) {
    const label = [column.label, column.unit && h("span", { class: "unit" }, ` ${column.unit}`)];
    const cell = h("th", { scope: "col", class: classOf(column), "data-name": column.name });
    if (!column.sorts) add(cell, label);
    else
      cell.append(
        h(
          "button",
          { type: "button", class: "sort", on: { click: () => sort(column.name) } },
          label,
        ),
      );
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
      .map(([name, rows]) => ({
        name,
        rows: rows.filter(matches),
        totals: groupTotals(name, rows),
      }))
      .filter((group) => group.rows.length > 0);
    groups.sort(order((group) => [group.name, group.totals]));
    const body = (group) => makeGroup(group, only === undefined);
    keyed(
      table,
      groups,
      (group) => group.name,
      body,
      (child, group) => child.update(group),
      first,
    );
    return groups;
  }

  return { element: box, update };
}

const classOf = (column) =>
  `${["name", "kind"].includes(column.name) ? "" : "number"} ${column.width ?? ""}`.trim();

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
    p50_ms: state.view?.durations[name]?.p50_ms,
    p99_ms: state.view?.durations[name]?.p99_ms,
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
    h(
      "th",
      { scope: "rowgroup" },
      h("div", { class: "name" }, fold, h("a", { href: linkTo(name) }, name), about),
    ),
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
    put(
      about,
      gone === undefined ? aboutService(name) : `no answer since ${clock(new Date(gone))}`,
    );
    figures.update(group.totals, state.history.get(name));
    const shown = open ? [...group.rows].sort(order((row) => [row.method, row])) : [];
    const key = (row) => keyOf(row.method, row.kind);
    const shared = hasOwn ? sharedQueues(name) : new Set();
    keyed(
      element,
      shown,
      key,
      makeMethod,
      (child, row) => child.update(row, shared),
      hasOwn && own,
    );
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

export const isOpen = (name) => {
  const folded = remembered.folded.get(name);
  if (folded !== undefined) return !folded;
  return (state.view?.methods.length ?? 0) <= MANY;
};

export function aboutService(name) {
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
    h(
      "th",
      { scope: "row" },
      h(
        "div",
        { class: "name" },
        h("a", { href: linkTo(row.service, row.method) }, row.method),
        note,
      ),
    ),
    figures.elements,
  );
  return {
    element,
    update(now, shared) {
      const described = methodOf(now.service, now.method, now.kind);
      put(note, described?.description ?? "");
      const history = state.history.get(keyOf(now.service, now.method, now.kind));
      figures.update(
        now,
        history,
        kindOf(now.kind, described?.stream),
        shared.has(described?.queue),
      );
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
