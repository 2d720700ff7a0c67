// Mesh and surfels in the 3D view, drawn in software into the same depth buffer as the points: triangles with smooth
// shading, surfels as disks. The arrays are those of surface_view.py.
"use strict";
(() => {
  const [data, viewer] = [report.load("scene"), report.viewer];
  if (!viewer || !data.surface) return;
  const { show } = viewer;
  const NEAR = 0.02;

  function unpack(text, low, span) { // 16 bit to the view frame
    const [values, points] = [new Uint16Array(report.bytes(text).buffer), new Float32Array(report.bytes(text).length / 2)];
    for (let i = 0; i < values.length; i++) points[i] = low[i % 3] + (span[i % 3] * values[i]) / 65535;
    return points;
  }
  // Rows of the eye's frame and what turns its points into px.
  function lens({ view, axes: [right, up, back], width, height, focal }) {
    return { view, right, up, back, focal, middleX: width / 2, middleY: height / 2 };
  }

  // ---- mesh ----------------------------------------------------------------------------------------------------------
  function readMesh(packed) {
    const vertices = unpack(packed.vertices, packed.low, packed.span);
    const raw = report.bytes(packed.faces).buffer;
    const [faces, colors] = [packed.wide ? new Uint32Array(raw) : new Uint16Array(raw), report.bytes(packed.colors)];
    const [normals, count] = [new Float32Array(vertices.length), vertices.length / 3];
    for (let f = 0; f < faces.length; f += 3) { // a vertex's normal: the mean over its faces, by their area
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const [ux, uy, uz] = [vertices[b] - vertices[a], vertices[b + 1] - vertices[a + 1], vertices[b + 2] - vertices[a + 2]];
      const [vx, vy, vz] = [vertices[c] - vertices[a], vertices[c + 1] - vertices[a + 1], vertices[c + 2] - vertices[a + 2]];
      const [x, y, z] = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
      for (const k of [a, b, c]) { normals[k] += x; normals[k + 1] += y; normals[k + 2] += z; }
    }
    for (let i = 0; i < normals.length; i += 3) {
      const length = Math.hypot(normals[i], normals[i + 1], normals[i + 2]) || 1;
      for (let k = 0; k < 3; k++) normals[i + k] /= length;
    }
    const each = () => new Float32Array(count);
    return { vertices, faces, colors, normals, count, x: each(), y: each(), inverse: each(), shaded: new Float32Array(3 * count) };
  }
  function drawMesh(mesh, frame) {
    const { view, right, up, back, focal, middleX, middleY } = lens(frame);
    const { vertices, normals, faces, colors, count, x, y, inverse, shaded } = mesh;
    const [ambient, lamps, clay] = show.meshColors ? [0.5, 0.56, null] : [0.16, 0.86, [204, 207, 214]];
    const [tx, ty, tz] = view.target;
    const eye = [0, 1, 2].map((k) => view.target[k] + back[k] * view.distance);
    // A lamp above and to the left of the eye; the back of the surface is darker.
    const lamp = [0, 1, 2].map((k) => 0.82 * back[k] + 0.44 * up[k] - 0.36 * right[k]);
    for (let i = 0, k = 0; i < count; i++, k += 3) {
      const [px, py, pz] = [vertices[k] - tx, vertices[k + 1] - ty, vertices[k + 2] - tz];
      const depth = view.distance - (px * back[0] + py * back[1] + pz * back[2]);
      inverse[i] = depth < NEAR ? 0 : 1 / depth;
      x[i] = middleX + focal * (px * right[0] + py * right[1] + pz * right[2]) * inverse[i];
      y[i] = middleY - focal * (px * up[0] + py * up[1] + pz * up[2]) * inverse[i];
      const [nx, ny, nz] = [normals[k], normals[k + 1], normals[k + 2]];
      const front = nx * (eye[0] - vertices[k]) + ny * (eye[1] - vertices[k + 1]) + nz * (eye[2] - vertices[k + 2]) >= 0;
      const lit = nx * lamp[0] + ny * lamp[1] + nz * lamp[2];
      const shade = ambient + lamps * (front ? Math.max(0, lit) : Math.max(0, -lit) * 0.55);
      for (let c = k; c < k + 3; c++) shaded[c] = Math.min(255, (clay ? clay[c - k] : colors[c]) * shade);
    }
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [faces[f], faces[f + 1], faces[f + 2]];
      if (inverse[a] && inverse[b] && inverse[c]) triangle(frame, mesh, a, b, c);
    }
  }
  function triangle({ width, height, depths, pixels }, { x, y, inverse, shaded }, a, b, c) {
    const [ax, ay, bx, by, cx, cy] = [x[a], y[a], x[b], y[b], x[c], y[c]];
    const area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay);
    if (Math.abs(area) < 1e-6) return;
    const first = Math.max(0, Math.ceil(Math.min(ax, bx, cx) - 0.5));
    const last = Math.min(width - 1, Math.floor(Math.max(ax, bx, cx) - 0.5));
    const top = Math.max(0, Math.ceil(Math.min(ay, by, cy) - 0.5));
    const bottom = Math.min(height - 1, Math.floor(Math.max(ay, by, cy) - 0.5));
    if (first > last || top > bottom) return;
    // Shares of the corners b and c change by a constant from px to px.
    const [bdx, bdy, cdx, cdy] = [(cy - ay) / area, (ax - cx) / area, (ay - by) / area, (bx - ax) / area];
    // Inverse depth, red, green and blue at corner a, and what they grow by towards b and c.
    const [ia, ib, ic] = [inverse[a], inverse[b] - inverse[a], inverse[c] - inverse[a]];
    const [sa, sb, sc] = [3 * a, 3 * b, 3 * c];
    const [ra, ga, la] = [shaded[sa], shaded[sa + 1], shaded[sa + 2]];
    const [rb, gb, lb] = [shaded[sb] - ra, shaded[sb + 1] - ga, shaded[sb + 2] - la];
    const [rc, gc, lc] = [shaded[sc] - ra, shaded[sc + 1] - ga, shaded[sc + 2] - la];
    for (let v = top; v <= bottom; v++) {
      const [dx, dy] = [first + 0.5 - ax, v + 0.5 - ay];
      let [wb, wc] = [dx * bdx + dy * bdy, dx * cdx + dy * cdy];
      for (let u = first, at = v * width + first; u <= last; u++, at++, wb += bdx, wc += cdx) {
        if (wb < -1e-4 || wc < -1e-4 || wb + wc > 1.0001) continue;
        const depth = 1 / (ia + wb * ib + wc * ic);
        if (depth >= depths[at]) continue;
        depths[at] = depth;
        pixels[at] = (255 << 24) | ((la + wb * lb + wc * lc) << 16) | ((ga + wb * gb + wc * gc) << 8) | (ra + wb * rb + wc * rc);
      }
    }
  }

  // ---- surfels -------------------------------------------------------------------------------------------------------
  function readSurfels(packed) {
    const means = unpack(packed.means, packed.low, packed.span);
    const [tangents, axes] = [new Int8Array(report.bytes(packed.tangents).buffer), report.bytes(packed.axes)];
    const [count, colors] = [means.length / 3, report.bytes(packed.colors)];
    const vectors = new Float32Array(6 * count); // both half axes of each disk
    for (let i = 0; i < count; i++) {
      for (let t = 0; t < 2; t++) {
        const length = packed.longest * 10 ** (3 * (axes[2 * i + t] / 255 - 1));
        for (let k = 0; k < 3; k++) vectors[6 * i + 3 * t + k] = (tangents[6 * i + 3 * t + k] / 127) * length;
      }
    }
    return { means, vectors, colors, count };
  }
  function drawSurfels({ means, vectors, colors, count }, { width, height, depths, pixels, ...rest }) {
    const { view, right, up, back, focal, middleX, middleY } = lens({ width, height, ...rest });
    const along = (k, from, axis) => from[k] * axis[0] + from[k + 1] * axis[1] + from[k + 2] * axis[2];
    const scale = viewer.pointScale;
    for (let i = 0; i < count; i++) {
      const m = 3 * i;
      const [px, py, pz] = [means[m] - view.target[0], means[m + 1] - view.target[1], means[m + 2] - view.target[2]];
      const depth = view.distance - (px * back[0] + py * back[1] + pz * back[2]);
      if (depth < NEAR) continue;
      const [ex, ey] = [px * right[0] + py * right[1] + pz * right[2], px * up[0] + py * up[1] + pz * up[2]];
      const [x, y] = [middleX + (focal * ex) / depth, middleY - (focal * ey) / depth];
      // The half axes in px (to first order), and by how much depth changes along them.
      const s = 6 * i;
      const [az, bz] = [-scale * along(s, vectors, back), -scale * along(s + 3, vectors, back)];
      const unit = focal / depth;
      const ax = unit * (scale * along(s, vectors, right) - (ex * az) / depth);
      const ay = -unit * (scale * along(s, vectors, up) - (ey * az) / depth);
      const bx = unit * (scale * along(s + 3, vectors, right) - (ex * bz) / depth);
      const by = -unit * (scale * along(s + 3, vectors, up) - (ey * bz) / depth);
      // The ellipse as a symmetric matrix, never thinner than half a px.
      const [xx, xy, yy] = [ax * ax + bx * bx + 0.25, ax * ay + bx * by, ay * ay + by * by + 0.25];
      const reach = Math.sqrt(yy);
      const top = Math.max(0, Math.ceil(y - reach - 0.5));
      const bottom = Math.min(height - 1, Math.floor(y + reach - 0.5));
      if (top > bottom || reach > height) continue;
      const rest2 = xx * yy - xy * xy;
      // Depth over px: the plane of the disk, flat where it is seen edge-on.
      const cross = ax * by - bx * ay;
      const edge = Math.abs(cross) < 0.02 * (xx + yy);
      const [zx, zy] = edge ? [0, 0] : [(az * by - bz * ay) / cross, (bz * ax - az * bx) / cross];
      const tilt = Math.min(1, Math.abs(cross) / (Math.hypot(ax, ay) * Math.hypot(bx, by) + 1e-9));
      const shade = 0.8 + 0.2 * tilt;
      const color = (255 << 24) | ((colors[m + 2] * shade) << 16) | ((colors[m + 1] * shade) << 8) | (colors[m] * shade);
      for (let v = top; v <= bottom; v++) {
        const dy = v + 0.5 - y;
        const half = Math.sqrt(Math.max(0, (rest2 / yy) * (1 - (dy * dy) / yy)));
        const centre = x + (dy * xy) / yy;
        const last = Math.min(width - 1, Math.floor(centre + half - 0.5));
        for (let u = Math.max(0, Math.ceil(centre - half - 0.5)); u <= last; u++) {
          const z = depth + zx * (u + 0.5 - x) + zy * dy;
          const at = v * width + u;
          if (z < depths[at] && z > NEAR) { depths[at] = z; pixels[at] = color; }
        }
      }
    }
  }

  // ---- what there is, in the tool bar --------------------------------------------------------------------------------
  show.points = false;
  if (data.surface.surfels) {
    const surfels = readSurfels(data.surface.surfels);
    show.surfels = !data.surface.mesh;
    viewer.toggles.unshift(["Surfels", "surfels"]);
    viewer.layers.push((frame) => { if (show.surfels) drawSurfels(surfels, frame); });
  }
  if (data.surface.mesh) {
    const mesh = readMesh(data.surface.mesh);
    [show.mesh, show.meshColors] = [true, data.surface.mesh.colored];
    if (show.meshColors) viewer.toggles.unshift(["Colours", "meshColors"]);
    viewer.toggles.unshift(["Mesh", "mesh"]);
    viewer.layers.push((frame) => { if (show.mesh) drawMesh(mesh, frame); });
  }
  viewer.toggles.splice(viewer.toggles.findIndex(([, key]) => key === "cameras"), 0, ["Points", "points"]);
})();
