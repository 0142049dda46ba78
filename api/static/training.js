// The training page: stages, steps, loss and the time to go, as the worker measures them.
import { timeLeft, watch } from "./watch.js";

const root = document.getElementById("training");
const at = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("#stages li")];
const WORDS = { starting: "waiting", processing: "under way", succeeded: "ready" };
const points = [];
const spoken = { stage: null };

const first = JSON.parse(root.dataset.snapshot);
show(first);
if (["starting", "processing"].includes(first.status)) watch(root.dataset.events, show, () => location.reload());

function show(job) {
  const progress = job.progress ?? {};
  showStages(job, progress);
  at("status").textContent = WORDS[job.status] ?? job.status;
  at("status").className = `chip ${job.status}`;
  if (job.status === "processing") at("headline").textContent = `Learning ${root.dataset.name}`;
  const fitting = progress.stage === "fit";
  const total = progress.total || 0;
  at("step").textContent = total ? `${progress.step} / ${total}` : "–";
  at("bar").max = total || 1;
  at("bar").value = job.status === "succeeded" ? at("bar").max : progress.step || 0;
  at("eta").textContent = job.status === "processing" && fitting ? timeLeft(progress.eta_s) : "–";
  at("loss").textContent = progress.loss == null ? "–" : Number(progress.loss).toFixed(3);
  const text = job.error ?? progress.message ?? "";
  if (text && at("message").textContent !== text) at("message").textContent = text;
  if (fitting) drawLoss(progress);
}

function showStages(job, progress) {
  const done = job.status === "succeeded";
  const now = done ? rows.length : rows.findIndex((row) => row.dataset.stage === progress.stage);
  rows.forEach((row, index) => {
    row.dataset.state = index < now ? "done" : index === now && job.status === "processing" ? "now" : "to-come";
    if (row.dataset.state === "now") row.setAttribute("aria-current", "step"); else row.removeAttribute("aria-current");
    const seconds = job.metrics?.seconds?.[row.dataset.stage];
    row.querySelector(".took").textContent = seconds == null ? "" : timeLeft(seconds);
  });
  const label = rows[now]?.textContent.trim();
  if (label && spoken.stage !== label && job.status === "processing") { spoken.stage = label; if (!progress.message) at("message").textContent = label; }
}

function drawLoss(progress) {
  if (progress.losses) { points.length = 0; progress.losses.forEach((loss, index) => points.push([index, loss])); }
  else if (progress.loss != null && progress.step > (points.at(-1)?.[0] ?? -1)) points.push([progress.step, progress.loss]);
  if (points.length < 3) return;
  const smooth = [];
  points.reduce((mean, [step, loss]) => { const value = mean == null ? loss : 0.8 * mean + 0.2 * loss; smooth.push([step, value]); return value; }, null);
  const [low, high] = [Math.min(...smooth.map((point) => point[1])), Math.max(...smooth.map((point) => point[1]))];
  const [from, to] = [smooth[0][0], smooth.at(-1)[0]];
  const line = smooth.map(([step, loss]) => `${(300 * (step - from)) / (to - from || 1)},${92 - (84 * (loss - low)) / (high - low || 1)}`);
  document.querySelector("#curve polyline").setAttribute("points", line.join(" "));
  at("curve").hidden = false;
}
