// Writes numbers and times for people. `–` stands for a value that nobody knows.

const NONE = "–";
const fixed = (digits) => {
  const format = new Intl.NumberFormat("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return (value) => (value === null || value === undefined ? NONE : format.format(value));
};

export const count = fixed(0);
export const rate = fixed(1);
export const errorRate = fixed(2);
export const milliseconds = fixed(1);

const two = (number) => String(number).padStart(2, "0");

/** The local time of day. */
export const clock = (date) =>
  `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;

/** The local date and time. */
export function moment(text) {
  const date = new Date(text ?? NaN);
  if (Number.isNaN(date.getTime())) return NONE;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date)}`;
}

/** A duration with its two largest units. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const parts = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const at = parts.findIndex(([size]) => seconds >= size);
  if (at === -1) return "0 s";
  const [size, unit] = parts[at];
  const whole = Math.floor(seconds / size);
  const next = parts[at + 1];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return rest ? `${whole} ${unit} ${rest} ${next[1]}` : `${whole} ${unit}`;
}

export function bytes(number) {
  if (number < 1024) return `${number} B`;
  if (number < 1024 * 1024) return `${(number / 1024).toFixed(1)} KiB`;
  return `${(number / 1024 / 1024).toFixed(1)} MiB`;
}

export const plural = (number, word) =>
  `${count(number)} ${word}${number === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;

/** The kind of an entrypoint in the words of its decorator. */
export function kindOf(kind, stream) {
  if (stream) return "stream";
  const known = {
    Rpc: "rpc",
    EventHandler: "event",
    Consumer: "consumer",
    Timer: "timer",
    Cron: "cron",
  };
  if (kind.endsWith("HttpEntrypoint")) return "http";
  return known[kind] ?? kind;
}
