// Mouse, touch, keys and the tool bar of the 3D view.
"use strict";
(() => {
  const viewer = report.viewer;
  if (!viewer) return;
  const { canvas, data, root, bar, show } = viewer;

  // ---- pointers: one turns, two (or shift, or the right button) move, pinching zooms -------------------------------
  const down = new Map();
  let [travelled, touched] = [0, false];
  const middle = () => [...down.values()].reduce(([x, y], p) => [x + p.x / down.size, y + p.y / down.size], [0, 0]);
  const spread = () => { const [a, b] = [...down.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (down.size === 1) travelled = 0;
    touched = event.pointerType !== "mouse";
    report.hideTip();
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = down.get(event.pointerId);
    if (!last) return hover(event);
    const [before, apart] = [middle(), down.size > 1 ? spread() : 0];
    down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    travelled += Math.hypot(dx, dy);
    if (down.size > 1) {
      const after = middle();
      viewer.move(after[0] - before[0], after[1] - before[1]);
      if (apart > 0 && spread() > 0) viewer.zoom(apart / spread());
    } else if (event.shiftKey || event.buttons & 2) viewer.move(dx, dy);
    else viewer.turn(dx * 0.006, dy * 0.006);
  });
  function release(event) {
    if (!down.delete(event.pointerId) || event.type === "pointercancel") return;
    if (travelled > 6 || down.size) return;
    const k = viewer.cameraAt(...viewer.pixel(event));
    if (k >= 0 && event.button === 0) report.openPhoto(data.cameras[k].photo);
  }
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { viewer.point(-1); report.hideTip(); });
  canvas.addEventListener("dblclick", (event) => {
    const target = viewer.pointAt(...viewer.pixel(event));
    if (target) viewer.around(target);
  });
  function hover(event) {
    if (touched && event.pointerType !== "mouse") return;
    const k = viewer.cameraAt(...viewer.pixel(event));
    viewer.point(k);
    if (k < 0) return report.hideTip();
    const { photo, name } = data.cameras[k];
    report.showTip(event.clientX, event.clientY, ...report.photoTip(photo, name, report.photoNote(photo)));
  }
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey && !document.fullscreenElement) {
      return viewer.say("Click into the view, then scroll to zoom"); // the page scrolls on until then
    }
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    viewer.zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY * lines)) * (event.ctrlKey ? 0.008 : 0.0018)));
  }, { passive: false });

  // ---- keys --------------------------------------------------------------------------------------------------------
  canvas.addEventListener("keydown", (event) => {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const actions = {
      "+": () => viewer.zoom(0.87), "=": () => viewer.zoom(0.87), "-": () => viewer.zoom(1.15),
      0: viewer.reset, Home: viewer.reset, n: () => viewer.step(1), p: () => viewer.step(-1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow && event.shiftKey) viewer.move(-arrow[0] * 30, -arrow[1] * 30);
    else if (arrow) viewer.turn(arrow[0] * 0.09, arrow[1] * 0.09);
    else if (actions[event.key] && (data.cameras.length || !"np".includes(event.key))) actions[event.key]();
    else return;
    event.preventDefault();
  });

  // ---- the tool bar ------------------------------------------------------------------------------------------------
  function button(words, action, kind = "") {
    const node = report.make("button", { type: "button", class: kind }, words);
    node.addEventListener("click", action);
    bar.append(node);
  }
  function toggle(words, key) {
    const box = report.make("input", { type: "checkbox" });
    box.checked = show[key];
    box.addEventListener("change", () => { show[key] = box.checked; viewer.redraw(); });
    bar.append(report.make("label", {}, box, words));
  }
  button("Reset", viewer.reset);
  for (const [words, key] of viewer.toggles) toggle(words, key);
  const slider = report.make("input", { type: "range", min: "-2", max: "2", step: "0.1", value: "0", "aria-label": "Size of points and surfels" });
  slider.addEventListener("input", () => { viewer.pointScale = 2 ** Number(slider.value); });
  bar.append(report.make("label", {}, "Size", slider));
  if (root.requestFullscreen) {
    button("Full screen", () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()));
  }
  button("Save picture", () => {
    const link = report.make("a", { download: "scene.png", href: canvas.toDataURL("image/png") });
    link.click();
  }, "wide");
})();
