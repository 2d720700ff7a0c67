// Shared by the parts of the page: data, theme, tooltip and the large view of photos.
"use strict";
const report = (() => {
  const find = (id) => document.getElementById(id);
  const load = (id) => { const node = find("data-" + id); return node ? JSON.parse(node.textContent) : null; };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const photos = load("photos") || [];
  const thumb = (i) => find("thumb-" + i);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  // Theme: the system's until the button is pressed. `onTheme` callbacks redraw canvases.
  const onTheme = [];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const changed = () => onTheme.forEach((callback) => callback());
  dark.addEventListener("change", changed);
  find("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
    changed();
  });

  const tip = find("tip");
  function showTip(x, y, ...content) {
    tip.replaceChildren(...content);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = x + 16 + width > innerWidth ? x - width - 16 : x + 16;
    const top = Math.min(y + 12, innerHeight - height - 8);
    tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
  }
  const hideTip = () => { tip.hidden = true; };
  const photoTip = (i, name, note) => {
    const parts = [];
    if (thumb(i)) parts.push(make("img", { src: thumb(i).src, alt: "" }));
    parts.push(make("strong", {}, name));
    if (note) parts.push(make("small", {}, note));
    return parts;
  };
  // What the table says about a photo, e.g. "5,842 observations, 0.31 px".
  function photoNote(i) {
    const row = thumb(i) && thumb(i).closest("tr");
    if (!row) return "";
    const cell = (label) => row.querySelector(`[data-label="${label}"]`).textContent.trim();
    return row.classList.contains("left-out") ? "left out" : `${cell("Observations")} observations, ${cell("Mean error")}`;
  }

  const box = find("lightbox");
  const [picture, caption] = [box.querySelector("img"), box.querySelector("p")];
  const button = (name) => box.querySelector(`[data-do="${name}"]`);
  let current = -1;
  let fly = null; // set by the 3D view: fly(photo) looks from that photo's camera and says whether it could
  function open(src, words) {
    picture.src = src;
    picture.alt = words;
    caption.textContent = words;
    if (!box.open) box.showModal();
  }
  function openPhoto(i) {
    if (!thumb(i)) return;
    current = i;
    const note = photoNote(i);
    open(thumb(i).src, photos[i].name + (note ? " · " + note : ""));
    for (const name of ["previous", "next"]) button(name).hidden = photos.length < 2;
    button("fly").hidden = !fly || !photos[i].registered;
  }
  function openPicture(image, words) {
    current = -1;
    open(image.src, words);
    for (const name of ["previous", "next", "fly"]) button(name).hidden = true;
  }
  function step(by) {
    for (let k = 1, i = current; k <= photos.length && current >= 0; k++) {
      i = (i + by + photos.length) % photos.length;
      if (thumb(i)) return openPhoto(i);
    }
  }
  box.addEventListener("click", (event) => {
    const action = event.target.dataset.do;
    if (event.target === box || event.target === picture || action === "close") box.close();
    else if (action === "previous") step(-1);
    else if (action === "next") step(1);
    else if (action === "fly") { box.close(); fly(current); }
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.addEventListener("click", (event) => {
    const target = event.target.closest(".thumb, .zoom");
    if (!target) return;
    if (target.dataset.photo) openPhoto(Number(target.dataset.photo));
    else openPicture(target.querySelector("img"), target.dataset.caption);
  });

  return { find, load, bytes, floats, make, photos, thumb, color, onTheme, showTip, hideTip, photoTip, photoNote, openPhoto,
    set fly(callback) { fly = callback; } };
})();
