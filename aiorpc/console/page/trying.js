// The panel that tries a method: a form from its contract, the token that it needs, and the outcome.

import { fill, h, put, set } from "./dom.js";
import { fieldsOf, parsed } from "./form.js";
import { milliseconds } from "./format.js";
import { change, hasToken, state, useToken } from "./state.js";

/** Characters of a result that are shown. */
const MOST = 100_000;

/** The document in which the schemas of a promise refer to each other. */
export const COMPONENTS = (promise) => ({ components: { schemas: promise.schemas } });

/** The panel: the form, or why there is none. */
export function tryIt(service, name) {
  const body = h("div", {});
  const element = h(
    "section",
    { class: "panel try", "aria-label": "Try it" },
    h("h2", {}, "Try it"),
    body,
  );
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
        h(
          "p",
          { class: "note" },
          "This console shows only. To call methods and replay messages, start it with ",
          h("code", {}, "--allow-changes"),
          ".",
        ),
      other: () =>
        h(
          "p",
          { class: "note" },
          "Nobody calls this method: an event, a message, a timer or a request starts it.",
        ),
      gone: () => h("p", { class: "note" }, "No instance answers."),
      missing: () => h("p", { class: "note" }, "No instance that answers has this method."),
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
  if (!described) return "missing";
  if (!answers) return "gone";
  if (!hasToken()) return "token";
  return promise === null ? "wait" : "form";
}

/** The form for the token that the command printed. */
export function tokenForm() {
  const input = h("input", {
    type: "password",
    id: "token",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
  });
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
    h(
      "p",
      { class: "note" },
      "Enter the token that ",
      h("code", {}, "aiorpc console"),
      " printed, or open the URL that it printed.",
    ),
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), input),
    h("button", { type: "submit", class: "primary" }, "Use the token"),
    trouble,
  );
}

function form(service, name, isStream, promise) {
  const parameters = promise.parameters?.map(asField);
  const fields = parameters
    ? fieldsOf(parameters, COMPONENTS(promise), { isSecret: secretsOf(promise) })
    : null;
  const raw = h("textarea", { id: "raw", rows: 5, class: "mono", spellcheck: "false" }, "{}");
  const rawField = h(
    "div",
    { class: "field" },
    h("label", { for: "raw" }, "Arguments by name, as a JSON object"),
    raw,
  );
  const asJson = h("input", { type: "checkbox", id: "as-json" });
  const timeout = h("input", {
    id: "timeout",
    inputmode: "decimal",
    value: "30",
    size: 5,
    autocomplete: "off",
  });
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
    for (const input of element.querySelectorAll("[aria-invalid]"))
      input.removeAttribute("aria-invalid");
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
      throw Object.assign(
        new Error("The arguments must be a JSON object: each argument by its name"),
        { field: raw },
      );
    }
    const seconds = Number(timeout.value);
    if (!(seconds > 0 && seconds <= 300)) {
      throw Object.assign(new Error("The timeout must be more than 0 and at most 300 seconds"), {
        field: timeout,
      });
    }
    return {
      service,
      method: name,
      ...placed(kwargs, promise.parameters ?? []),
      stream: isStream,
      timeout: seconds,
    };
  }

  const element = h(
    "form",
    { on: { submit }, novalidate: true },
    fields?.isEmpty && h("p", { class: "note" }, "It takes no arguments."),
    fields?.element,
    rawField,
    fields &&
      !fields.isEmpty &&
      h("div", { class: "check" }, asJson, h("label", { for: "as-json" }, "Edit as JSON")),
    h(
      "div",
      { class: "send" },
      call,
      stop,
      h(
        "span",
        { class: "timeout" },
        h("label", { for: "timeout" }, "Timeout"),
        timeout,
        h("span", { class: "unit" }, "s"),
      ),
    ),
    trouble,
    result,
  );
  return element;
}

/** A parameter as a field; one for any number of arguments takes a list or an object. */
function asField({ name, kind, required, schema }) {
  const many = {
    var_positional: { type: "array", items: schema },
    var_keyword: { type: "object" },
  };
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
    const byPosition =
      kind === "positional_only" || (kind === "positional_or_keyword" && more.length > 0);
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
    const parts = [
      h("h3", {}, h("span", { class: "badge bad" }, "Error"), " ", time),
      h(
        "p",
        { class: "failure text" },
        origin,
        h("b", {}, tried.error),
        tried.text && `: ${tried.text}`,
      ),
    ];
    if (tried.messages && Object.keys(tried.messages).length)
      parts.push(h("pre", { tabindex: 0 }, JSON.stringify(tried.messages, null, 2)));
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
