// The match matrix: one cell per pair of photos, coloured by the logarithm of its verified matches.
"use strict";
(() => {
  const [data, root, count] = [report.load("matches"), report.find("matrix"), report.photos.length];
  if (!data || !root) return;
  const matches = new Map();
  let most = 1;
  for (const [i, j, n] of data.pairs) {
    matches.set(Math.min(i, j) * count + Math.max(i, j), n);
    most = Math.max(most, n);
  }
  const lookup = (i, j) => matches.get(Math.min(i, j) * count + Math.max(i, j));
  // Dark violet over red to pale yellow; also told apart by lightness alone.
  const stops = [[59, 15, 84], [124, 29, 109], [187, 55, 84], [237, 105, 37], [251, 164, 48], [252, 239, 160]];
  function shade(n) {
    const at = (Math.log1p(n) / Math.log1p(most)) * (stops.length - 1);
    const [k, t] = [Math.min(Math.floor(at), stops.length - 2), at - Math.min(Math.floor(at), stops.length - 2)];
    return `rgb(${stops[k].map((c, i) => Math.round(c + (stops[k + 1][i] - c) * t)).join(" ")})`;
  }

  const canvas = report.make("canvas", { tabindex: "0", role: "img",
    "aria-label": "Verified matches per pair of photos; arrow keys move through the cells" });
  const side = report.make("div", { class: "matrix-side" });
  const detail = report.make("div", { "aria-live": "polite" });
  const ramp = report.make("i");
  ramp.style.background = `linear-gradient(90deg, ${stops.map((s) => `rgb(${s.join(" ")})`).join(",")})`;
  side.append(report.make("p", { class: "legend" }, "1", ramp, most.toLocaleString("en") + " matches"), detail);
  root.replaceChildren(canvas, side);
  const font = "12px system-ui, sans-serif";
  let [margin, cell, chosen, names] = [0, 1, null, []];

  const shorten = (name, room) => (name.length <= room ? name : name.slice(0, room - 7) + "…" + name.slice(-6));
  let base = null; // the cells without what points at one of them: many, so they are drawn once per size and theme
  function drawCells() {
    const size = canvas.clientWidth;
    const scale = Math.min(devicePixelRatio || 1, 2);
    canvas.width = canvas.height = Math.round(size * scale);
    canvas.style.height = size + "px";
    base = report.make("canvas", { width: canvas.width, height: canvas.height });
    const context = base.getContext("2d");
    context.scale(scale, scale);
    context.font = font;
    names = report.photos.map((photo) => shorten(photo.name, size < 500 ? 13 : 20));
    context.font = "bold " + font; // as the chosen one is drawn
    margin = Math.ceil(Math.max(...names.map((name) => context.measureText(name).width))) + 10;
    context.font = font;
    cell = (size - margin) / count;
    const gap = cell > 14 ? 1.5 : cell > 5 ? 0.5 : 0;
    context.fillStyle = report.color("wash");
    context.fillRect(margin, margin, size - margin, size - margin);
    for (let i = 0; i < count; i++) {
      for (let j = 0; j < count; j++) {
        const n = lookup(i, j);
        if (i === j) context.fillStyle = report.color("line");
        else if (n) context.fillStyle = shade(n);
        else continue;
        context.fillRect(margin + j * cell, margin + i * cell, Math.max(cell - gap, 0.6), Math.max(cell - gap, 0.6));
      }
    }
    if (cell >= 34) {
      context.textAlign = "center";
      context.textBaseline = "middle";
      for (let i = 0; i < count; i++) {
        for (let j = 0; j < count; j++) {
          const n = i === j ? 0 : lookup(i, j);
          if (!n) continue;
          context.fillStyle = Math.log1p(n) / Math.log1p(most) > 0.6 ? "#1c1410" : "#fff";
          context.fillText(n, margin + (j + 0.5) * cell, margin + (i + 0.5) * cell);
        }
      }
    }
  }
  function draw() {
    if (!base) drawCells();
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(base, 0, 0);
    const scale = canvas.width / canvas.clientWidth;
    context.scale(scale, scale);
    context.font = font;
    const every = Math.ceil(15 / cell); // so that names do not touch each other
    context.textBaseline = "middle";
    for (const [axis, align] of [[0, "right"], [1, "left"]]) { // rows to the left, columns above
      context.textAlign = align;
      const picked = chosen ? chosen[axis] : -1;
      for (let i = 0; i < count; i++) {
        const crowded = i % every || (picked >= 0 && Math.abs(i - picked) < every);
        if (crowded && i !== picked) continue;
        context.font = (i === picked ? "bold " : "") + font;
        context.fillStyle = report.color(i === picked ? "ink" : report.photos[i].registered ? "soft" : "warn");
        context.save();
        const at = margin + (i + 0.5) * cell;
        context.translate(axis ? at : margin - 6, axis ? margin - 6 : at);
        if (axis) context.rotate(-Math.PI / 2);
        context.fillText(names[i], 0, 0);
        context.restore();
      }
    }
    if (chosen) {
      context.strokeStyle = report.color("ink");
      context.lineWidth = 2;
      context.strokeRect(margin + chosen[1] * cell - 1, margin + chosen[0] * cell - 1, cell + 1, cell + 1);
    }
  }

  function redraw() {
    base = null;
    draw();
  }

  function choose(i, j) {
    if (chosen && chosen[0] === i && chosen[1] === j) return;
    chosen = [i, j];
    const photo = (k) => {
      const parts = [report.make("p", {}, report.photos[k].name)];
      if (report.thumb(k)) parts.push(report.make("img", { src: report.thumb(k).src, alt: "" }));
      return parts;
    };
    const n = lookup(i, j);
    const head = i === j ? "one photo" : n === undefined ? "not matched" : `${n.toLocaleString("en")} matches`;
    const parts = [report.make("b", {}, head), ...photo(i), ...(i === j ? [] : photo(j))];
    detail.replaceChildren(...parts);
    draw();
  }
  function at(event) {
    const box = canvas.getBoundingClientRect();
    const [j, i] = [event.clientX - box.left, event.clientY - box.top].map((v) => Math.floor((v - margin) / cell));
    if (i >= 0 && j >= 0 && i < count && j < count) choose(i, j);
  }
  canvas.addEventListener("pointermove", at);
  canvas.addEventListener("pointerdown", at);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [i, j] = chosen || [0, 0];
    choose(Math.max(0, Math.min(count - 1, i + move[0])), Math.max(0, Math.min(count - 1, j + move[1])));
  });
  let width = 0; // drawing sets the height: only a new width asks for another drawing
  new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    requestAnimationFrame(redraw);
  }).observe(root);
  report.onTheme.push(redraw);
  const strongest = data.pairs.reduce((best, pair) => (pair[2] > best[2] ? pair : best), data.pairs[0] || [0, Math.min(1, count - 1), 0]);
  choose(strongest[0], strongest[1]);
})();
