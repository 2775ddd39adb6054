// Binds keys to the buttons that are there, and loads the next image ahead. All decisions are
// forms of the page: without this file everything works by pointer and tab.
"use strict";
(() => {
  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const stored = (name, value) => {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch { /* a browser may keep nothing */ }
    return null;
  };

  for (const control of all("[data-key][hidden], #find")) control.hidden = false;
  const show = find("#show");
  if (show) {
    show.hidden = true;
    for (const select of all(".filters select")) select.addEventListener("change", () => select.form.submit());
  }

  // A decision is sent once, however long a key is held.
  let busy = false;
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (busy) event.preventDefault();
    busy = true;
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  // Masks and zoom.
  const image = find("#image"), frame = find("#frame");
  const press = (key, on) => find(`[data-key="${key}"]`)?.setAttribute("aria-pressed", String(on));
  let masked = stored("loupe-mask") !== "off", zoomed = false;
  const choose = (shown) => (masked ? shown.dataset.drawn : shown.dataset.plain);
  const draw = () => {
    for (const shown of all("img[data-drawn]")) {
      const source = shown === image && zoomed ? full() : choose(shown);
      if (shown.getAttribute("src") !== source) shown.src = source;
    }
    press("m", masked);
    press("z", zoomed);
  };
  const full = () => (masked ? image.dataset.full : image.dataset.full.split("?")[0]);
  const zoom = (x = 0.5, y = 0.5) => {
    if (!frame) return;
    zoomed = !zoomed;
    frame.classList.toggle("zoomed", zoomed);
    const centre = () => {
      frame.scrollLeft = x * frame.scrollWidth - frame.clientWidth / 2;
      frame.scrollTop = y * frame.scrollHeight - frame.clientHeight / 2;
    };
    if (zoomed) image.addEventListener("load", centre, { once: true });
    draw();
    if (zoomed) centre();
  };
  frame?.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const box = image.getBoundingClientRect();
    if (event.detail === 0) zoom();
    else zoom((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  find('[data-key="z"]')?.addEventListener("click", () => zoom());
  find('[data-key="m"]')?.addEventListener("click", () => {
    masked = !masked;
    stored("loupe-mask", masked ? "on" : "off");
    draw();
  });
  if (find('[data-key="m"]') && !masked) draw();

  // The list of labels.
  const chooser = find("#chooser"), search = find("#find");
  const options = chooser ? [...chooser.querySelectorAll(".list button")] : [];
  const seen = () => options.filter((option) => !option.hidden);
  const narrow = () => {
    const text = search.value.trim().toLocaleLowerCase();
    for (const option of options) option.hidden = !option.value.toLocaleLowerCase().includes(text);
    // What begins with the text is meant before what contains it.
    const first = seen().find((option) => option.value.toLocaleLowerCase().startsWith(text)) ?? seen()[0];
    for (const option of options) option.classList.toggle("first", option === first && text !== "");
    find("#found").textContent = text ? `${seen().length} of ${options.length} labels` : "";
    return text ? first : undefined;
  };
  const open = () => {
    if (!chooser) return;
    chooser.open = true;
    (search ?? options[0]).focus();
  };
  find('summary[data-key="l"]')?.addEventListener("click", (event) => {
    if (search && !chooser.open) { event.preventDefault(); open(); }
  });
  search?.addEventListener("input", narrow);
  chooser?.addEventListener("keydown", (event) => {
    const list = seen(), at = list.indexOf(document.activeElement);
    if (event.key === "Escape") {
      if (search) chooser.open = false;
      chooser.querySelector("summary").focus();
    } else if (event.key === "Enter" && event.target === search && !event.isComposing) {
      event.preventDefault();
      narrow()?.click();
    } else if (event.key === "ArrowDown" && list.length) {
      event.preventDefault();
      list[Math.min(at + 1, list.length - 1)].focus();
    } else if (event.key === "ArrowUp" && at >= 0) {
      event.preventDefault();
      (at ? list[at - 1] : search ?? list[0]).focus();
    }
  });

  // Keys.
  const help = find("#help"), keys = find("#keys");
  find('[data-open="help"]')?.addEventListener("click", () => help.showModal());
  if (keys) {
    keys.checked = stored("loupe-keys") !== "off";
    keys.addEventListener("change", () => stored("loupe-keys", keys.checked ? "on" : "off"));
  }
  const name = (event) => {
    // On a Korean or Russian keyboard the key that says K is still meant.
    if (/^Key[A-Z]$/.test(event.code) && !/^[a-z]$/i.test(event.key)) return event.code[3].toLowerCase();
    return event.key.length === 1 ? event.key.toLowerCase() : event.key;
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    // A field of a dialog that was closed may still be the target, and is not seen.
    const field = event.target.closest("input, select, textarea");
    if (help?.open || field?.getClientRects().length) return;
    const key = name(event);
    if (keys && !keys.checked && key !== "?") return;
    if (key === "l" || (key === "r" && !find('[data-key="r"]'))) {
      if (chooser) { event.preventDefault(); open(); }
      return;
    }
    const control = all("[data-key]").find((each) => each.dataset.key === key);
    if (!control || control.disabled || control.getClientRects().length === 0) return;
    event.preventDefault();
    control.click();
  });

  addEventListener("load", () => {
    for (const address of (document.body.dataset.preload || "").split(" ")) if (address) new Image().src = address;
  });
})();
