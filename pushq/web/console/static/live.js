// Parts of a page that stay true while it is open: the server sends each anew when it has changed (server-sent events).
import { become } from "./morph.js";
import { writeTimes } from "./times.js";

function say(element) {
  const spoken = document.getElementById("spoken");
  const text = element.querySelector("[data-say]")?.dataset.say;
  if (spoken && text && spoken.textContent !== text) spoken.textContent = text;
}

function follow(element) {
  let source;
  const open = () => {
    source = new EventSource(element.dataset.live);
    source.addEventListener("part", (event) => {
      become(element, event.data);
      writeTimes(element);
      say(element);
    });
    // There is nothing more to come.
    source.addEventListener("end", () => { source.close(); source = null; });
  };
  open();
  // A page that nobody looks at costs nobody anything.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { source?.close(); } else if (source) { open(); }
  });
  addEventListener("pagehide", () => source?.close());
}

export function startLive() {
  document.querySelectorAll("[data-live]").forEach(follow);
  // A send that no worker has taken up yet.
  if (document.querySelector("[data-again]")) setTimeout(() => location.reload(), 700);
}
