// The frame of the page: which view is shown, and the state of the connection above it.

import { calls } from "./calls.js";
import { fill, put } from "./dom.js";
import { clock } from "./format.js";
import { method } from "./method.js";
import { parked } from "./parked.js";
import { service, services } from "./services.js";
import { keepToken, onChange, read, state, watch } from "./state.js";

const main = document.getElementById("main");
const find = (id) => document.getElementById(id);

/** The view that is shown, and what to do when something changes. */
let shown = { key: "", update: () => {} };

function takeToken() {
  const [name, token] = location.hash.slice(1).split("=");
  if (name === "token" && token) {
    keepToken(token);
    history.replaceState(null, "", "#/services"); // nobody sees or copies it with the URL
  }
}

function viewOf([view, ...names]) {
  if (view === "calls") return ["Calls", calls];
  if (view === "parked") return [["Parked", ...names].join(": "), () => parked(main, ...names)];
  if (names.length > 1) return [`${names[0]}.${names[1]}`, () => method(main, names[0], names[1])];
  if (names.length === 1) return [names[0], () => service(main, names[0])];
  return ["Services", () => services(main)];
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function route() {
  const path = location.hash.startsWith("#/") ? location.hash.slice(2) : "services";
  const names = path.split("/").filter(Boolean).map(decoded);
  const key = names.join("/");
  if (key === shown.key) return;
  const first = shown.key === "";
  const [title, show] = viewOf(names);
  document.title = `${title} · aiorpc console`;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === names[0]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  fill(main);
  shown = { key, update: show(main) ?? (() => {}) };
  shown.update();
  scrollTo(0, 0);
  if (!first) main.focus({ preventScroll: true });
}

function frame() {
  const live = find("live");
  const at = state.view && clock(new Date(state.view.time));
  const texts = {
    live: state.trouble ? "No answer" : "Live",
    connecting: "Connecting",
    paused: "Paused",
    lost: "Lost",
  };
  live.dataset.state = state.trouble ? "lost" : state.connection;
  put(live, texts[state.connection]); // a screen reader tells a change of the state, not each look
  live.title = at ? `Last look: ${at}` : "";
  const troubles = [];
  if (state.connection === "lost") {
    troubles.push("The console does not answer. The figures are old; the page tries again.");
  }
  if (state.trouble) troubles.push(`${state.trouble}. The figures are old.`);
  find("trouble").hidden = troubles.length === 0;
  put(find("trouble"), troubles.join(" "));
  main.classList.toggle("old", troubles.length > 0);
  shown.update();
}

async function start() {
  takeToken();
  find("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  addEventListener("hashchange", () => {
    takeToken();
    route();
  });
  onChange(frame);
  route();
  watch();
  for (;;) {
    try {
      state.facts = await read("/api/console");
      break;
    } catch {
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
  put(find("broker"), state.facts.broker);
  find("mode").hidden = false;
  put(find("mode"), state.facts.changes ? "changes allowed" : "read-only");
  find("mode").classList.toggle("warn", state.facts.changes);
  frame();
}

start();
