// One crosshair through all panels, with the values of every curve at that iteration. The page says everything without it too.
(() => {
  const figure = document.querySelector(".timeline"), source = document.getElementById("curves");
  if (!figure || !source) return;
  const { low, high, left, right, width, panels } = JSON.parse(source.textContent);
  const readout = figure.querySelector(".readout");
  const nearest = (xs, at) => {
    let a = 0, b = xs.length - 1;
    while (b - a > 1) { const m = (a + b) >> 1; if (xs[m] <= at) a = m; else b = m; }
    return Math.abs(xs[a] - at) <= Math.abs(xs[b] - at) ? a : b;
  };
  const told = (v) => (v === 0 ? "0" : Math.abs(v) >= 1e-3 && Math.abs(v) < 1e6 ? String(+v.toPrecision(5)) : v.toExponential(3));
  figure.addEventListener("pointermove", (event) => {
    const svg = event.target.closest("svg.panel");
    if (!svg) return;
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * width;
    if (x < left || x > width - right) return;
    const at = Math.round(low + ((x - left) / (width - left - right)) * (high - low));
    figure.classList.add("pointed");
    for (const line of figure.querySelectorAll(".cross")) { line.setAttribute("x1", x); line.setAttribute("x2", x); }
    readout.replaceChildren(...[["iteration", at, ""], ...panels.flat().filter((s) => s.x.length).map((s) => [s.name, told(s.y[nearest(s.x, at)]), s.style])]
      .map(([name, value, style]) => {
        const item = document.createElement("span");
        item.className = style;
        item.textContent = `${name} `;
        const strong = document.createElement("b");
        strong.textContent = value;
        item.append(strong);
        return item;
      }));
  });
  figure.addEventListener("pointerleave", () => figure.classList.remove("pointed"));
})();
// The divider between the images before and after.
for (const pair of document.querySelectorAll(".compare")) {
  const range = pair.querySelector("input");
  range.addEventListener("input", () => pair.style.setProperty("--at", `${range.value}%`));
}
