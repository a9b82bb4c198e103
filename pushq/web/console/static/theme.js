// Light, dark, or as the system has it. The server reads the cookie, so that a page begins in the right colours.
const NAMES = { "": "System colours", light: "Light colours", dark: "Dark colours" };
const NEXT = { "": "light", light: "dark", dark: "" };

export function startTheme() {
  const root = document.documentElement;
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    const name = button.querySelector("[data-theme-name]");
    const tell = () => { name.textContent = NAMES[root.dataset.theme ?? ""]; };
    tell();
    button.addEventListener("click", () => {
      const theme = NEXT[root.dataset.theme ?? ""];
      if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
      document.cookie = `pushq_theme=${theme}; path=/; max-age=${theme ? 31536000 : 0}; samesite=lax`;
      tell();
    });
  }
}
