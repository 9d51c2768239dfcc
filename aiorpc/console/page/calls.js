// The view of calls: who calls whom, as a picture and as a table.

import { add, fill, h, keyed, linkTo, put, s, scrolling, set } from "./dom.js";
import { count, duration, errorRate, kindOf, rate } from "./format.js";
import { BOX, placed } from "./layout.js";
import { edges, keyOf, state, totals } from "./state.js";

/** Pixels below which the layers go down. */
const NARROW = 720;
const PAD = 24;
/** A large picture becomes smaller down to this, and then scrolls. */
const SMALLEST = 0.7;
/** Kinds of entrypoints that a message starts, not a call. */
const isCall = (kind) => kind === "Rpc";

export function calls(main) {
  const picture = h("div", { class: "picture", role: "group", "aria-label": "Call graph" });
  const box = scrolling("Call graph: the table below has the same calls", picture);
  const legend = h(
    "p",
    { class: "note legend" },
    h("span", { class: "key call" }),
    "call ",
    h("span", { class: "key event" }),
    "event or message ",
    h("span", { class: "key bad" }),
    "errors now",
  );
  const body = h("tbody", {});
  const heads = [
    ["Caller"],
    ["Called"],
    ["Kind", "middle"],
    ["Calls /s", "number"],
    ["Calls", "number middle"],
    ["Last call", "number wide"],
  ];
  const table = h(
    "table",
    {},
    h("caption", { class: "hidden" }, "Calls"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map(([label, kind]) => h("th", { scope: "col", class: kind ?? "" }, label)),
      ),
    ),
    body,
  );
  const list = h("section", {}, h("h2", {}, "All calls"), scrolling("Calls", table));
  const empty = h("div", { class: "empty" });
  add(main, [h("h1", {}, "Who calls whom"), box, legend, list, empty]);
  let drawn = { key: "", parts: null };

  return function update() {
    const found = edges();
    const none = found.length === 0;
    for (const part of [box, legend, list]) part.hidden = none;
    empty.hidden = !none;
    if (none) {
      fill(
        empty,
        state.view === null
          ? h("p", {}, "Asking the services…")
          : [
              h("p", {}, "No call seen yet."),
              h(
                "p",
                { class: "note" },
                "Services of this aiorpc remember who called them, from their start on.",
              ),
            ],
      );
      return;
    }
    const links = linksOf(found);
    const names = [...new Set([...links.flatMap((link) => [link.from, link.to])])].sort();
    const down = box.clientWidth > 0 && box.clientWidth < NARROW;
    const key = JSON.stringify([
      names,
      links.map((link) => [link.from, link.to, link.isCall]),
      down,
    ]);
    if (key !== drawn.key) drawn = { key, parts: draw(picture, names, links, down) };
    drawn.parts.update(links);
    found.sort((a, b) => (b.perSecond ?? 0) - (a.perSecond ?? 0) || a.from.localeCompare(b.from));
    const edgeKey = (edge) => keyOf(edge.from, edge.fromMethod, edge.to, edge.method, edge.kind);
    keyed(body, found, edgeKey, makeRow, (child, edge) => child.update(edge));
  };
}

/** One link for all calls between two services. */
function linksOf(found) {
  const links = new Map();
  for (const edge of found) {
    const key = keyOf(edge.from, edge.to);
    const link = links.get(key) ?? {
      from: edge.from,
      to: edge.to,
      perSecond: 0,
      calls: 0,
      isCall: false,
    };
    link.perSecond += edge.perSecond ?? 0;
    link.calls += edge.calls;
    link.isCall ||= isCall(edge.kind);
    links.set(key, link);
  }
  return [...links.values()].sort((a, b) => keyOf(a.from, a.to).localeCompare(keyOf(b.from, b.to)));
}

function draw(picture, names, links, down) {
  const layout = placed(names, links, down);
  const [width, height] = [layout.width + 2 * PAD, layout.height + 2 * PAD];
  const curves = [...layout.curves, ...layout.loops].map(({ link, d }) => ({
    key: keyOf(link.from, link.to),
    link,
    line: s("path", { d, class: link.isCall ? "edge" : "edge event", "marker-end": "url(#arrow)" }),
  }));
  const boxes = layout.boxes.map((node) => makeBox(node, curves));
  const arrow = s(
    "marker",
    {
      id: "arrow",
      viewBox: "0 0 10 10",
      refX: 2,
      refY: 5,
      markerWidth: 11,
      markerHeight: 11,
      markerUnits: "userSpaceOnUse",
      orient: "auto",
    },
    s("path", { d: "M0 0.5L9.5 5L0 9.5Z", class: "arrow" }),
  );
  const svg = s(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, class: "graph" },
    s("title", {}, "Who calls whom"),
    s("defs", {}, arrow),
    s(
      "g",
      { transform: `translate(${PAD} ${PAD})` },
      curves.map((each) => each.line),
      boxes.map((each) => each.element),
    ),
  );
  svg.style.minWidth = `${Math.round(width * SMALLEST)}px`;
  fill(picture, svg);
  return {
    update(now) {
      const found = new Map(now.map((link) => [keyOf(link.from, link.to), link]));
      for (const { key, line } of curves) {
        const link = found.get(key);
        const thick = 1.25 + Math.min(3.25, Math.log2(1 + (link?.perSecond ?? 0)) * 0.45);
        line.style.strokeWidth = `${thick.toFixed(2)}px`;
        line.classList.toggle("idle", !link?.perSecond);
      }
      for (const each of boxes) each.update(now);
    },
  };
}

/** A service, or a program that calls services and is none. */
function makeBox(node, curves) {
  const known = state.rows.has(node.name);
  const label = s("text", { x: 14, y: 23, class: "label" }, shortened(node.name, 21));
  const figures = s("text", { x: 14, y: 42, class: "figures" });
  const parts = [
    s("title", {}, node.name),
    s("rect", { width: BOX.width, height: BOX.height, rx: 10 }),
    label,
    figures,
  ];
  const place = `translate(${node.x} ${node.y})`;
  const element = known
    ? s("a", { href: linkTo(node.name), class: "node", transform: place }, parts)
    : s("g", { class: "node outside", transform: place }, parts);
  const near = (on) => () => {
    for (const { link, line } of curves)
      line.classList.toggle("near", on && (link.from === node.name || link.to === node.name));
  };
  for (const [event, on] of [
    ["mouseenter", true],
    ["mouseleave", false],
    ["focus", true],
    ["blur", false],
  ])
    element.addEventListener(event, near(on));
  return {
    element,
    update(links) {
      const rows = state.rows.get(node.name);
      if (!rows) {
        const made = links
          .filter((link) => link.from === node.name)
          .reduce((sum, link) => sum + link.perSecond, 0);
        put(figures, `calls ${rate(made)} /s`);
        set(element, "aria-label", node.name);
        return;
      }
      const sums = totals(rows);
      const bad = sums.errors > 0;
      const text = bad
        ? `${rate(sums.calls)} /s · ${errorRate(sums.errors)} errors/s`
        : `${rate(sums.calls)} /s`;
      put(figures, text);
      element.classList.toggle("bad", bad);
      element.classList.toggle("gone", state.gone.has(node.name));
      set(element, "aria-label", `${node.name}: ${text}`);
    },
  };
}

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function makeRow(edge) {
  const named = (service, method) => {
    const text = method ? `${service}.${method}` : service;
    return state.rows.has(service)
      ? h("a", { href: linkTo(...[service, method].filter(Boolean)) }, text)
      : text;
  };
  const cells = [
    h("td", { class: "number" }),
    h("td", { class: "number middle" }),
    h("td", { class: "number wide" }),
  ];
  const element = h(
    "tr",
    {},
    h("th", { scope: "row", class: "mono" }, named(edge.from, edge.fromMethod)),
    h("td", { class: "mono" }, named(edge.to, edge.method)),
    h("td", { class: "middle" }, h("span", { class: "kind" }, kindOf(edge.kind, false))),
    cells,
  );
  return {
    element,
    update(now) {
      const last = now.ago < 5 ? "now" : `${duration(now.ago)} ago`;
      [rate(now.perSecond), count(now.calls), last].forEach((text, at) => put(cells[at], text));
    },
  };
}
