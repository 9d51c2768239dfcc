// Makes a form from a JSON Schema, and reads a value from it. What has no field is edited as JSON.

import { h } from "./dom.js";

/** Levels of objects that get fields. Deeper ones are edited as JSON. */
const DEEPEST = 3;

/** Follow `$ref` inside the document, also where a default stands beside it (`allOf`). */
export function resolved(schema, root) {
  let found = schema ?? {};
  for (let steps = 0; steps < 20; steps += 1) {
    if (found?.allOf?.length === 1) {
      const { allOf, ...own } = found;
      found = { ...allOf[0], ...own };
    }
    if (typeof found?.$ref !== "string") break;
    const path = found.$ref.replace(/^#\/?/, "").split("/").filter(Boolean);
    const target = path.reduce(
      (at, name) => at?.[name.replace(/~1/g, "/").replace(/~0/g, "~")],
      root,
    );
    const own = { ...found };
    delete own.$ref;
    found = { ...(target ?? {}), ...own };
  }
  return found === true || found === null || typeof found !== "object" ? {} : found;
}

/** The alternatives of a schema without null, and whether null is one of them. */
function alternatives(schema, root) {
  const parts = (schema.anyOf ?? schema.oneOf)?.map((part) => resolved(part, root));
  if (parts !== undefined) {
    const others = parts.filter((part) => part.type !== "null");
    return [others, others.length < parts.length];
  }
  if (Array.isArray(schema.type)) {
    const types = schema.type.filter((type) => type !== "null");
    return [types.map((type) => ({ ...schema, type })), types.length < schema.type.length];
  }
  return [[schema], false];
}

/** A short text for the type that a schema describes. */
export function typeOf(given, root, depth = 0) {
  const schema = resolved(given, root);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const [others, nullable] = alternatives(schema, root);
  if (others.length !== 1 || nullable) {
    const names = others.map((part) => typeOf(part, root, depth));
    return [...new Set(names), ...(nullable ? ["null"] : [])].join(" | ") || "any";
  }
  const [only] = others;
  if (only.type === "array") {
    if (Array.isArray(only.items))
      return `[${only.items.map((each) => typeOf(each, root, depth + 1)).join(", ")}]`;
    return depth > 2 ? "array" : `array of ${typeOf(only.items, root, depth + 1)}`;
  }
  if (only.type === "object") {
    if (only.title) return only.title;
    const values = only.additionalProperties;
    if (values && typeof values === "object" && depth < 3)
      return `object of ${typeOf(values, root, depth + 1)}`;
    return "object";
  }
  if (only.type === "string" && (only.format || only.contentEncoding))
    return only.format ?? only.contentEncoding;
  return only.type ?? "any";
}

/** The default as text; `null`: there is none. The contract keeps a secret one. */
export function defaultOf(schema) {
  if (schema["x-aiorpc-hidden-default"]) return "hidden";
  return schema.default === undefined ? null : JSON.stringify(schema.default);
}

/** A value of the type, to show what to write. */
export function sampleOf(given, root, depth = 0) {
  const schema = resolved(given, root);
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  if ("const" in schema) return schema.const;
  const [[first]] = alternatives(schema, root);
  const only = resolved(first, root);
  if (depth > 3) return null;
  if (only.type === "array") {
    const items = [only.items ?? []].flat().filter((each) => typeof each === "object");
    return items.map((each) => sampleOf(each, root, depth + 1));
  }
  if (only.type === "object") {
    const parts = Object.entries(only.properties ?? {}).map(([name, part]) => [
      name,
      sampleOf(part, root, depth + 1),
    ]);
    return Object.fromEntries(parts);
  }
  return (
    { string: EXAMPLES[only.format] ?? "…", integer: 0, number: 0, boolean: false }[only.type] ??
    null
  );
}

let ids = 0;

class Invalid extends Error {
  constructor(field, text) {
    super(text);
    this.field = field;
  }
}

/** What is nothing: an argument that is not sent. */
const NOTHING = Symbol("nothing");

/**
 * The fields of a list of `{name, schema, required}`. Returns `{element, value()}`; `value` throws an
 * `Invalid` with the `field` to correct.
 */
export function fieldsOf(parts, root, { isSecret = () => false, depth = 0, path = "" } = {}) {
  const fields = parts.map(({ name, schema, required }) => [
    name,
    field(name, schema, root, { required, isSecret, depth, path: path ? `${path}.${name}` : name }),
  ]);
  return {
    element: h(
      "div",
      { class: "fields" },
      fields.map(([, each]) => each.element),
    ),
    value() {
      const found = {};
      for (const [name, each] of fields) {
        const value = each.value();
        if (value !== NOTHING) found[name] = value;
      }
      return found;
    },
    isEmpty: fields.length === 0,
  };
}

/** The properties of an object as such a list. */
function propertiesOf(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, part]) => ({
    name,
    schema: part,
    required: required.has(name),
  }));
}

function field(name, part, root, options) {
  const schema = resolved(part, root);
  const [others, nullable] = alternatives(schema, root);
  const kind = others.length === 1 ? resolved(others[0], root) : {};
  const id = `field-${(ids += 1)}`;
  const made = { ...options, id, name, schema, kind, nullable, root };
  if (schema.enum ?? kind.enum) return choice(made, schema.enum ?? kind.enum);
  if (kind.type === "boolean") return choice(made, [true, false]);
  if (kind.type === "object" && kind.properties && options.depth < DEEPEST && options.required)
    return group(made);
  if (kind.type === "integer" || kind.type === "number") return number(made);
  if (kind.type === "string") return text(made);
  return json(made);
}

/** The label, the input, and what explains it. */
function labelled({ id, name, schema, kind, root, required, path, nullable }, input, hint = "") {
  const note = [typeOf(schema, root)];
  const standard = defaultOf(schema);
  if (standard !== null) note.push(`default ${standard}`);
  if (hint) note.push(hint);
  input.id = id;
  input.dataset.path = path;
  input.setAttribute("aria-describedby", `${id}-note`);
  if (required) input.setAttribute("aria-required", "true");
  const text = schema.description ?? kind.description;
  return h(
    "div",
    { class: "field" },
    h(
      "label",
      { for: id },
      h("span", { class: "mono" }, name),
      required ? h("span", { class: "required" }, " required") : null,
    ),
    input,
    h(
      "span",
      { class: "note", id: `${id}-note` },
      note.join(" · ") || (nullable ? "null" : ""),
      text ? h("span", { class: "help" }, text) : null,
    ),
  );
}

const missing = (made, input) => new Invalid(input, `${made.path} is required`);

function choice(made, values) {
  const first = made.required
    ? "Choose"
    : defaultOf(made.schema) === null
      ? "Not sent"
      : "Default";
  const input = h("select", {}, h("option", { value: "" }, first));
  const all = made.nullable && !values.includes(null) ? [...values, null] : values;
  all.forEach((value, at) =>
    input.append(h("option", { value: String(at + 1) }, value === null ? "null" : String(value))),
  );
  return {
    element: labelled(made, input),
    value() {
      if (input.value !== "") return all[Number(input.value) - 1];
      if (made.required) throw missing(made, input);
      return NOTHING;
    },
  };
}

function number(made) {
  const whole = made.kind.type === "integer";
  const input = h("input", {
    inputmode: whole ? "numeric" : "decimal",
    autocomplete: "off",
    spellcheck: "false",
  });
  return {
    element: labelled(made, input, bounds(made.kind)),
    value() {
      const given = input.value.trim();
      if (given === "") {
        if (!made.required) return NOTHING;
        if (made.nullable) return null;
        throw missing(made, input);
      }
      const value = Number(given);
      if (!Number.isFinite(value) || (whole && !Number.isInteger(value))) {
        throw new Invalid(input, `${made.path} must be ${whole ? "an integer" : "a number"}`);
      }
      if (whole && !Number.isSafeInteger(value))
        throw new Invalid(input, `${made.path} is too large for a browser: use \`aiorpc call\``);
      return value;
    },
  };
}

function bounds(kind) {
  const parts = [];
  if (kind.minimum !== undefined) parts.push(`at least ${kind.minimum}`);
  if (kind.exclusiveMinimum !== undefined) parts.push(`more than ${kind.exclusiveMinimum}`);
  if (kind.maximum !== undefined) parts.push(`at most ${kind.maximum}`);
  if (kind.exclusiveMaximum !== undefined) parts.push(`less than ${kind.exclusiveMaximum}`);
  return parts.join(", ");
}

const EXAMPLES = {
  "date-time": "2026-01-31T09:30:00Z",
  date: "2026-01-31",
  time: "09:30:00",
  duration: "PT1H",
  uuid: "123e4567-e89b-12d3-a456-426614174000",
};

function text(made) {
  const secret = made.isSecret(made.path);
  const input = h("input", {
    type: secret ? "password" : "text",
    autocomplete: secret ? "new-password" : "off",
    spellcheck: "false",
    placeholder: EXAMPLES[made.kind.format] ?? null,
  });
  return {
    element: labelled(made, input, secret ? "sensitive" : ""),
    value() {
      if (input.value === "" && !made.required) return NOTHING;
      if (input.value === "" && made.nullable) return null;
      return input.value;
    },
  };
}

function group(made) {
  const inner = fieldsOf(propertiesOf(made.kind), made.root, { ...made, depth: made.depth + 1 });
  return {
    element: h("fieldset", {}, h("legend", { class: "mono" }, made.name), inner.element),
    value: inner.value,
  };
}

/** A field for any value, as JSON. */
function json(made) {
  const input = h("textarea", {
    rows: 2,
    class: "mono",
    spellcheck: "false",
    placeholder: JSON.stringify(sampleOf(made.schema, made.root)),
  });
  return {
    element: labelled(made, input, "as JSON"),
    value() {
      if (input.value.trim() === "") {
        if (made.required) throw missing(made, input);
        return NOTHING;
      }
      return parsed(input, made.path);
    },
  };
}

export function parsed(input, what) {
  try {
    return JSON.parse(input.value);
  } catch (error) {
    throw new Invalid(input, `${what} is not JSON: ${error.message}`);
  }
}
