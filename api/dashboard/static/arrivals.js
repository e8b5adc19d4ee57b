"use strict";

// Polls for a newer forecast or newer rows. A page without user input reloads at once; otherwise a note announces them.

const state = document.getElementById("state");
let touched = false;
for (const kind of ["input", "pointerdown", "keydown"]) {
  document.getElementById("main").addEventListener(kind, () => (touched = true), { capture: true });
}

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch(`/v1/datasets/${encodeURIComponent(state.dataset.dataset)}`, { cache: "no-cache" });
    if (!answer.ok) return;
    const { latest_forecast: latest, data_version: version } = await answer.json();
    if (!latest || `${latest.forecast_id}/${version}` === state.dataset.state) return;
    const note = document.getElementById("arrival");
    if (touched && note) note.hidden = false;
    else location.reload();
  } catch {
    // The service is not reachable, perhaps restarting: keep the page and poll again.
  }
}

setInterval(look, 10_000);
