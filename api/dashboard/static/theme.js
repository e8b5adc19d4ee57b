"use strict";

// Runs before the first paint; otherwise the page would flash in the other theme.
{
  const root = document.documentElement;
  root.classList.add("scripted");
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    // Storage is blocked: follow the system.
  }
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
}
