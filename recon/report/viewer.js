// The 3D view: points as z-buffered discs drawn in software (the same picture on every machine, no WebGL needed),
// cameras as frustums with their photos. The frame is that of scene_view.py: y up, the middle of the scene at 0.
"use strict";
(() => {
  const [data, root] = [report.load("scene"), report.find("viewer")];
  if (!data || !root) return;
  const [points, colors, framing] = [report.floats(data.points), report.bytes(data.colors), report.floats(data.framing)];
  const total = points.length / 3;
  const packedColors = new Uint32Array(total);
  for (let i = 0; i < total; i++) {
    packedColors[i] = (255 << 24) | (colors[3 * i + 2] << 16) | (colors[3 * i + 1] << 8) | colors[3 * i];
  }

  const canvas = report.make("canvas", { tabindex: "0", role: "img", "aria-label": "Interactive 3D view of cameras and " +
    "points. Arrow keys turn, shift and arrow keys move, plus and minus zoom, n and p go from camera to camera, 0 resets" });
  const note = report.make("div", { class: "viewer-note" });
  const bar = report.make("div", { class: "viewer-bar" });
  root.append(canvas, note, bar);
  root.classList.add("live");
  const context = canvas.getContext("2d");
  const layer = report.make("canvas"); // points are put here, then drawn over the ground
  const layerContext = layer.getContext("2d");
  let [image, pixels, depths, width, height, focal] = [null, null, null, 0, 0, 1];

  const show = { points: true, cameras: true, photos: data.cameras.length <= 80, ground: true };
  const toggles = [["Cameras", "cameras"], ["Photos", "photos"], ["Ground", "ground"]]; // label and key of show
  const layers = []; // functions that draw more into the frame's pixels and depths: see viewer_surface.js
  let pointScale = 1;
  let view = null; // yaw, pitch (radians), distance from the target, target
  let hot = -1; // camera under the pointer
  let [axisX, axisY, axisZ] = [[], [], []]; // right, up and back of the eye, in the view frame

  // ---- where the eye is ------------------------------------------------------------------------------------------
  function axesOf({ yaw, pitch }) {
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    return [[cy, 0, -sy], [-sp * sy, cp, -sp * cy], [cp * sy, sp, cp * cy]];
  }
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const along = (p, axis, t) => [p[0] + axis[0] * t, p[1] + axis[1] * t, p[2] + axis[2] * t];

  function startView() { // like fit() in scene_view.py
    const [right, up, back] = axesOf(data);
    const [high, slope] = [Math.max(canvas.clientHeight, 1), Math.tan(data.fieldOfView / 2)];
    const covered = Math.min(0.4, (high - bar.offsetTop) / high); // by the tool bar
    const [top, side] = [slope * 0.94, (slope * 0.94 * canvas.clientWidth) / high];
    const bottom = top - 2 * slope * covered;
    let [onRight, onLeft, above, below, closest] = [0, 0, 0, 0, 0];
    for (let i = 0; i < framing.length; i += 3) {
      const p = [framing[i], framing[i + 1], framing[i + 2]];
      const [x, y, z] = [dot(p, right), dot(p, up), dot(p, back)];
      onRight = Math.max(onRight, x + side * z);
      onLeft = Math.max(onLeft, side * z - x);
      above = Math.max(above, y + top * z);
      below = Math.max(below, bottom * z - y);
      closest = Math.max(closest, z);
    }
    const distance = Math.max((onRight + onLeft) / (2 * side), (above + below) / (top + bottom), closest + data.near);
    const target = along(along([0, 0, 0], right, (onRight - onLeft) / 2), up, (above - below - (top - bottom) * distance) / 2);
    return { yaw: data.yaw, pitch: data.pitch, distance, target, untouched: true };
  }
  function viewOfCamera(camera) {
    const middle = [0, 1, 2].map((k) => camera.corners.reduce((sum, corner) => sum + corner[k] / 4, 0));
    const ahead = [0, 1, 2].map((k) => middle[k] - camera.center[k]);
    const length = Math.hypot(...ahead) || 1;
    const direction = ahead.map((value) => value / length);
    const distance = Math.max(0.5, -dot(camera.center, direction)); // turn about what it looks at
    const pitch = Math.asin(Math.max(-1, Math.min(1, -direction[1])));
    return { yaw: Math.atan2(-direction[0], -direction[2]), pitch, distance, target: along(camera.center, direction, distance) };
  }
  let flight = null;
  function flyTo(goal) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { view = goal; return redraw(); }
    const [from, began] = [view, performance.now()];
    const wind = Math.round((goal.yaw - from.yaw) / (2 * Math.PI)) * 2 * Math.PI; // the short way round
    const token = (flight = {});
    const frame = (now) => {
      if (flight !== token) return;
      const t = Math.min(1, Math.max(0, now - began) / 700);
      const ease = t * t * (3 - 2 * t);
      const mix = (a, b) => a + (b - a) * ease;
      view = { yaw: mix(from.yaw, goal.yaw - wind), pitch: mix(from.pitch, goal.pitch), distance: mix(from.distance, goal.distance),
        target: from.target.map((value, k) => mix(value, goal.target[k])) };
      redraw();
      if (t < 1) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }
  let visited = -1;
  function visit(k) {
    visited = (k + data.cameras.length) % data.cameras.length;
    flyTo(viewOfCamera(data.cameras[visited]));
    say(data.cameras[visited].name);
  }

  // ---- drawing ---------------------------------------------------------------------------------------------------
  function resize(fine) { // fine: twice the px of the page, so that discs are smooth, but no more than 5 million
    const [w, h] = [Math.max(canvas.clientWidth, 1), Math.max(canvas.clientHeight, 1)];
    const scale = fine ? Math.max(1, Math.min(2, Math.sqrt(5e6 / w / h))) : 1;
    if (Math.round(w * scale) === width && Math.round(h * scale) === height) return;
    [width, height] = [Math.round(w * scale), Math.round(h * scale)];
    canvas.width = layer.width = width;
    canvas.height = layer.height = height;
    image = layerContext.createImageData(width, height);
    pixels = new Uint32Array(image.data.buffer);
    depths = new Float32Array(width * height);
    focal = height / 2 / Math.tan(data.fieldOfView / 2);
  }
  function project(p) { // px of the canvas and depth before the eye
    const q = [p[0] - view.target[0], p[1] - view.target[1], p[2] - view.target[2]];
    const depth = view.distance - dot(q, axisZ);
    const safe = Math.max(depth, 1e-4);
    return [width / 2 + (focal * dot(q, axisX)) / safe, height / 2 - (focal * dot(q, axisY)) / safe, depth];
  }
  const discs = []; // half widths of a disc's rows, by its radius in half px
  function disc(k) {
    if (!discs[k]) {
      const [radius, rows] = [k / 2, []];
      for (let dy = -Math.floor(radius); dy <= radius; dy++) rows.push(Math.floor(Math.sqrt(radius * radius - dy * dy)));
      discs[k] = rows;
    }
    return discs[k];
  }
  function drawPoints() {
    const [tx, ty, tz] = view.target;
    const [[rx, ry, rz], [ux, uy, uz], [bx, by, bz]] = [axisX, axisY, axisZ];
    const [middleX, middleY, smallest] = [width / 2, height / 2, Math.max(0.5, height / 1300)];
    const size = data.pointSize * focal * pointScale;
    for (let i = 0, k = 0; i < total; i++, k += 3) {
      const [x, y, z] = [points[k] - tx, points[k + 1] - ty, points[k + 2] - tz];
      const depth = view.distance - (x * bx + y * by + z * bz);
      if (depth < 0.02) continue;
      const px = Math.floor(middleX + (focal * (x * rx + y * ry + z * rz)) / depth);
      const py = Math.floor(middleY - (focal * (x * ux + y * uy + z * uz)) / depth);
      if (px < 0 || py < 0 || px >= width || py >= height) continue;
      const rows = disc(Math.round(2 * Math.min(24, Math.max(smallest * Math.min(pointScale, 1), size / depth))));
      const reach = (rows.length - 1) / 2;
      for (let r = 0; r < rows.length; r++) {
        const v = py + r - reach;
        if (v < 0 || v >= height) continue;
        const [first, last] = [v * width + Math.max(0, px - rows[r]), v * width + Math.min(width - 1, px + rows[r])];
        for (let at = first; at <= last; at++) {
          if (depth < depths[at]) { depths[at] = depth; pixels[at] = packedColors[i]; }
        }
      }
    }
  }
  function drawSolids() { // all that hides what lies behind it
    pixels.fill(0);
    depths.fill(Infinity);
    if (show.points) drawPoints();
    const frame = { view, axes: [axisX, axisY, axisZ], width, height, focal, pixels, depths };
    for (const draw of layers) draw(frame);
    shadeEdges();
    layerContext.putImageData(image, 0, 0);
  }
  function shadeEdges() { // darkens what lies behind its neighbours, so that shapes stand out of the dots
    const reach = Math.max(2, Math.round(height / 350));
    const offsets = [reach, -reach, reach * width, -reach * width];
    const channels = image.data;
    const [from, to] = [reach * width, (height - reach) * width];
    for (let at = from; at < to; at++) {
      const depth = depths[at];
      if (depth === Infinity) continue;
      let deeper = 0;
      for (let k = 0; k < 4; k++) {
        const step = depth - depths[at + offsets[k]];
        if (step > 0) deeper += Math.min(step / depth, 0.25);
      }
      if (deeper < 0.004) continue;
      const shade = 1 / (1 + 2.6 * deeper);
      channels[4 * at] *= shade;
      channels[4 * at + 1] *= shade;
      channels[4 * at + 2] *= shade;
    }
  }
  function line(a, b) { // between two points of the view frame, cut where it passes behind the eye
    let [p, q] = [project(a), project(b)];
    if (p[2] < 0.02 && q[2] < 0.02) return;
    if (p[2] < 0.02 || q[2] < 0.02) {
      const t = (0.02 - p[2]) / (q[2] - p[2]);
      const cut = project(a.map((value, k) => value + (b[k] - value) * t));
      if (p[2] < 0.02) p = cut; else q = cut;
    }
    context.moveTo(p[0], p[1]);
    context.lineTo(q[0], q[1]);
  }
  function drawGround() {
    context.strokeStyle = report.color("ground");
    context.lineWidth = Math.max(1, height / 900);
    const [count, step] = [12, 0.25];
    for (let ring = 0; ring < 4; ring++) { // fainter with distance from the middle
      context.globalAlpha = [0.5, 0.36, 0.22, 0.1][ring];
      context.beginPath();
      for (let i = -count; i <= count; i++) {
        for (let k = -count; k < count; k++) {
          if (Math.min(3, Math.floor(Math.hypot(i, k + 0.5) / 3.2)) !== ring || Math.hypot(i, k + 0.5) > count) continue;
          line([i * step, data.floor, k * step], [i * step, data.floor, (k + 1) * step]);
          line([k * step, data.floor, i * step], [(k + 1) * step, data.floor, i * step]);
        }
      }
      context.stroke();
    }
    context.globalAlpha = 1;
  }
  function drawAxes() { // the world's axes, in the top left corner
    const size = Math.min(width, height) * 0.05;
    const middle = [size * 1.5, size * 1.5];
    context.font = `600 ${Math.round(size * 0.42)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const order = [0, 1, 2].sort((a, b) => dot(data.axes[a], axisZ) - dot(data.axes[b], axisZ));
    for (const k of order) {
      const end = [dot(data.axes[k], axisX) * size, -dot(data.axes[k], axisY) * size];
      context.strokeStyle = context.fillStyle = ["#e5484d", "#30a46c", "#3e8ef7"][k];
      context.lineWidth = size / 12;
      context.beginPath();
      context.moveTo(...middle);
      context.lineTo(middle[0] + end[0], middle[1] + end[1]);
      context.stroke();
      context.fillText("xyz"[k], middle[0] + end[0] * 1.28, middle[1] + end[1] * 1.28);
    }
  }
  function hidden(seen) { // whether most of a frustum lies behind drawn points
    let behind = 0;
    for (const [x, y, depth] of seen) {
      const [u, v] = [Math.floor(x), Math.floor(y)];
      if (u >= 0 && v >= 0 && u < width && v < height && depths[v * width + u] < depth - 0.02) behind++;
    }
    return behind >= 3;
  }
  function affine(picture, a, b, d, whole) { // maps the picture's corners top left, top right, bottom left
    const [w, h] = [picture.naturalWidth, picture.naturalHeight];
    context.save();
    if (!whole) context.clip();
    context.transform((b[0] - a[0]) / w, (b[1] - a[1]) / w, (d[0] - a[0]) / h, (d[1] - a[1]) / h, a[0], a[1]);
    context.drawImage(picture, 0, 0);
    context.restore();
  }
  function path(...corners) {
    context.beginPath();
    corners.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
  }
  function drawPhoto(picture, [a, b, c, d]) {
    const fourth = [b[0] + d[0] - a[0], b[1] + d[1] - a[1]];
    if (Math.hypot(c[0] - fourth[0], c[1] - fourth[1]) < 1.5) return affine(picture, a, b, d, true);
    path(a, b, d);
    affine(picture, a, b, d, false);
    path(b, c, d); // the other half, as if it belonged to the parallelogram through b, c and d
    affine(picture, [b[0] + d[0] - c[0], b[1] + d[1] - c[1]], b, d, false);
  }
  let seenCameras = [];
  function drawCameras() {
    seenCameras = data.cameras.map((camera, k) => ({ k, seen: [camera.center, ...camera.corners].map(project) }));
    seenCameras = seenCameras.filter(({ seen }) => seen.every((p) => p[2] > 0.05)).sort((a, b) => b.seen[0][2] - a.seen[0][2]);
    for (const { k, seen } of seenCameras) {
      const [center, ...corners] = seen;
      context.globalAlpha = k === hot ? 1 : hidden(seen) ? 0.22 : 0.92;
      const picture = show.photos && report.thumb(data.cameras[k].photo);
      if (picture && picture.complete && picture.naturalWidth) drawPhoto(picture, corners);
      context.strokeStyle = context.fillStyle = report.color(k === hot ? "camera-hot" : "camera");
      context.lineWidth = (k === hot ? 2.4 : 1.4) * Math.max(1, height / 800);
      context.lineJoin = "round";
      path(...corners);
      if (!picture) { context.save(); context.globalAlpha *= 0.15; context.fill(); context.restore(); }
      for (const corner of corners) { context.moveTo(center[0], center[1]); context.lineTo(corner[0], corner[1]); }
      context.stroke();
    }
    context.globalAlpha = 1;
  }
  let [waiting, slowFrames, settle] = [false, 0, 0];
  function redraw(still = false) { // slow machines draw coarsely while things move, finely once they stand still
    clearTimeout(settle);
    const slow = slowFrames > 3;
    if (slow && !still) settle = setTimeout(() => redraw(true), 250);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const began = performance.now();
      resize(still || !slow);
      [axisX, axisY, axisZ] = axesOf(view);
      context.clearRect(0, 0, width, height);
      if (show.ground) drawGround();
      drawSolids();
      context.drawImage(layer, 0, 0);
      seenCameras = [];
      if (show.cameras) drawCameras();
      if (show.ground) drawAxes();
      if (performance.now() - began > 45) slowFrames++;
    });
  }

  // ---- what pointers and keys do: see viewer_input.js -------------------------------------------------------------
  let quiet = 0;
  function say(words) {
    note.textContent = words;
    note.classList.add("on");
    clearTimeout(quiet);
    quiet = setTimeout(() => note.classList.remove("on"), 1800);
  }
  function cameraAt(x, y) { // the nearest camera whose drawn frustum covers a px of the canvas, or -1
    for (const { k, seen } of [...seenCameras].reverse()) {
      const [center, ...corners] = seen;
      const shapes = [corners, ...corners.map((corner, i) => [center, corner, corners[(i + 1) % 4]])];
      for (const shape of shapes) {
        path(...shape);
        if (context.isPointInPath(x, y)) return k;
      }
    }
    return -1;
  }
  function pointAt(x, y) { // the drawn point near a px of the canvas, in the view frame, or null
    let best = null;
    for (let v = Math.max(0, y - 8); v <= Math.min(height - 1, y + 8); v++) {
      for (let u = Math.max(0, x - 8); u <= Math.min(width - 1, x + 8); u++) {
        if (depths[v * width + u] < (best ? best.depth : Infinity)) best = { u, v, depth: depths[v * width + u] };
      }
    }
    if (!best) return null;
    const side = ((best.u + 0.5 - width / 2) * best.depth) / focal;
    const rise = ((height / 2 - best.v - 0.5) * best.depth) / focal;
    return along(along(along(view.target, axisX, side), axisY, rise), axisZ, view.distance - best.depth);
  }
  function change(next) {
    flight = null;
    view = { ...view, ...next, untouched: false };
    view.pitch = Math.max(-1.55, Math.min(1.55, view.pitch));
    view.distance = Math.max(0.02, Math.min(60, view.distance));
    redraw();
  }
  const turn = (dx, dy) => change({ yaw: view.yaw - dx, pitch: view.pitch + dy });
  const zoom = (factor) => change({ distance: view.distance * factor });
  const move = (dx, dy) => { // by css px
    const unit = (view.distance * height) / canvas.clientHeight / focal;
    change({ target: along(along(view.target, axisX, -dx * unit), axisY, dy * unit) });
  };
  const reset = () => flyTo(startView());
  function point(k) {
    if (k === hot) return;
    hot = k;
    canvas.classList.toggle("over", k >= 0);
    redraw();
  }
  report.fly = (photo) => {
    const k = data.cameras.findIndex((camera) => camera.photo === photo);
    if (k < 0) return;
    root.scrollIntoView({ block: "center" });
    visit(k);
  };
  report.viewer = { data, root, canvas, bar, show, toggles, layers, say, cameraAt, pointAt, turn, zoom, move, reset, point, visit, redraw,
    around: (target) => flyTo({ ...view, target, distance: view.distance * 0.6 }),
    step: (by) => visit(visited < 0 ? (by > 0 ? 0 : -1) : visited + by),
    pixel: (event) => {
      const box = canvas.getBoundingClientRect();
      const scale = width / Math.max(box.width, 1);
      return [Math.floor((event.clientX - box.left) * scale), Math.floor((event.clientY - box.top) * scale)];
    },
    get pointScale() { return pointScale; },
    set pointScale(value) { pointScale = value; redraw(); },
    get view() { return view; } };

  view = startView();
  redraw();
  new ResizeObserver(() => {
    if (view.untouched) view = startView();
    redraw();
  }).observe(canvas);
  report.onTheme.push(() => redraw());
  data.cameras.forEach((camera) => { // photos decode after the first frame
    const picture = report.thumb(camera.photo);
    if (picture && !picture.complete) picture.addEventListener("load", () => redraw(), { once: true });
  });
})();
