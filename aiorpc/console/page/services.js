// The view of all services, and the view of one service.

import { tile } from "./charts.js";
import { add, fill, h, keyed, put, scrolling } from "./dom.js";
import { clock, count, duration, errorRate, moment, rate } from "./format.js";
import { queuesOf, state, totals } from "./state.js";
import { aboutService, isOpen, methodTable, remembered } from "./table.js";

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
  const strip = h(
    "dl",
    { class: "tiles" },
    Object.values(tiles).map((each) => each.element),
  );
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
    tiles.instances.update(`${count(answering)}`, null, {
      bad: answering < state.instances.length,
    });
    tiles.calls.update(
      rate(sums.calls),
      history.map((each) => each.calls),
    );
    tiles.errors.update(
      errorRate(sums.errors),
      history.map((each) => each.errors),
      { bad: sums.errors > 0 },
    );
    tiles.running.update(
      count(sums.running),
      history.map((each) => each.running),
    );
    const waiting = names
      .flatMap((name) => [...queuesOf(name).values()])
      .reduce((sum, row) => sum + row.queue, 0);
    tiles.queue.update(state.view ? count(waiting) : "–");
    put(all, names.some(isOpen) ? "Fold all" : "Unfold all");
    const left = state.view?.left_out ?? 0;
    put(
      foot,
      left ? `${count(left)} methods are left out: an instance has too many for one answer.` : "",
    );
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
    h(
      "p",
      { class: "note" },
      "Start one, and it shows here: ",
      h("code", {}, "aiorpc run MODULE --broker URL"),
    ),
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
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        columns.map((label, at) =>
          h(
            "th",
            {
              scope: "col",
              class: at === 5 ? "number" : at === 2 || at === 3 || at === 4 ? "middle" : "",
            },
            label,
          ),
        ),
      ),
    ),
    body,
  );
  add(main, [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Breadcrumb" },
      h("a", { href: "#/services" }, "Services"),
      h("span", { "aria-current": "page" }, name),
    ),
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
    put(
      note,
      gone !== undefined
        ? `No answer since ${clock(new Date(gone))}.`
        : known
          ? aboutService(name)
          : state.view
            ? "No service of this name answers."
            : "Asking the services…",
    );
    note.classList.toggle("warn", gone !== undefined || (state.view !== null && !known));
    put(about, described?.description ?? "");
    const chips = Object.entries(described?.metadata ?? {});
    facts.hidden = chips.length === 0;
    keyed(
      facts,
      chips,
      ([key]) => key,
      ([key, text]) => ({ element: h("li", {}, h("b", {}, key), " ", text) }),
    );
    table.element.hidden = table.update().length === 0;
    const own = state.instances.filter((each) => each.service === name);
    keyed(
      body,
      own,
      (each) => each.id,
      makeInstance,
      (child, each) => child.update(each),
    );
  };
}

function makeInstance() {
  const made = Array.from({ length: 6 }, (_, at) =>
    h(
      at ? "td" : "th",
      at
        ? { class: at === 5 ? "number" : at >= 2 && at <= 4 ? "middle" : "" }
        : { scope: "row", class: "mono" },
    ),
  );
  const element = h("tr", {}, made);
  return {
    element,
    update(each) {
      element.classList.toggle("gone", !each.answers);
      const texts = [
        each.process,
        each.version || "–",
        each.aiorpc || "–",
        each.worker || "–",
        moment(each.started),
      ];
      texts.forEach((text, at) => put(made[at], text));
      put(made[5], each.answers ? duration(each.uptime) : "no answer");
    },
  };
}
