// What a column of a chart stands for, beside the pointer. A table below each chart says the same to those without one.
import { shortTime } from "./times.js";

let tip;

function show(group, event) {
  tip ??= document.body.appendChild(Object.assign(document.createElement("div"), { className: "tip" }));
  tip.setAttribute("aria-hidden", "true");
  const title = document.createElement("b");
  title.textContent = shortTime(group.dataset.tipAt);
  tip.replaceChildren(title, group.dataset.tip || "nothing");
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, event.clientY - height - 10)}px`;
}

export function startTips() {
  document.addEventListener("pointermove", (event) => {
    const group = event.target.closest?.("[data-tip]");
    if (group) show(group, event); else if (tip) tip.hidden = true;
  }, { passive: true });
}
