// Places the boxes of the call graph in layers, and the curves between them. Pure functions.
//
// The steps are those of Sugiyama: turn edges around that close a circle, give each box a layer
// right of its callers, put a joint on each layer that a long edge crosses, and order the boxes of a
// layer by the middle of their neighbours.

export const BOX = { width: 176, height: 56 };
const GAP = { across: 68, along: 26 };
/** What an arrow's head takes at the end of an edge. */
const HEAD = 7;
const JOINT = 14;
/** Rounds of ordering. More change little. */
const ROUNDS = 12;

/**
 * @param names the boxes
 * @param links {from, to} pairs; both ends are in names
 * @param down whether layers go down instead of to the right
 */
export function placed(names, links, down) {
  const between = links.filter(({ from, to }) => from !== to);
  const [layer, turned] = layers(names, between);
  const nodes = new Map(
    names.map((name) => [
      name,
      { name, layer: layer.get(name), joint: false, left: [], right: [] },
    ]),
  );
  const paths = between.map((link, at) => pathOf(link, turned.has(link), nodes, at));
  const rows = [];
  for (const node of nodes.values()) (rows[node.layer] ??= []).push(node);
  for (let round = 0; round < ROUNDS; round += 1) sweep(rows, round % 2 === 0);
  const size = place(rows, down);
  return {
    ...size,
    boxes: names.map((name) => nodes.get(name)),
    curves: paths.map(({ link, stops, back }) => ({ link, d: curve(stops, back, down) })),
    loops: links
      .filter(({ from, to }) => from === to)
      .map((link) => ({ link, d: loop(nodes.get(link.from)) })),
  };
}

/** The layer of each box, and the edges to turn around. */
function layers(names, links) {
  const out = new Map(names.map((name) => [name, []]));
  for (const link of links) out.get(link.from).push(link);
  const turned = new Set();
  const done = new Map(); // false: on the way
  const visit = (name) => {
    done.set(name, false);
    for (const link of out.get(name)) {
      if (done.get(link.to) === false) turned.add(link);
      else if (!done.has(link.to)) visit(link.to);
    }
    done.set(name, true);
  };
  const called = new Set(links.map((link) => link.to));
  for (const name of [...names].sort((a, b) => called.has(a) - called.has(b)))
    if (!done.has(name)) visit(name);
  const layer = new Map(names.map((name) => [name, 0]));
  for (let round = 0; round < names.length; round += 1) {
    let changed = false;
    for (const link of links) {
      const [from, to] = turned.has(link) ? [link.to, link.from] : [link.from, link.to];
      if (layer.get(to) <= layer.get(from)) {
        layer.set(to, layer.get(from) + 1);
        changed = true;
      }
    }
    if (!changed) break;
  }
  return [layer, turned];
}

/** The stops of an edge: its two boxes, and a joint on each layer between them. */
function pathOf(link, back, nodes, at) {
  const [from, to] = back ? [link.to, link.from] : [link.from, link.to];
  const stops = [nodes.get(from)];
  for (let layer = nodes.get(from).layer + 1; layer < nodes.get(to).layer; layer += 1) {
    const joint = { name: `\u0000${at} ${layer}`, layer, joint: true, left: [], right: [] };
    nodes.set(joint.name, joint);
    stops.push(joint);
  }
  stops.push(nodes.get(to));
  stops.slice(1).forEach((stop, index) => {
    stop.left.push(stops[index]);
    stops[index].right.push(stop);
  });
  return { link, back, stops };
}

function sweep(rows, forward) {
  const order = forward ? rows.slice(1) : rows.slice(0, -1).reverse();
  for (const row of rows) row.forEach((node, at) => (node.at = at));
  for (const row of order) {
    const middle = (node) => {
      const near = forward ? node.left : node.right;
      return near.length ? near.reduce((sum, each) => sum + each.at, 0) / near.length : node.at;
    };
    const wanted = new Map(row.map((node) => [node, middle(node)]));
    row.sort((a, b) => wanted.get(a) - wanted.get(b) || a.at - b.at);
    row.forEach((node, at) => (node.at = at));
  }
}

/** Give each box its place. Returns the size of the picture. */
function place(rows, down) {
  const long = (node) => (node.joint ? JOINT : down ? BOX.width : BOX.height);
  const lengths = rows.map(
    (row) => row.reduce((sum, node) => sum + long(node), 0) + GAP.along * (row.length - 1),
  );
  const longest = Math.max(...lengths, 0);
  const thick = down ? BOX.height : BOX.width;
  const step = thick + (down ? GAP.across * 0.9 : GAP.across);
  rows.forEach((row, number) => {
    let along = (longest - lengths[number]) / 2;
    for (const node of row) {
      const across = number * step;
      [node.x, node.y] = down ? [along, across] : [across, along];
      node.length = long(node);
      along += node.length + GAP.along;
    }
  });
  const across = Math.max(rows.length * step - (step - thick), 0);
  return down ? { width: longest, height: across } : { width: across, height: longest };
}

/** Where an edge leaves or enters a box, or passes a joint, on its way to later layers. */
function port(node, leaves, down) {
  const middle = node.length / 2;
  const deep = leaves ? (down ? BOX.height : BOX.width) : 0;
  return down ? [node.x + middle, node.y + deep] : [node.x + deep, node.y + middle];
}

function curve(stops, back, down) {
  const points = [];
  stops.forEach((stop, at) => {
    if (at > 0) points.push(port(stop, false, down));
    if (at < stops.length - 1) points.push(port(stop, true, down)); // straight past the boxes of a layer
  });
  if (back) points.reverse();
  const end = points.at(-1);
  const head = back ? HEAD : -HEAD;
  points[points.length - 1] = down ? [end[0], end[1] + head] : [end[0] + head, end[1]];
  const round = (number) => Math.round(number * 10) / 10;
  const at = ([x, y]) => `${round(x)} ${round(y)}`;
  let d = `M${at(points[0])}`;
  points.slice(1).forEach((to, index) => {
    const from = points[index];
    const [dx, dy] = [(to[0] - from[0]) / 2, (to[1] - from[1]) / 2];
    const one = down ? [from[0], from[1] + dy] : [from[0] + dx, from[1]];
    const two = down ? [to[0], to[1] - dy] : [to[0] - dx, to[1]];
    d += `C${at(one)} ${at(two)} ${at(to)}`;
  });
  return d;
}

/** A service that calls itself. */
function loop(node) {
  const [x, y] = [node.x + BOX.width - 44, node.y];
  return `M${x} ${y}C${x - 4} ${y - 26} ${x + 34} ${y - 26} ${x + 26} ${y}`;
}
