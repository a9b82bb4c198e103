// Makes a part of a page what the server says it is now, and touches only what differs: the focus stays where it is, an open <details>
// stays open, and the edges of bars move instead of jumping.
const KEPT = new Set(["open", "aria-busy"]);

function sameKind(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id ?? "") === (b.id ?? "");
}

function attributes(from, to) {
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !KEPT.has(name) && !(name === "title" && from.nodeName === "TIME")) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (!KEPT.has(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
}

export function morph(from, to) {
  const old = [...from.childNodes];
  const now = [...to.childNodes];
  now.forEach((node, place) => {
    const present = old[place];
    if (!present) {
      from.appendChild(node);
    } else if (!sameKind(present, node)) {
      present.replaceWith(node);
    } else if (node.nodeType === Node.ELEMENT_NODE) {
      attributes(present, node);
      if (present.nodeName !== "TEXTAREA") morph(present, node);
    } else if (present.nodeValue !== node.nodeValue) {
      present.nodeValue = node.nodeValue;
    }
  });
  for (const node of old.slice(now.length)) node.remove();
}

export function become(element, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  morph(element, template.content);
}
