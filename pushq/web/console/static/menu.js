// On a narrow screen the places are behind a button.
export function startMenu() {
  const side = document.querySelector(".side");
  const button = side?.querySelector(".menu-button");
  if (!button) return;
  const set = (open) => {
    side.classList.toggle("open", open);
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => set(!side.classList.contains("open")));
  side.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && side.classList.contains("open")) { set(false); button.focus(); }
  });
}
