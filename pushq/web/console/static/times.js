// Times in the reader's own zone and language.
const locale = undefined;
const full = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });
const day = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });

export function ago(then, now = Date.now()) {
  const seconds = (then - now) / 1000;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) {
      return Math.abs(seconds) > 30 * 86400 ? full.format(then) : relative.format(Math.round(seconds / size), unit);
    }
  }
  return Math.abs(seconds) < 10 ? "just now" : relative.format(Math.round(seconds), "second");
}

function written(then, style) {
  switch (style) {
    case "ago": return ago(then);
    case "day": return day.format(then);
    case "time": case "clock": return then % 60000 === 0 ? clock.format(then) : clockSeconds.format(then);
    default: return full.format(then);
  }
}

export function writeTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const then = Date.parse(element.dateTime);
    if (Number.isNaN(then)) continue;
    const text = written(then, element.dataset.style);
    if (element.textContent !== text) element.textContent = text;
    element.title = exact.format(then);
  }
}

export const shortTime = (iso) => {
  const then = Date.parse(iso);
  return then % 86400000 === 0 ? day.format(then) : `${day.format(then)}, ${then % 60000 === 0 ? clock.format(then) : clockSeconds.format(then)}`;
};

setInterval(() => writeTimes(document), 20000);
