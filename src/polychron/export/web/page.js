"use strict";

const part = (id) => document.getElementById(id);
const SHOWN = 40000; /* characters; what is older leaves the page */
const AT_ONCE = 20000; /* bytes between two pictures, at most */
const about = JSON.parse(part("model").textContent);
const unpacked = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
let model = null, running = false, decoder = null, nWritten = 0, busy = 0, due = 0, last = 0, tail = null;

function show() {
  part("written").textContent = nWritten.toLocaleString("en") + (nWritten === 1 ? " byte" : " bytes");
  if (busy > 0) part("speed").textContent = Math.round((1000 * nWritten) / busy).toLocaleString("en") + " bytes/s in this browser";
}

function step(now) {
  if (!running) return;
  const pace = Number(part("pace").value);
  due = pace ? Math.min(due + ((now - last) * pace) / 1000, pace) : AT_ONCE;
  last = now;
  const began = performance.now(), bytes = [];
  while (bytes.length < due && (bytes.length % 64 || performance.now() - began < 12)) bytes.push(model.next());
  busy += performance.now() - began;
  due -= bytes.length;
  nWritten += bytes.length;
  if (bytes.length) {
    const view = part("text"), atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 40;
    tail.data = (tail.data + decoder.decode(Uint8Array.from(bytes), { stream: true })).slice(-SHOWN);
    if (atEnd) view.scrollTop = view.scrollHeight;
    show();
  }
  requestAnimationFrame(step);
}

function start() {
  const prompt = part("prompt").value, seed = Number(part("seed").value) >>> 0;
  model.begin(new TextEncoder().encode(prompt), Number(part("temperature").value), Number(part("top-p").value), seed);
  decoder = new TextDecoder();
  nWritten = busy = 0;
  due = 1;
  last = performance.now();
  const shown = document.createElement("span");
  shown.id = "prompt-shown";
  shown.textContent = prompt;
  tail = document.createTextNode("");
  part("text").replaceChildren(shown, tail);
  running = true;
  part("go").textContent = "Stop";
  requestAnimationFrame(step);
}

function stop() {
  running = false;
  part("go").textContent = "Start";
}

function temperatureChanged() {
  const temperature = Number(part("temperature").value);
  part("temperature-shown").textContent = temperature ? temperature.toFixed(2) : "0, the likeliest";
  if (running) model.setTemperature(temperature);
}

function topPChanged() {
  const topP = Number(part("top-p").value);
  part("top-p-shown").textContent = topP < 1 ? topP.toFixed(2) : "1, all";
  if (running) model.setTopP(topP);
}

part("go").addEventListener("click", () => (running ? stop() : start()));
part("temperature").addEventListener("input", temperatureChanged);
part("top-p").addEventListener("input", topPChanged);
part("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
});
temperatureChanged();
topPChanged();
Model.load(unpacked(about.program), unpacked(about.tables), about).then(
  (loaded) => {
    model = loaded;
    part("go").disabled = false;
    part("written").textContent = "ready";
    if (location.hash.startsWith("#start")) { /* #start-fast: at any pace */
      if (location.hash === "#start-fast") part("pace").value = "0";
      start();
    }
  },
  (error) => {
    part("written").textContent = "cannot run here: " + error.message;
  },
);
