"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const config = {
    displaylogo: false,
    responsive: true,
    doubleClick: "reset+autosize",
    plotlyServerURL: "",
  };
  // Named one by one: the buttons that plotly.js offers by default include one that sends the chart away.
  const flatButtons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const spaceButtons = [["toImage", "orbitRotation", "zoom3d", "resetCameraDefault3d"]];
  const configFor = (name) => ({ ...config, modeBarButtons: name === "space" ? spaceButtons : flatButtons });
  const select = document.getElementById("design-select");
  const sameScale = document.getElementById("same-scale");

  const hasWebgl = () => {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  };

  const roleIndices = (traces, role) =>
    traces.flatMap((trace, index) => (trace.meta && trace.meta.role === role ? [index] : []));

  // Hover texts are shared by all charts: a trace names its list.
  const withTexts = (traces) =>
    traces.map((trace) =>
      trace.meta && trace.meta.texts ? { ...trace, hovertext: report.texts[trace.meta.texts] } : trace);

  function drawRunChart(name) {
    const element = document.getElementById(`chart-${name}`);
    const figure = report.charts[name];
    if (!element) return;
    if (name === "space" && !hasWebgl()) {
      element.textContent = "This browser offers no WebGL, which the 3-D view needs. The projections show the same designs.";
      element.style.height = "auto";
      return;
    }
    Plotly.newPlot(element, withTexts(figure.data), figure.layout, configFor(name));
    element.on("plotly_click", (event) => {
      const id = event.points[0].customdata;
      if (typeof id === "string" && report.order.includes(id)) choose(id);
    });
  }

  // The ring around the chosen design in every chart.
  function ring(name, id) {
    const element = document.getElementById(`chart-${name}`);
    if (!element || !element.data) return;
    const front = report.charts[name].data.find((trace) => trace.meta && trace.meta.role === "front");
    const place = front ? front.customdata.indexOf(id) : -1;
    if (place < 0) return;
    const update = { x: [[front.x[place]]], y: [[front.y[place]]] };
    if (front.z) update.z = [[front.z[place]]];
    Plotly.restyle(element, update, roleIndices(element.data, "chosen"));
  }

  const LAYER_ROW = 27;

  function drawLayers(quantity, id) {
    const element = document.getElementById(`layers-${quantity}`);
    const chart = report.layers[quantity];
    if (!element || !chart.traces[id] || !chart.traces[id].length) return;
    const rows = chart.traces[id][0].y.length;
    const xaxis = { ...chart.layout.xaxis };
    if (sameScale.checked) xaxis.range = [0, chart.widest * 1.03];
    const layout = { ...chart.layout, xaxis, height: 100 + LAYER_ROW * rows };
    Plotly.react(element, chart.traces[id], layout, configFor(quantity));
  }

  function choose(id) {
    select.value = id;
    for (const name of Object.keys(report.charts)) ring(name, id);
    for (const quantity of Object.keys(report.layers)) drawLayers(quantity, id);
    for (const element of document.querySelectorAll(".design")) element.hidden = element.dataset.point !== id;
    for (const row of document.querySelectorAll("table.front tbody tr"))
      row.classList.toggle("chosen", row.dataset.point === id);
    document.body.dataset.chosen = id;
    history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  }

  function step(by) {
    const place = report.order.indexOf(select.value) + by;
    if (place >= 0 && place < report.order.length) choose(report.order[place]);
  }

  function sortBy(header) {
    const table = header.closest("table");
    const body = table.tBodies[0];
    const column = header.cellIndex;
    const now = header.getAttribute("aria-sort");
    const rising = now === "none" ? header.dataset.first === "ascending" : now === "descending";
    const value = (row) => row.cells[column].dataset.value;
    const numeric = header.dataset.kind === "number";
    const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
    const known = [...body.rows].filter((row) => value(row) !== "");
    const unknown = [...body.rows].filter((row) => value(row) === "");
    const sign = rising ? 1 : -1;
    known.sort((a, b) => sign * compare(value(a), value(b)));
    body.append(...known, ...unknown);
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }

  for (const name of Object.keys(report.charts)) drawRunChart(name);

  for (const box of document.querySelectorAll(".legend input")) {
    const apply = () => {
      for (const name of Object.keys(report.charts)) {
        const element = document.getElementById(`chart-${name}`);
        if (!element || !element.data) continue;
        const indices = box.value.split(" ").flatMap((role) => roleIndices(element.data, role));
        if (indices.length) Plotly.restyle(element, { visible: box.checked }, indices);
      }
    };
    box.addEventListener("change", apply);
  }

  for (const button of document.querySelectorAll("table.front thead button"))
    button.addEventListener("click", () => sortBy(button.closest("th")));

  if (!select) return;
  select.addEventListener("change", () => choose(select.value));
  document.getElementById("previous-design").addEventListener("click", () => step(-1));
  document.getElementById("next-design").addEventListener("click", () => step(1));
  sameScale.addEventListener("change", () => choose(select.value));
  for (const row of document.querySelectorAll("table.front tbody tr"))
    row.addEventListener("click", () => choose(row.dataset.point));
  choose(report.order.find((id) => `#${encodeURIComponent(id)}` === location.hash) || report.chosen);
})();
