// The page on which a message is written: what phones show and who gets it, while it is written.
import { become } from "./morph.js";
import { writeTimes } from "./times.js";

const WAIT_MS = { preview: 200, audience: 350 };

function fields(form) {
  // Without files a form is a list of texts.
  return new URLSearchParams(new FormData(form));
}

async function ask(form, name, address, controller) {
  const place = document.querySelector(`[data-fill="${name}"]`);
  if (!place) return;
  try {
    const answer = await fetch(address, {
      method: "POST", body: fields(form), signal: controller?.signal, headers: { "X-Part": "yes" },
    });
    if (answer.redirected || answer.status === 401) {
      place.textContent = "You are signed out. What you wrote is still here: copy it, then sign in again.";
      return;
    }
    become(place, await answer.text());
    writeTimes(place);
  } catch (error) {
    if (error.name !== "AbortError") place.textContent = "The server does not answer. What you wrote is still here.";
  }
}

const AUDIENCE = new Set(["to", "segment", "exclude", "platform", "users"]);

// The names in braces: who lacks one of them may get nothing.
function valuesAskedFor(form) {
  const texts = ["title", "body", "link", "image", "more"].map((name) => form.elements[name].value).join("\n");
  return (texts.match(/\{[^{}\n]*/g) ?? []).join();
}

function keepAsking(form, name) {
  let timer;
  let running;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      running?.abort();
      running = new AbortController();
      ask(form, name, `/console/compose/${name}`, running);
    }, WAIT_MS[name]);
  };
}

function showWhatIsChosen(form) {
  const set = () => {
    for (const part of form.querySelectorAll("[data-when]")) {
      const [name, value] = part.dataset.when.split("=");
      part.hidden = form.elements[name].value !== value;
    }
  };
  form.addEventListener("change", set);
  set();
}

function startCompose(form) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const field = form.querySelector("[data-zone]");
  if (zone && field) {
    field.value = zone;
    const hint = document.getElementById("send_at-hint");
    if (hint) hint.textContent = `Times are yours: ${zone}.`;
  }
  showWhatIsChosen(form);
  const preview = keepAsking(form, "preview");
  const audience = keepAsking(form, "audience");
  let asked = valuesAskedFor(form);
  form.addEventListener("input", (event) => {
    if (event.target.name !== "test_user") preview();
    // To count is work for the database: only when it can have changed.
    const asks = valuesAskedFor(form);
    if (AUDIENCE.has(event.target.name) || asks !== asked) audience();
    asked = asks;
  });
  form.addEventListener("submit", (event) => {
    if (event.submitter?.name === "test") {
      event.preventDefault();
      event.submitter.setAttribute("aria-busy", "true");
      ask(form, "test", "/console/compose/test").finally(() => event.submitter.removeAttribute("aria-busy"));
    }
  });
  // In a field of one line Enter would press the first button; that is right, except in the field of the test.
  document.getElementById("test_user")?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); form.querySelector('button[name="test"]').click(); }
  });
  // Another app: what is written goes along.
  for (const link of document.querySelectorAll("[data-app]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      form.elements.app.value = link.dataset.app;
      form.action = "/console/compose/back";
      form.submit();
    });
  }
  audience();
  preview();
}

export function startForms() {
  document.querySelectorAll("[data-compose]").forEach(startCompose);
  document.getElementById("faults")?.focus();
  for (const form of document.querySelectorAll("form[data-fragment]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const button = event.submitter;
      button?.setAttribute("aria-busy", "true");
      ask(form, form.dataset.fragment, form.action).finally(() => button?.removeAttribute("aria-busy"));
    });
  }
}
