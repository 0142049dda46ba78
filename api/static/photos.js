// Photos: each file goes to the store by its presigned form, is judged at once, and the set is drawn anew by the server.
const drop = document.getElementById("drop");
const input = document.getElementById("files");
const arriving = document.getElementById("arriving");
const set = document.getElementById("set");
const said = document.getElementById("said");
const photosUrl = `/v1/subjects/${drop.dataset.subject}/photos`;
const uploadsUrl = `/v1/subjects/${drop.dataset.subject}/uploads`;
const AT_ONCE = 3;
const AGAIN_AFTER_MS = [1000, 4000]; // a server that is down for a moment

const waiting = [];
let running = 0;
let drawing = null;
let stale = false;

document.getElementById("send").hidden = true;
input.addEventListener("change", takeChosen);
drop.addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files); });

function takeChosen() {
  take(input.files);
  input.value = "";
}

function take(files) {
  for (const file of files) waiting.push({ file, card: showArriving(file) });
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    const job = waiting.shift();
    bring(job).finally(() => { running -= 1; next(); });
  }
}

async function bring({ file, card }) {
  try {
    if (file.size > Number(drop.dataset.maxBytes)) throw refusal("This file is too large.", `At most ${Math.floor(drop.dataset.maxBytes / 2 ** 20)} MB; export it as a JPEG.`);
    const answer = await judge(file);
    card.remove();
    arriving.hidden = !arriving.children.length;
    await redraw();
    const photo = answer.photos[0];
    say(`${file.name}: ${photo.verdict}. ${photo.reasons.map((reason) => reason.message).join(" ")} ${answer.counts.usable} usable photos.`);
  } catch (error) {
    showRefused(card, file, error);
  }
}

async function judge(file) {
  const { uploads: [place] } = await send(uploadsUrl, { files: [{ filename: file.name, content_type: file.type || "application/octet-stream", size: file.size }] });
  await store(place, file);
  return send(photosUrl, { upload_ids: [place.id] });
}

async function store(place, file) {
  let body = file;
  if (place.method === "POST") {
    body = new FormData();
    for (const [name, value] of Object.entries(place.fields)) body.append(name, value);
    body.append("file", file);
  }
  const response = await patiently(place.url, { method: place.method, body, headers: place.headers });
  if (!response.ok) throw await problem(response);
}

async function send(url, content) {
  const response = await patiently(url, { method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(content) });
  if (!response.ok) throw await problem(response);
  return response.json();
}

async function patiently(url, options) {
  for (const wait of AGAIN_AFTER_MS) {
    const response = await fetch(url, options);
    if (response.status !== 503) return response;
    await new Promise((done) => { setTimeout(done, wait); });
  }
  return fetch(url, options);
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));
  const first = body.errors?.[0];
  return first ? refusal(first.message, first.fix) : refusal(body.title ?? "It could not be sent.", body.detail ?? "Check the connection and try again.");
}

function refusal(message, fix) {
  return Object.assign(new Error(message), { fix });
}

// One drawing at a time, and another for what changed meanwhile: of two at once the older answer may come last and stay.
function redraw() {
  stale = true;
  drawing ??= draw();
  return drawing;
}

async function draw() {
  while (stale) {
    stale = false;
    const html = await fetch(set.dataset.source, { headers: { Accept: "text/html" } }).then((response) => (response.ok ? response.text() : null)).catch(() => null);
    if (html !== null) set.innerHTML = html;
  }
  drawing = null;
}

function showArriving(file) {
  const card = document.createElement("li");
  card.className = "photo";
  const frame = Object.assign(document.createElement("div"), { className: "frame" });
  if (/^image\/(jpeg|png|webp)$/.test(file.type)) {
    const picture = Object.assign(document.createElement("img"), { alt: "", src: URL.createObjectURL(file) });
    picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
    frame.append(picture);
  }
  frame.append(Object.assign(document.createElement("span"), { className: "spinner" }));
  const says = Object.assign(document.createElement("div"), { className: "says" });
  says.append(Object.assign(document.createElement("span"), { className: "name", textContent: file.name, title: file.name }));
  card.append(frame, says);
  arriving.append(card);
  arriving.hidden = false;
  return card;
}

function showRefused(card, file, error) {
  card.classList.add("rejected");
  card.querySelector(".spinner")?.remove();
  card.querySelector(".frame").append(Object.assign(document.createElement("span"), { className: "chip rejected", textContent: "✕ Refused" }));
  const why = document.createElement("span");
  why.append(Object.assign(document.createElement("strong"), { textContent: error.message }), " ", Object.assign(document.createElement("span"), { className: "fix", textContent: error.fix ?? "" }));
  const close = Object.assign(document.createElement("button"), { className: "plain", type: "button", textContent: "Dismiss" });
  close.addEventListener("click", () => { card.remove(); arriving.hidden = !arriving.children.length; });
  card.querySelector(".says").append(why);
  card.append(Object.assign(document.createElement("div"), { className: "remove" }));
  card.lastChild.append(close);
  say(`${file.name} was refused. ${error.message} ${error.fix ?? ""}`);
}

set.addEventListener("submit", async (event) => {
  const id = event.target.dataset.erasePhoto;
  if (!id) return;
  event.preventDefault();
  const response = await fetch(`${photosUrl}/${id}`, { method: "DELETE" });
  const receipt = response.ok ? await response.json() : null;
  await redraw();
  say(receipt ? `Erased; receipt ${receipt.id}.` : "It could not be erased; try again.");
});

function say(text) {
  said.textContent = text;
}

takeChosen(); // whoever was quicker than this script chose before anything listened
