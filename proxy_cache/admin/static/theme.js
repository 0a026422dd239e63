"use strict";
// Loaded before the body, so that nothing flashes in the other theme. Without a choice the system's theme holds.
(() => {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  function saved() {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage is blocked
    }
  }

  function save(theme) {
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // it holds for this page
    }
  }

  const choice = saved();
  if (choice === "dark" || choice === "light") root.dataset.theme = choice;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      save(root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
