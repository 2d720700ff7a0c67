// Curves of the optimisation: the horizontal axis can be switched, and pointing at a plot tells its values.
"use strict";
(() => {
  const [data, root] = [report.load("optimisation"), report.find("curves")];
  if (!data || !root) return;
  const tabs = [...root.parentElement.querySelectorAll("[data-axis]")];
  const [width, left, right] = [460, 52, 12]; // of the plots' view box: see line_plots.py
  let axis = "iteration";
  for (const tab of tabs) {
    tab.addEventListener("click", () => {
      axis = tab.dataset.axis;
      for (const other of tabs) other.setAttribute("aria-pressed", String(other === tab));
      for (const group of root.querySelectorAll("g[data-x]")) group.classList.toggle("other-axis", group.dataset.x !== axis);
    });
  }
  const number = (value) => {
    const size = Math.abs(value);
    if (size >= 1e5 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
    return size !== 0 && size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
  function nearest(xs, share) { // index of the measurement closest to a share of the axis
    const at = xs[0] + share * (xs[xs.length - 1] - xs[0]);
    let best = 0;
    for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - at) < Math.abs(xs[best] - at)) best = i;
    return best;
  }
  function lastKnown(values, i) { // measured rarely: the value last measured by then
    while (i > 0 && values[i] === null) i--;
    return values[i];
  }
  for (const figure of root.querySelectorAll("[data-plot]")) {
    const [svg, plot, rule] = [figure.querySelector("svg"), data.plots[Number(figure.dataset.plot)], figure.querySelector(".at")];
    function point(event) {
      const [box, xs] = [svg.getBoundingClientRect(), data[axis]];
      const x = ((event.clientX - box.left) / Math.max(box.width, 1)) * width;
      const span = xs[xs.length - 1] - xs[0];
      const i = nearest(xs, Math.max(0, Math.min(1, (x - left) / (width - left - right))));
      const at = left + (span > 0 ? (xs[i] - xs[0]) / span : 0.5) * (width - left - right);
      for (const end of ["x1", "x2"]) rule.setAttribute(end, at.toFixed(1));
      rule.setAttribute("visibility", "visible");
      const rows = plot.lines.map((line, k) => {
        const value = lastKnown(line.values, i);
        const swatch = report.make("i");
        swatch.style.background = `var(--line-${k % 8})`;
        const shown = value === null ? "–" : number(value) + (plot.unit ? " " + plot.unit : "");
        return report.make("div", { class: "row" }, swatch, report.make("span", {}, line.name), report.make("b", {}, shown));
      });
      const when = `iteration ${data.iteration[i].toLocaleString("en")}` +
        (data.seconds[i] === null ? "" : ` · ${data.seconds[i].toLocaleString("en", { maximumFractionDigits: 1 })} s`);
      report.showTip(event.clientX, event.clientY, report.make("small", {}, when), ...rows);
    }
    const leave = () => { rule.setAttribute("visibility", "hidden"); report.hideTip(); };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("pointercancel", leave);
  }
})();
