"use strict";

// Loads calibration and errors by hour and weekday, which take the server a moment.
const detail = document.getElementById("detail");

async function fetchDetail() {
  const box = document.createElement("section");
  box.className = "card";
  try {
    const answer = await fetch(detail.dataset.address, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`the service returned ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    detail.replaceChildren(...fresh.body.children);
    drawAll();
  } catch (error) {
    const note = document.createElement("p");
    note.className = "nothing";
    note.textContent = `Calibration could not be loaded: ${error.message}.`;
    const again = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
    again.addEventListener("click", fetchDetail);
    box.append(note, again);
    detail.replaceChildren(box);
  } finally {
    detail.setAttribute("aria-busy", "false");
  }
}

fetchDetail();
