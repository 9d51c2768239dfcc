// Sets the theme before the page is drawn. The user's choice stays in this browser.
"use strict";

{
  const kept = () => {
    try {
      return localStorage.getItem("aiorpc-theme") ?? "auto";
    } catch {
      return "auto";
    }
  };
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("aiorpc-theme", theme);
    } catch {
      // The browser keeps nothing, so the choice holds for this page.
    }
  };
  document.documentElement.dataset.theme = kept();

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const order = ["auto", "light", "dark"];
    const names = { auto: "Auto", light: "Light", dark: "Dark" };
    const show = () => {
      const theme = document.documentElement.dataset.theme;
      button.textContent = names[theme] ?? names.auto;
      button.setAttribute("aria-label", `Theme: ${names[theme] ?? names.auto}. Change it`);
    };
    button.addEventListener("click", () => {
      const at = order.indexOf(document.documentElement.dataset.theme);
      set(order[(at + 1) % order.length]);
      show();
    });
    show();
  });
}
