"use strict";

// Live updates of the runs pages: states and progress arrive as server-sent events, changed parts are fetched again.

let soon;
function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => refresh().catch(() => {}), 300);
}

// --- all runs of a data set -----------------------------------------------------------------------------------------

const follow = document.getElementById("follow");
if (follow) {
  const query = new URLSearchParams({ dataset: follow.dataset.dataset, kinds: "run,progress,promotion,forecast" });
  const events = new EventSource(`/v1/events?${query}`);
  events.addEventListener("run", refreshSoon);
  events.addEventListener("progress", (event) => {
    const { run_id: run, details } = JSON.parse(event.data);
    const row = document.querySelector(`tr[data-run="${Number(run)}"]`);
    if (!row) return refreshSoon();
    const bar = row.querySelector("progress");
    if (details.progress === null) bar.removeAttribute("value");
    else bar.value = details.progress;
    row.querySelector(".doing").textContent = details.doing || "";
  });
}

// The UTC time of midnight of a day in the data set's zone.
function midnight(day, zone) {
  const asUtc = Date.parse(`${day}T00:00:00Z`);
  const parts = new Intl.DateTimeFormat("en-US", {
    timeZone: zone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric",
  }).formatToParts(asUtc);
  const at = Object.fromEntries(parts.map(({ type, value }) => [type, Number(value)]));
  const shownAsUtc = Date.UTC(at.year, at.month - 1, at.day, at.hour, at.minute);
  return asUtc - (shownAsUtc - asUtc);
}

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form.backfill");
  if (!form) return;
  event.preventDefault();
  const { zone } = follow.dataset;
  const [first, last] = ["first", "last"].map((name) => midnight(form.elements[name].value, zone));
  const now = Date.parse(document.getElementById("clock").dateTime); // the last day may be today
  const body = { first: new Date(first).toISOString(), last: new Date(Math.min(last + 86_399_000, now)).toISOString() };
  try {
    const { runs } = await send("POST", `/v1/jobs/${encodeURIComponent(form.dataset.job)}/runs`, body);
    say(runs.length ? `${runs.length} runs were queued.` : "Every date of this range already has a run.");
    form.closest("details").open = false;
    await refresh();
  } catch (error) {
    say(`Failed: ${error.message}.`);
  }
});

// --- one run ------------------------------------------------------------------------------------------------------------

const WORDS = { queued: "is queued again", running: "has started", succeeded: "has succeeded", failed: "has failed", cancelled: "was cancelled" };
const one = document.getElementById("follow-run");
if (one) {
  const log = document.getElementById("log");
  const events = new EventSource(`/v1/runs/${one.dataset.run}/events`);
  let begun = false;
  const begin = () => {
    if (!begun) log.textContent = "";
    begun = true;
    log.setAttribute("aria-busy", "false");
  };
  events.addEventListener("log", (event) => {
    begin();
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(`${JSON.parse(event.data).lines.join("\n")}\n`);
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
  events.addEventListener("progress", (event) => {
    const { details } = JSON.parse(event.data);
    const bar = document.getElementById("progress");
    if (!bar) return;
    if (details.progress === null) bar.removeAttribute("value");
    else bar.value = details.progress;
    document.getElementById("doing").textContent = details.doing || "";
  });
  let state = null;
  events.addEventListener("run", (event) => {
    const { details } = JSON.parse(event.data);
    if (event.lastEventId.endsWith("-end")) {
      events.close();
      begin();
      if (!log.textContent) log.textContent = "The log is empty.";
    }
    if (state !== null && details.state !== state && one.dataset.goesOn) say(`Run ${one.dataset.run} ${WORDS[details.state] || details.state}.`);
    state = details.state;
    refreshSoon();
  });
  events.addEventListener("error", () => {
    if (begun) return;
    log.setAttribute("aria-busy", "false");
    log.textContent = "The log is not available; the browser is reconnecting.";
  });
}
