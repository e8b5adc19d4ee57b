"use strict";

// The figure of the forecast page: history, median with bands, other models, and a slider over issue times.

const page = JSON.parse(document.getElementById("drawn").textContent);
const place = document.getElementById("figure");
const slider = document.getElementById("issue");
const issueText = document.getElementById("issue-text");
const view = { shown: page.shown, history: page.shown.history, others: new Map(), range: null };

// --- loading ---------------------------------------------------------------------------------------------------------

const known = new Map([[page.shown.id, page.shown]]);

// The forecast that was the latest at an instant, over the public REST interface.
async function forecastAt(at, signal) {
  const query = new URLSearchParams({ series: page.series, channels: page.channel, tz: page.zone, as_of: at });
  const answer = await fetch(`/v1/datasets/${encodeURIComponent(page.dataset)}/forecast?${query}`, { signal });
  const answered = await answer.json();
  if (!answer.ok) throw new Error(`${answered.detail}; ${answered.remedy}`);
  const { points } = answered.forecasts[0];
  return {
    id: answered.forecast_id,
    model: answered.model_name,
    trained: answered.horizon_trained,
    levels: answered.quantiles,
    times: points.map((point) => point.time.slice(0, 19)),
    quantiles: answered.quantiles.map((level) => points.map((point) => point.quantiles[String(level)])),
  };
}

async function historyBetween(start, end) {
  const query = new URLSearchParams({ dataset: page.dataset, series: page.series, channel: page.channel, start, end });
  const answer = await fetch(`/history?${query}`);
  if (!answer.ok) throw new Error("the history could not be loaded");
  return { ...(await answer.json()), start, end };
}

// --- drawing ---------------------------------------------------------------------------------------------------------

const middle = (forecast) => forecast.quantiles[forecast.levels.indexOf(0.5)];

function bands(forecast) {
  const { levels, quantiles, times } = forecast;
  const pairs = [];
  for (let low = 0; low < levels.length - 1 - low; low += 1) pairs.push([low, levels.length - 1 - low]);
  return pairs.flatMap(([low, high], depth) => {
    const line = { width: 0, shape: "linear" };
    const share = Math.round((levels[high] - levels[low]) * 100);
    const fill = pairs.length === 1 ? 0.24 : 0.12 + 0.1 * depth;
    return [
      { x: times, y: quantiles[high], mode: "lines", line, showlegend: false, hoverinfo: "skip" },
      {
        x: times, y: quantiles[low], mode: "lines", line, fill: "tonexty", fillcolor: `@accent/${fill.toFixed(2)}`,
        name: `${share}% band`, hoverinfo: "skip",
      },
    ];
  });
}

function observed(forecast) {
  const { times, values } = view.history;
  const origin = forecast.times[0];
  const split = times.findIndex((time) => time >= origin);
  const at = split < 0 ? times.length : split;
  const line = { width: 1.5 };
  const traces = [
    { x: times.slice(0, at), y: values.slice(0, at), name: "observed", mode: "lines", line: { ...line, color: "@history" }, hovertemplate: "%{y:.4~g}" },
  ];
  if (values.slice(at).some((value) => value !== null)) {
    traces.push({
      x: times.slice(at), y: values.slice(at), name: "observed since", mode: "lines",
      line: { ...line, color: "@actual", dash: "dot", width: 2 }, hovertemplate: "%{y:.4~g}",
    });
  }
  return traces;
}

function draw() {
  place.querySelector(".preview")?.remove();
  const { shown } = view;
  const dashes = ["dash", "dashdot", "longdash"];
  const data = [
    ...bands(shown),
    ...observed(shown),
    { x: shown.times, y: middle(shown), name: "median", mode: "lines", line: { width: 1.8, color: "@accent" }, hovertemplate: "%{y:.4~g}" },
    ...[...view.others].map(([model, other], place) => ({
      x: other.times, y: middle(other), name: plain(model), mode: "lines",
      line: { width: 2, color: "@other", dash: dashes[place % dashes.length] }, hovertemplate: "%{y:.4~g}",
    })),
  ];
  const shapes = [{ type: "line", x0: shown.times[0], x1: shown.times[0], yref: "paper", y0: 0, y1: 1, line: { width: 1, dash: "dot", color: "@soft" } }];
  if (shown.times.length > shown.trained) {
    shapes.push({
      type: "rect", x0: shown.times[shown.trained], x1: shown.times.at(-1), yref: "paper", y0: 0, y1: 1, line: { width: 0 },
      fillcolor: "@soft/0.12", label: { text: "recursive", textposition: "top left", font: { color: "@soft" } },
    });
  }
  const layout = {
    shapes,
    uirevision: "kept",
    xaxis: { range: view.range || undefined, type: "date" },
    yaxis: { title: { text: plain(page.unit) } },
  };
  place.setAttribute("aria-busy", "false");
  return Plotly.react(place, coloured(data), dressed(layout), SETTINGS);
}

function failed(error) {
  say(`Could not be loaded: ${error.message}.`);
}

// --- range of history, and detail on zoom --------------------------------------------------------------------------------

const DAY = 86_400_000;
const asWall = (time) => new Date(time).toISOString().slice(0, 19);
const asTime = (text) => Date.parse(`${String(text).replace(" ", "T").slice(0, 19)}Z`); // wall times are compared as if in UTC

async function reach(start, end) {
  place.setAttribute("aria-busy", "true");
  try {
    view.history = await historyBetween(asWall(start), asWall(end));
    await draw();
  } catch (error) {
    failed(error);
  } finally {
    place.setAttribute("aria-busy", "false");
  }
}

const farthest = () => Math.max(asTime(page.end), asTime(view.shown.times.at(-1)));

for (const button of document.querySelectorAll("[data-days]")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-days]")) other.setAttribute("aria-pressed", String(other === button));
    const days = Number(button.dataset.days);
    const start = days ? asTime(view.shown.times[0]) - days * DAY : asTime(page.start);
    view.range = [asWall(Math.max(start, asTime(page.start))), asWall(farthest())];
    reach(start, asTime(page.end) + DAY).then(() => Plotly.relayout(place, { "xaxis.range": view.range }));
  });
}

let zooming;
function zoomed(change) {
  const start = change["xaxis.range[0]"];
  if (start === undefined) return;
  clearTimeout(zooming);
  zooming = setTimeout(() => {
    const [from, until] = [asTime(start), asTime(change["xaxis.range[1]"])];
    const width = until - from;
    const have = view.history;
    const outside = have.times.length && (from < asTime(have.times[0]) || until > asTime(have.times.at(-1)));
    if (have.downsampled || (outside && from > asTime(page.start) - width)) reach(from - width / 2, until + width / 2);
  }, 250);
}

// --- other models ----------------------------------------------------------------------------------------------------

document.getElementById("others")?.addEventListener("change", async ({ target }) => {
  const { model } = target.dataset;
  if (!target.checked) view.others.delete(model);
  else {
    try {
      view.others.set(model, await forecastAt(target.value));
    } catch (error) {
      target.checked = false;
      failed(error);
    }
  }
  draw();
});

// --- issue times --------------------------------------------------------------------------------------------------------

let asking;

async function showIssue() {
  const issue = page.issues[Number(slider.value)];
  showIssueText(issue);
  asking?.abort();
  asking = new AbortController();
  try {
    if (!known.has(issue.id)) known.set(issue.id, await forecastAt(issue.at, asking.signal));
    view.shown = known.get(issue.id);
    fixRange();
    await draw();
    const address = new URL(location.href);
    address.searchParams.set("as_of", issue.at);
    address.searchParams.delete("model");
    history.replaceState(null, "", address);
  } catch (error) {
    if (error.name !== "AbortError") failed(error);
  }
}

// The axis stays fixed while the slider moves, so that changes of the forecast are visible.
function fixRange() {
  if (view.range) return;
  const [start, end] = place.layout.xaxis.range.map(asTime);
  view.range = [asWall(start), asWall(Math.max(end, farthest()))];
}

function showIssueText(issue) {
  const number = Number(slider.value) + 1;
  const moved = issue.moved === null ? "" : `; mean change of the medians: ${Number(issue.moved.toPrecision(3))} ${page.unit}`;
  issueText.textContent = `Issued ${issue.label} by ${issue.model}, ${number} of ${page.issues.length}${moved}.`;
  slider.setAttribute("aria-valuetext", `issued ${issue.label}`);
  for (const [place, bar] of [...document.querySelectorAll("#strip rect")].entries()) bar.classList.toggle("now", place === Number(slider.value));
}

function drawStrip() {
  const strip = document.getElementById("strip");
  const count = page.issues.length;
  const most = Math.max(...page.issues.map((issue) => issue.moved || 0)) || 1;
  strip.setAttribute("viewBox", "0 0 1000 40");
  const width = Math.min(18, 700 / count);
  const reach = 984 - width; // centres each bar on the position of the slider's knob
  for (const [place, issue] of page.issues.entries()) {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = 3 + 36 * ((issue.moved || 0) / most);
    for (const [name, value] of Object.entries({ x: 8 + (place / (count - 1)) * reach, y: 40 - height, width, height })) bar.setAttribute(name, value);
    strip.append(bar);
  }
}

if (slider) {
  slider.value = String(page.issues.findIndex((issue) => issue.id === page.shown.id));
  drawStrip();
  showIssueText(page.issues[Number(slider.value)]);
  let waiting;
  slider.addEventListener("input", () => {
    showIssueText(page.issues[Number(slider.value)]);
    clearTimeout(waiting);
    waiting = setTimeout(showIssue, 60);
  });
  const button = document.getElementById("play");
  let playing = false;
  const stop = () => {
    playing = false;
    button.textContent = "▶ Play";
  };
  button.addEventListener("click", async () => {
    if (playing) return stop();
    playing = true;
    button.textContent = "■ Stop";
    if (Number(slider.value) === page.issues.length - 1) slider.value = "0";
    while (playing) {
      await showIssue();
      if (Number(slider.value) === page.issues.length - 1) return stop();
      await new Promise((go) => setTimeout(go, 450));
      if (playing) slider.value = String(Number(slider.value) + 1);
    }
  });
}

// --- PNG export ------------------------------------------------------------------------------------------------------------

document.getElementById("png").addEventListener("click", async () => {
  // plotly's own export uses a blob: URL, which the content security policy forbids for images.
  const svg = await Plotly.toImage(place, { format: "svg", width: 1200, height: 640 });
  const image = new Image();
  image.src = svg;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: 2400, height: 1280 });
  const context = canvas.getContext("2d");
  context.fillStyle = colour("card");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const link = Object.assign(document.createElement("a"), { href: canvas.toDataURL("image/png"), download: `${page.dataset}.png` });
  link.click();
});

draw().then(() => place.on("plotly_relayout", zoomed));
document.addEventListener("themechange", draw);
narrow.addEventListener("change", draw);
