"use strict";

// Draws figures in the colours of the page. A figure is JSON with plotly's traces and layout, in which "@accent" is a
// colour of the style sheet and "@accent/0.2" the same with an opacity of 0.2.

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

// Cached: reading a colour makes the browser recompute the page's styles.
const colours = new Map();

function colour(name) {
  if (!colours.has(name)) colours.set(name, readColour(name));
  return colours.get(name);
}

function readColour(name) {
  const [token, share] = name.split("/");
  probe.style.color = `var(--${token})`;
  const found = getComputedStyle(probe).color;
  if (!share) return found;
  const [red, green, blue] = found.match(/[\d.]+/g);
  return `rgba(${red}, ${green}, ${blue}, ${share})`;
}

function coloured(value) {
  if (typeof value === "string") return value.startsWith("@") ? colour(value.slice(1)) : value;
  if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map(coloured);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one)]));
  return value;
}

// plotly interprets some HTML in texts, so names are escaped.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const narrow = matchMedia("(max-width: 640px)");
const SETTINGS = { responsive: true, displayModeBar: false, doubleClick: "reset" };

const titled = (axis = {}) => (axis.title ? { ...axis, title: { standoff: 12, ...axis.title, font: { size: 12.5 } } } : axis);

function dressed(layout) {
  const axis = { gridcolor: "@grid", linecolor: "@edge", zerolinecolor: "@edge", automargin: true };
  return coloured({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 8, t: 12, b: 8 },
    hovermode: "x unified",
    showlegend: true,
    legend: { traceorder: "normal", orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" },
    dragmode: narrow.matches ? false : "zoom", // a finger scrolls the page instead of zooming the figure
    ...layout,
    font: { color: "@soft", family: getComputedStyle(document.body).fontFamily, size: 12.5 },
    hoverlabel: { bgcolor: "@card", bordercolor: "@edge", font: { color: "@ink" } },
    xaxis: { showgrid: false, nticks: narrow.matches ? 5 : 12, ...axis, ...titled(layout.xaxis) },
    yaxis: { ...axis, zeroline: false, ...titled(layout.yaxis) },
  });
}

function drawFigure(place) {
  const source = document.getElementById(place.dataset.drawn);
  if (!source) return;
  const { data, layout } = JSON.parse(source.textContent);
  Plotly.react(place, coloured(data), dressed(layout), SETTINGS);
}

function drawAll() {
  for (const place of document.querySelectorAll(".plot[data-drawn]")) drawFigure(place);
}

drawAll();
document.addEventListener("themechange", () => {
  colours.clear();
  drawAll();
});
document.addEventListener("refreshed", drawAll);
narrow.addEventListener("change", drawAll);
