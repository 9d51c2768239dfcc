// Makes and changes elements. A text from a service becomes a text node, never HTML.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value))
        element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  add(element, children);
  return element;
}

/** Append nodes and texts, also of nested lists. */
export function add(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Make an element: `h("a", {href, on: {click}}, "text", other)`. */
export const h = (tag, props, ...children) => filled(document.createElement(tag), props, children);

/** Make an element of SVG. */
export const s = (tag, props, ...children) =>
  filled(document.createElementNS(SVG, tag), props, children);

/** Set the text of an element, if it changes. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace all children. */
export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
}

/** Set or remove an attribute. */
export function set(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/**
 * Show one child for each item: make new ones, update all, remove the others, keep the order. The
 * user's focus and selection stay, because nothing else changes. `after`: a first child that stays.
 */
export function keyed(parent, items, keyOf, make, update, after) {
  const kept = (parent.keptChildren ??= new Map());
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, child] of kept) {
    if (!wanted.has(key)) {
      child.element.remove();
      kept.delete(key);
    }
  }
  let next = after ? after.nextSibling : parent.firstChild;
  for (const [key, item] of wanted) {
    let child = kept.get(key);
    if (child === undefined) {
      child = make(item);
      kept.set(key, child);
    }
    if (child.element === next) next = next.nextSibling;
    else parent.insertBefore(child.element, next);
    update?.(child, item);
  }
}

/** A table that scrolls inside its box, and that a keyboard can scroll. */
export const scrolling = (label, table) =>
  h("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, table);

/** The link to a service, or to a method of it. */
export const linkTo = (...names) => `#/services/${names.map(encodeURIComponent).join("/")}`;
