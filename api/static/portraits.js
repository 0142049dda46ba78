// The gallery: portraits that are being made show their progress, and their pictures when they come.
import { timeLeft, watch } from "./watch.js";

const said = document.getElementById("said");
const styles = document.querySelectorAll('input[name="style"]');
const promptField = document.getElementById("prompt-field");

function showPrompt() {
  const own = document.getElementById("own-words").checked;
  promptField.hidden = !own;
  promptField.querySelector("textarea").required = own;
}
styles.forEach((style) => style.addEventListener("change", () => { showPrompt(); if (!promptField.hidden) promptField.querySelector("textarea").focus(); }));
showPrompt();

// A closed picker says what is chosen in it; a pose and a photo exclude each other.
const pickers = [...document.querySelectorAll("[data-picker]")];
for (const picker of pickers) {
  picker.addEventListener("change", () => {
    const chosen = picker.querySelector("input:checked");
    picker.querySelector("[data-chosen]").textContent = chosen.dataset.label ? `· ${chosen.dataset.label}` : "";
    if (!chosen.value) return;
    for (const other of pickers.filter((one) => one !== picker)) {
      const none = other.querySelector('input[value=""]');
      if (!none.checked) { none.checked = true; other.querySelector("[data-chosen]").textContent = ""; }
    }
  });
}

document.querySelectorAll(".portrait[data-events]").forEach(follow);

function follow(card) {
  watch(card.dataset.events, (job) => showProgress(card, job), (job) => replace(card, job));
}

function showProgress(card, { status, progress }) {
  const bar = card.querySelector("progress");
  if (bar && progress.total) { bar.max = progress.total; bar.value = progress.step ?? 0; }
  const preview = card.querySelector("[data-preview]");
  if (preview && progress.preview?.startsWith("data:image/")) { preview.src = progress.preview; preview.hidden = false; }
  const left = progress.eta_s ? `, ${timeLeft(progress.eta_s)} to go` : "";
  const says = card.querySelector("[data-says]");
  if (says && status === "processing") says.textContent = `${progress.message || "Rendering"}${left}`;
}

async function replace(card, job) {
  const response = await fetch(card.dataset.card, { headers: { Accept: "text/html" } });
  if (!response.ok) return;
  const holder = document.createElement("template");
  holder.innerHTML = await response.text();
  card.replaceWith(holder.content);
  said.textContent = job.status === "succeeded" ? "The portraits are ready." : `The portraits were not made: ${job.error ?? job.status}.`;
}
