// Small charts of the last minutes, and the tiles that hold them.

import { h, put, s, set } from "./dom.js";
import { KEPT } from "./state.js";

/** A line without axes: it shows the shape, and the number beside it the value. */
export function spark({ width = 96, height = 24, wide = false } = {}) {
  const area = s("path", { class: "area" });
  const line = s("path", { class: "line" });
  const element = s(
    "svg",
    {
      class: wide ? "spark wide" : "spark",
      viewBox: `0 0 ${width} ${height}`,
      width: wide ? null : width,
      height,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
      focusable: "false",
    },
    area,
    line,
  );
  return {
    element,
    update(values) {
      const [path, last, first] = drawn(values, width, height);
      set(line, "d", path);
      set(area, "d", path && `${path}L${last} ${height}L${first} ${height}Z`);
    },
  };
}

function drawn(values, width, height) {
  const most = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const step = width / (KEPT - 1);
  const from = width - (values.length - 1) * step;
  const points = [];
  values.forEach((value, at) => {
    if (value === null || value === undefined) return;
    const y = height - 1.5 - (value / most) * (height - 3);
    points.push([from + at * step, y]);
  });
  if (points.length < 2 || most < 1e-8) return [null, 0, 0]; // a line at zero says nothing
  const round = (number) => Math.round(number * 10) / 10;
  const path = points.map(([x, y], at) => `${at ? "L" : "M"}${round(x)} ${round(y)}`).join("");
  return [path, round(points.at(-1)[0]), round(points[0][0])];
}

/** A number with its name, its unit and, if there are values, its last minutes. */
export function tile(label, unit = "", { chart = true } = {}) {
  const value = h("span", { class: "value" }, "–");
  const line = chart ? spark({ width: 160, height: 28, wide: true }) : null;
  const element = h(
    "div",
    { class: "tile" },
    h("dt", {}, label),
    h("dd", {}, value, unit && h("span", { class: "unit" }, ` ${unit}`)),
    line?.element,
  );
  return {
    element,
    update(text, values, { bad = false } = {}) {
      put(value, text);
      element.classList.toggle("bad", bad);
      if (line && values) line.update(values);
    },
  };
}
