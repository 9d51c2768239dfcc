// The view of parked messages: queues, the messages of one queue, and one message whole. It reads
// when the user opens it, not again and again: a look takes messages out and gives them back, so the
// broker marks them as redelivered. A link on another site, which opens the page, is no act of the
// user here: then the page asks first.

import { add, fill, h, put, scrolling, set } from "./dom.js";
import { bytes, clock, count, moment, plural } from "./format.js";
import { change, hasToken, read, state } from "./state.js";
import { tokenForm } from "./trying.js";

const SUFFIX = ".parked";
const linkTo = (...names) => `#/parked/${names.map(encodeURIComponent).join("/")}`;
const short = (queue) => (queue.endsWith(SUFFIX) ? queue.slice(0, -SUFFIX.length) : queue);

export function parked(main, queue, message) {
  const content = h("div", { id: "content" });
  const again = h("button", { type: "button", on: { click: load } });
  const at = h("span", { class: "note", role: "status" });
  add(main, [
    crumbs(queue, message),
    h("div", { class: "title" }, title(queue, message), h("span", { class: "send" }, at, again)),
    content,
  ]);
  const show = message !== undefined ? oneMessage : queue !== undefined ? oneQueue : allQueues;
  let turn = 0;

  async function load() {
    const mine = (turn += 1);
    set(again, "disabled", true);
    put(again, "Look again");
    if (!content.hasChildNodes()) fill(content, h("p", { class: "note" }, "Looking…"));
    try {
      const made = await show(queue, message, load);
      if (mine === turn) {
        fill(content, made);
        at.textContent = `Looked at ${clock(new Date())}`;
      }
    } catch (error) {
      if (mine === turn)
        fill(content, h("p", { class: "failure text", role: "alert" }, error.message));
    } finally {
      set(again, "disabled", null);
    }
  }
  // The button does not get the focus: who holds Enter on another site would press it.
  if (queue === undefined || navigator.userActivation.hasBeenActive) load();
  else {
    put(again, "Read the messages");
    const cost = "A link opened this view. Reading marks the parked messages as redelivered.";
    fill(content, h("p", { class: "note" }, cost));
  }
}

function crumbs(queue, message) {
  if (queue === undefined) return null;
  const parts = [h("a", { href: "#/parked" }, "Parked")];
  if (message === undefined) parts.push(h("span", { "aria-current": "page" }, short(queue)));
  else
    parts.push(
      h("a", { href: linkTo(queue) }, short(queue)),
      h("span", { "aria-current": "page" }, message),
    );
  return h("nav", { class: "crumbs", "aria-label": "Breadcrumb" }, parts);
}

function title(queue, message) {
  if (queue === undefined) return h("h1", {}, "Parked messages");
  if (message === undefined) return h("h1", {}, h("span", { class: "mono" }, short(queue)));
  return h("h1", {}, "Message ", h("span", { class: "mono" }, message));
}

const table = (label, heads, rows) =>
  scrolling(
    label,
    h(
      "table",
      {},
      h("caption", { class: "hidden" }, label),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map(([text, kind]) => h("th", { scope: "col", class: kind ?? "" }, text)),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );

// --- all queues

async function allQueues() {
  const found = await read("/api/parked");
  const filled = found.queues.filter((each) => each.messages > 0 || each.note || each.cost);
  const made = [];
  if (filled.length === 0) {
    made.push(
      h(
        "div",
        { class: "empty" },
        h("p", {}, "No message is parked."),
        h(
          "p",
          { class: "note" },
          "A message that fails for good is kept beside its queue, and shows here.",
        ),
      ),
    );
  } else {
    const rows = filled.map((each) =>
      h(
        "tr",
        {},
        h(
          "th",
          { scope: "row" },
          h("a", { href: linkTo(each.name), class: "mono" }, short(each.name)),
        ),
        h("td", { class: "number strong" }, count(each.messages)),
        h("td", { class: "wide" }, h("span", { class: "note" }, each.cost || each.note)),
      ),
    );
    made.push(table("Queues", [["Queue"], ["Parked messages", "number"], ["Note", "wide"]], rows));
  }
  if (found.incomplete)
    made.push(h("p", { class: "note" }, `There may be others: ${found.incomplete}.`));
  return made;
}

// --- one queue

async function oneQueue(queue, _, load) {
  const { look, cost, note } = await read("/api/parked/messages", { queue });
  if (look.messages === 0)
    return h("div", { class: "empty" }, h("p", {}, "No message is parked in this queue."));
  const made = [
    h(
      "p",
      { class: "lead" },
      `${plural(look.messages, "message")}${look.read < look.messages ? `; the first ${count(look.read)} are read` : ""}.`,
    ),
  ];
  if (cost || note)
    made.push(
      h(
        "p",
        { class: "note warn" },
        cost ? `${cost} So the console does not read it: \`aiorpc parked\` asks first.` : note,
      ),
    );
  if (cost) return made;
  const groups = look.groups.map((each) =>
    h(
      "tr",
      {},
      h("td", { class: "number strong" }, count(each.count)),
      h("th", { scope: "row", class: "mono" }, each.error || "–"),
      h("td", { class: "mono" }, each.method || "–"),
      h("td", { class: "middle nowrap" }, span(each)),
      h("td", { class: "wide text" }, each.reason),
    ),
  );
  made.push(
    h("h2", {}, "Why"),
    table(
      "Errors",
      [["Count", "number"], ["Error"], ["Method"], ["Parked", "middle"], ["First reason", "wide"]],
      groups,
    ),
  );
  made.push(...messagesOf(queue, look, load));
  return made;
}

function span({ oldest, newest }) {
  if (!oldest) return "–";
  return oldest === newest ? moment(oldest) : `${moment(oldest)} to ${moment(newest).slice(11)}`;
}

function messagesOf(queue, look, load) {
  const may = state.facts?.changes;
  const boxes = new Map();
  const done = h("div", { role: "status" });
  const some = h(
    "button",
    {
      type: "button",
      on: { click: () => ask([...boxes].filter(([, box]) => box.checked).map(([id]) => id)) },
    },
    "Replay the selected",
  );
  const every = h(
    "button",
    { type: "button", on: { click: () => ask(null) } },
    look.messages > 1 ? `Replay all ${count(look.messages)}` : "Replay all",
  );
  const chosen = () => set(some, "disabled", ![...boxes.values()].some((box) => box.checked));
  const rows = look.rows.map((each) => {
    const box =
      may &&
      h("input", {
        type: "checkbox",
        "aria-label": `Select message ${each.position}`,
        on: { change: chosen },
      });
    if (may) boxes.set(each.id, box);
    return h(
      "tr",
      {},
      may && h("td", {}, box),
      h("td", { class: "number middle" }, count(each.position)),
      h("th", { scope: "row" }, h("a", { class: "mono", href: linkTo(queue, each.id) }, each.id)),
      h("td", { class: "middle nowrap" }, moment(each.at)),
      h("td", { class: "text" }, each.reason),
      h("td", { class: "number wide" }, bytes(each.bytes)),
    );
  });
  chosen();

  async function ask(ids) {
    if (!hasToken()) {
      await show("The token", tokenForm());
      if (!hasToken()) return;
    }
    const which =
      ids === null ? `all ${plural(look.messages, "message")}` : plural(ids.length, "message");
    const agreed = await confirmed(`Replay ${which}?`, [
      h(
        "p",
        {},
        "They go back to where they failed, with the same ids, and run again. A parked message is deleted when the broker has confirmed its copy.",
      ),
      h("p", { class: "mono note" }, short(queue)),
    ]);
    if (!agreed) return;
    for (const button of [some, every]) set(button, "disabled", true);
    fill(done, h("p", { class: "note" }, "Replaying…"));
    try {
      const settled = await change(
        "/api/replay",
        ids === null ? { queue, all: true } : { queue, messages: ids },
      );
      await load();
      document.getElementById("content")?.prepend(report(settled));
    } catch (error) {
      fill(done, h("p", { class: "failure text", role: "alert" }, error.message));
      chosen();
      set(every, "disabled", null);
    }
  }

  const heads = [
    [h("span", { class: "hidden" }, "Select")],
    ["Position", "number middle"],
    ["Message"],
    ["Parked", "middle"],
    ["Reason"],
    ["Size", "number wide"],
  ];
  return [
    h("h2", {}, "Messages"),
    may && h("div", { class: "send" }, some, every),
    done,
    table("Messages", may ? heads : heads.slice(1), rows),
    !may &&
      h(
        "p",
        { class: "note" },
        "To replay messages here, start the console with ",
        h("code", {}, "--allow-changes"),
        ".",
      ),
  ];
}

function report(settled) {
  const places = Object.entries(settled.to).map(([place, number]) =>
    h("li", { class: "mono" }, `${count(number)} to ${place}`),
  );
  const stay = settled.failed.map((each) =>
    h("li", {}, h("span", { class: "mono" }, each.id), ` stays: ${each.reason}`),
  );
  const missing = settled.missing.map((name) => h("li", {}, `No message ${name}: it is gone.`));
  const whole = !(stay.length || missing.length || settled.ended);
  return h(
    "div",
    { class: `report ${whole ? "good" : "bad"}`, role: "status" },
    h("p", {}, `${count(settled.done)} of ${plural(settled.wanted, "message")} replayed.`),
    h("ul", {}, places, stay.slice(0, 20), missing.slice(0, 20)),
    settled.ended && h("p", {}, `The rest was not tried: ${settled.ended}.`),
  );
}

// --- one message

async function oneMessage(queue, id) {
  const shown = await read("/api/parked/message", { queue, message: id });
  const facts = [
    ["Method", shown.method],
    ["Error", shown.error],
    ["Parked", moment(shown.parked_at)],
    ["Queue", shown.from_queue],
    ["Exchange", shown.exchange],
    ["Routing key", shown.routing_key],
    ["Position", `${count(shown.position)} of ${count(shown.messages)}`],
    ["Size", bytes(shown.bytes)],
  ].filter(([, text]) => text);
  const made = [
    h("p", { class: "failure text" }, shown.reason || shown.error || "The reason is not known."),
    h(
      "dl",
      { class: "facts" },
      facts.map(([label, text]) =>
        h("div", {}, h("dt", {}, label), h("dd", { class: "mono" }, text)),
      ),
    ),
    h("h2", {}, "Body"),
    shown.body_trouble && h("p", { class: "note" }, `It cannot be decoded: ${shown.body_trouble}.`),
    h("pre", { tabindex: 0, "aria-label": "Body" }, bodyOf(shown)),
    h("p", { class: "note" }, "Sensitive arguments and secrets by name are masked."),
  ];
  if (shown.stack)
    made.push(h("h2", {}, "Stack"), h("pre", { tabindex: 0, "aria-label": "Stack" }, shown.stack));
  const rest = { properties: shown.properties, headers: shown.headers };
  made.push(
    h(
      "details",
      {},
      h("summary", {}, "Properties and headers"),
      h("pre", { tabindex: 0 }, JSON.stringify(rest, null, 2)),
    ),
  );
  return made;
}

function bodyOf(shown) {
  if (shown.body_base64 !== null) return `base64: ${shown.body_base64}`;
  const text = shown.body_text ?? JSON.stringify(shown.body, null, 2);
  return text.length > 100_000
    ? `${text.slice(0, 100_000)}\n… (${count(text.length)} characters)`
    : text;
}

// --- the dialog

/** Show a dialog with a text and one button that agrees. */
function confirmed(question, content) {
  const yes = h("button", { type: "submit", value: "yes", class: "primary" }, "Replay");
  const no = h("button", { type: "submit", value: "", autofocus: true }, "Cancel");
  return show(question, [content, h("form", { method: "dialog", class: "send" }, yes, no)]);
}

function show(heading, content) {
  const dialog = document.getElementById("dialog");
  const close = () => dialog.close("");
  fill(
    dialog,
    h("h2", { id: "dialog-title" }, heading),
    content,
    heading === "The token" && h("button", { type: "button", on: { click: close } }, "Close"),
  );
  dialog.returnValue = "";
  const token = setInterval(
    () => heading === "The token" && hasToken() && dialog.open && dialog.close(""),
    200,
  );
  dialog.showModal();
  return new Promise((done) =>
    dialog.addEventListener(
      "close",
      () => {
        clearInterval(token);
        done(dialog.returnValue === "yes");
      },
      { once: true },
    ),
  );
}
