"use strict";

// Shared by all pages: theme, forms, buttons that change something, live parts. Pages are readable without it.

const said = document.getElementById("said");

function say(text) {
  said.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (said.textContent = ""), 6000);
}

// --- theme ---------------------------------------------------------------------------------------------------------

const root = document.documentElement;
const themeButton = document.getElementById("theme");
const THEMES = ["system", "light", "dark"];

function showTheme() {
  themeButton.textContent = `Theme: ${root.dataset.theme || "system"}`;
  document.dispatchEvent(new CustomEvent("themechange"));
}

themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(root.dataset.theme || "system") + 1) % THEMES.length];
  if (next === "system") delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    if (next === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
  } catch {
    // Storage is blocked: the choice holds for this page only.
  }
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
showTheme();

// --- selection forms ------------------------------------------------------------------------------------------------

// A choice with the pointer submits at once. With the keyboard every arrow key would load a page, so Enter or the button
// submits.
for (const select of document.querySelectorAll(".choices select")) {
  let typed = false;
  select.addEventListener("pointerdown", () => (typed = false));
  select.addEventListener("keydown", (event) => {
    if (event.key === "Enter") select.form.requestSubmit();
    else if (event.key !== "Tab") typed = true;
  });
  select.addEventListener("change", () => {
    if (!typed) select.form.requestSubmit();
  });
}

// --- copying, and buttons that write --------------------------------------------------------------------------------

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent.trim());
    say("Copied.");
  } catch {
    getSelection().selectAllChildren(source); // no clipboard permission: select the text instead
    say("Selected: press Ctrl+C.");
  }
});

// Sends JSON to the REST interface; writes of a session carry its CSRF token.
async function send(method, address, body) {
  const headers = { Accept: "application/json" };
  const token = document.querySelector('meta[name="csrf-token"]');
  if (token) headers["X-CSRF-Token"] = token.content;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(address, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const answered = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(answered && answered.detail ? `${answered.detail}; ${answered.remedy}` : `the service returned ${answer.status}`);
  return answered;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-method]");
  if (!button) return;
  if (button.dataset.sure && !confirm(button.dataset.sure)) return;
  button.disabled = true;
  try {
    await send(button.dataset.method, button.dataset.address, button.dataset.body ? JSON.parse(button.dataset.body) : undefined);
    say(button.dataset.done);
    await refresh();
  } catch (error) {
    say(`Failed: ${error.message}.`);
  } finally {
    button.disabled = false;
  }
});

// --- live parts ------------------------------------------------------------------------------------------------------

// Fetches the page again and replaces the elements with data-live. A part with an open form and the focus are kept.
async function refresh() {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (!parts.length) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement && document.activeElement.id;
  for (const part of parts) {
    const other = fresh.getElementById(part.id);
    if (!other || other.innerHTML === part.innerHTML) continue;
    if (part.querySelector("details[open]")) continue; // a form is being filled in
    part.replaceWith(other);
  }
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
  document.dispatchEvent(new CustomEvent("refreshed"));
}
