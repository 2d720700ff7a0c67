// Photo beside render: a slider between two pictures, a choice of what is beside the photo, a chooser of photos.
"use strict";
(() => {
  const [data, root] = [report.load("renders"), report.find("compare")];
  if (!data || !root) return;
  const stage = root.querySelector(".stage");
  const [under, over] = [stage.querySelector(".under"), stage.querySelector(".over")];
  const [left, right] = [stage.querySelector(".left"), stage.querySelector(".right")];
  const [title, note] = root.querySelectorAll(".caption strong, .caption span");
  const tabs = [...root.querySelectorAll("[data-kind]")];
  const buttons = [...root.querySelectorAll("[data-view]")];
  const scales = [...root.querySelectorAll("[data-scale]")];
  let [current, wanted, cut] = [data.first, tabs.length ? tabs[0].dataset.kind : "", 50];

  const first = data.views[data.first].pictures; // what the page shows already is not in the data a second time
  for (const kind of Object.keys(first)) {
    if (!first[kind]) first[kind] = kind === "photo" && !over.hidden ? over.src : under.src;
  }
  stage.tabIndex = 0;
  stage.setAttribute("role", "slider");
  stage.setAttribute("aria-label", "Share of the photo");
  stage.setAttribute("aria-valuemin", "0");
  stage.setAttribute("aria-valuemax", "100");

  const digits = (value) => (value === null ? "" : Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 }));
  function setCut(value) {
    cut = Math.max(0, Math.min(100, value));
    stage.style.setProperty("--cut", cut + "%");
    stage.setAttribute("aria-valuenow", String(Math.round(cut)));
    stage.setAttribute("aria-valuetext", `${Math.round(cut)} % photo`);
    left.hidden = over.hidden || cut < 12;
    right.hidden = cut > 88 && !over.hidden;
  }
  function show() {
    const view = data.views[current];
    const kind = view.pictures[wanted] ? wanted : tabs.map((tab) => tab.dataset.kind).find((k) => view.pictures[k]);
    under.src = view.pictures[kind] || view.pictures.photo;
    under.alt = `${data.kinds[kind || "photo"]} ${view.name}`;
    over.hidden = !kind || !view.pictures.photo;
    over.src = over.hidden ? under.src : view.pictures.photo;
    over.alt = over.hidden ? "" : `Photo ${view.name}`;
    right.textContent = data.kinds[kind || "photo"];
    stage.classList.toggle("single", over.hidden);
    stage.style.setProperty("--wide", view.size[0] / view.size[1]);
    title.textContent = view.name;
    note.textContent = view.note;
    for (const tab of tabs) {
      tab.setAttribute("aria-pressed", String(tab.dataset.kind === kind));
      tab.disabled = !view.pictures[tab.dataset.kind];
    }
    for (const button of buttons) button.setAttribute("aria-pressed", String(Number(button.dataset.view) === current));
    for (const scale of scales) scale.hidden = scale.dataset.scale !== kind;
    for (const end of ["near", "far"]) {
      root.querySelector(`[data-${end}]`).textContent = view[end] === null ? end : `${end}, ${digits(view[end])}`;
    }
    setCut(cut);
  }

  // ---- the slider: a press or a drag anywhere puts the cut there; fingers that move up or down scroll the page ------
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    setCut((100 * (event.clientX - box.left)) / Math.max(box.width, 1));
  };
  stage.addEventListener("pointerdown", (event) => {
    if (over.hidden || event.button > 0) return;
    stage.setPointerCapture(event.pointerId);
    place(event);
  });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) place(event); });
  stage.addEventListener("keydown", (event) => {
    const action = {
      ArrowLeft: () => setCut(cut - 4), ArrowDown: () => setCut(cut - 4), ArrowRight: () => setCut(cut + 4),
      ArrowUp: () => setCut(cut + 4), Home: () => setCut(0), End: () => setCut(100),
      PageUp: () => step(-1), PageDown: () => step(1),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });

  // ---- the choosers ------------------------------------------------------------------------------------------------
  const list = root.querySelector(".chooser ul");
  function choose(i, scroll) {
    current = i;
    show();
    if (!scroll) return;
    const [item, box] = [buttons[i].getBoundingClientRect(), list.getBoundingClientRect()];
    list.scrollBy(item.left - box.left - 40, item.top - box.top - 40);
  }
  function step(by) {
    const seen = [...list.children].filter((item) => !item.hidden).map((item) => Number(item.firstElementChild.dataset.view));
    if (seen.length) choose(seen[(Math.max(seen.indexOf(current), by > 0 ? -1 : 0) + by + seen.length) % seen.length], true);
  }
  for (const button of buttons) button.addEventListener("click", () => choose(Number(button.dataset.view)));
  for (const tab of tabs) tab.addEventListener("click", () => { wanted = tab.dataset.kind; show(); });
  const [onlyHeldOut, worstFirst] = [root.querySelector("[data-only-held-out]"), root.querySelector("[data-worst-first]")];
  function arrange() {
    const items = buttons.map((button) => button.parentElement);
    const value = (item) => (item.dataset.psnr === "" ? Infinity : Number(item.dataset.psnr));
    if (worstFirst && worstFirst.checked) items.sort((a, b) => (value(a) === value(b) ? 0 : value(a) - value(b)));
    list.append(...items);
    for (const item of items) item.hidden = Boolean(onlyHeldOut && onlyHeldOut.checked && item.dataset.heldOut === "0");
    list.scrollTo(0, 0);
  }
  for (const box of [onlyHeldOut, worstFirst]) if (box) box.addEventListener("change", arrange);
  choose(current, true);
})();
