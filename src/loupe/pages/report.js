// Light or dark, copying of commands, and details that are open on paper. Without it
// everything is there: this only saves a click.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const stored = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("loupe-report-mode");
      localStorage.setItem("loupe-report-mode", value);
    } catch { /* a browser may keep nothing */ }
    return null;
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = stored();
  if (chosen === "light" || chosen === "dark") root.dataset.mode = chosen;
  const isDark = () => (root.dataset.mode ?? (dark.matches ? "dark" : "light")) === "dark";

  const bindMode = () => {
    const button = document.querySelector("#mode");
    const tell = () => button.setAttribute("aria-pressed", String(isDark()));
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.mode = isDark() ? "light" : "dark";
      stored(root.dataset.mode);
      tell();
    });
    dark.addEventListener("change", tell);
    tell();
  };

  // A list of contents beside the page is always open; above it, only when asked for.
  const bindContents = () => {
    const contents = document.querySelector("#contents"), wide = matchMedia("(min-width: 1080px)");
    const fit = () => { contents.open = wide.matches; };
    wide.addEventListener("change", fit);
    fit();
    contents.addEventListener("click", (event) => {
      if (event.target.closest("a") && !wide.matches) contents.open = false;
    });
    const links = new Map(all("#contents a").map((link) => [link.hash.slice(1), link]));
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const link = links.get(entry.target.id);
        if (!link || !entry.isIntersecting) continue;
        for (const other of links.values()) other.removeAttribute("aria-current");
        link.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "0px 0px -70% 0px" });
    for (const section of all("main section")) seen.observe(section);
  };

  // What can be scrolled sideways must be reached by keys, and only that.
  const bindScrolling = () => {
    const mark = (entries) => {
      for (const { target } of entries) {
        if (target.scrollWidth > target.clientWidth + 1) {
          target.tabIndex = 0;
          target.setAttribute("role", "group");
          target.setAttribute("aria-label", `${target.dataset.name || "Table"}, scrolls sideways`);
        } else {
          for (const name of ["tabindex", "role", "aria-label"]) target.removeAttribute(name);
        }
      }
    };
    const watch = new ResizeObserver(mark);
    for (const place of all(".scroll")) watch.observe(place);
  };

  const bindCopying = () => {
    if (!navigator.clipboard) return;
    for (const button of all(".copy")) {
      const label = button.firstChild;
      button.hidden = false;
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(button.previousElementSibling.textContent);
          label.data = "Copied";
        } catch { label.data = "Not allowed"; }
        setTimeout(() => { label.data = "Copy"; }, 2000);
      });
    }
  };

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("main details:not([open]):not(.numbers)");
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
  document.addEventListener("DOMContentLoaded", () => {
    bindMode();
    bindContents();
    bindScrolling();
    bindCopying();
  });
})();
