"use strict";

// Before the first paint, or a page of the other theme would flash.
{
  const root = document.documentElement;
  root.classList.add("scripted");
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    // A browser that keeps nothing follows the system.
  }
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
}
