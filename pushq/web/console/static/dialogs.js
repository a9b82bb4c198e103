// Buttons that open a dialog; and answers that are sent only once.
export function startDialogs() {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog]");
    if (opener) document.getElementById(opener.dataset.dialog)?.showModal();
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches("[data-once]")) {
      if (event.target.dataset.sent) { event.preventDefault(); return; }
      event.target.dataset.sent = "yes";
      event.submitter?.setAttribute("aria-busy", "true");
    }
  });
  // Back to a page that the browser kept: it may be sent again.
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("[data-once]")) {
      delete form.dataset.sent;
      for (const button of form.querySelectorAll("[aria-busy]")) button.removeAttribute("aria-busy");
    }
  });
}
