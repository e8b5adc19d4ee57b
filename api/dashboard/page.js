"use strict";

// The page is whole without this script but for the figure: it draws it, submits a form on change, and reloads the page
// when a new forecast was issued or new rows came.

document.documentElement.classList.add("scripted");

for (const select of document.querySelectorAll(".choices select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 600px)");
const place = document.getElementById("figure");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw() {
  const figure = JSON.parse(document.getElementById("figure-data").textContent);
  const lines = { observed: "--history", median: "--median", "came true": "--actual" };
  for (const trace of figure.data) {
    if (trace.name in lines) trace.line.color = colour(lines[trace.name]);
    if (trace.fill) trace.fillcolor = colour("--band");
    if (trace.hoverinfo !== "skip") trace.hovertemplate = "%{y:.1f}";
  }
  const axis = { gridcolor: colour("--grid"), linecolor: colour("--edge"), zerolinecolor: colour("--edge") };
  const layout = figure.layout;
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.font = { color: colour("--soft"), family: getComputedStyle(document.body).fontFamily, size: 13 };
  layout.hoverlabel = { bgcolor: colour("--card"), bordercolor: colour("--edge"), font: { color: colour("--ink") } };
  layout.xaxis = { ...layout.xaxis, ...axis, showgrid: false, nticks: narrow.matches ? 5 : 12 };
  layout.yaxis = { ...layout.yaxis, ...axis };
  for (const shape of layout.shapes || []) if (shape.type === "line") shape.line.color = colour("--soft");
  if (narrow.matches) layout.dragmode = false; // a finger scrolls the page instead of zooming the figure
  layout.legend = { traceorder: "normal", orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" };
  return Plotly.react(place, figure.data, layout, { responsive: true, displayModeBar: false });
}

if (place) {
  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
}

const state = document.getElementById("state");

async function follow() {
  if (document.hidden) return;
  try {
    const answer = await fetch(`/v1/datasets/${encodeURIComponent(state.dataset.dataset)}`, { cache: "no-cache" });
    if (!answer.ok) return;
    const dataset = await answer.json();
    const latest = dataset.latest_forecast;
    if (latest && `${latest.forecast_id}/${dataset.data_version}` !== state.dataset.state) location.reload();
  } catch {
    // The service is away, perhaps restarting: what is shown stays, and the next look may succeed.
  }
}

if (state) setInterval(follow, 10_000);
