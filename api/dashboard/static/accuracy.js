"use strict";

// The part of the page that takes a moment comes when it is ready.
const detail = document.getElementById("detail");

async function fetchDetail() {
  const box = document.createElement("section");
  box.className = "card";
  try {
    const answer = await fetch(detail.dataset.address, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    detail.replaceChildren(...fresh.body.children);
    drawAll();
  } catch (error) {
    const note = document.createElement("p");
    note.className = "nothing";
    note.textContent = `Calibration cannot be shown now: ${error.message}.`;
    const again = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
    again.addEventListener("click", fetchDetail);
    box.append(note, again);
    detail.replaceChildren(box);
  } finally {
    detail.setAttribute("aria-busy", "false");
  }
}

fetchDetail();
