"use strict";

// Looks for a newer forecast or newer rows. A page that nobody has touched shows them at once; one that is being read
// says that they are there.

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
    // The service is away, perhaps restarting: what is shown stays, and the next look may succeed.
  }
}

setInterval(look, 10_000);
