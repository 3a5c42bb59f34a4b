// The timeline of an exported page: scrubs the frames, plays them, marks the shown one on the curve.
const [film, controls, button, time, said, curve, mark] = ["film", "controls", "play", "time", "said", "curve", "mark"].map(
  (id) => document.getElementById(id),
);
const frames = [...film.children];
const order = JSON.parse(film.dataset.order); // [frame, milliseconds], as it plays
const loop = film.dataset.loop === "true";
let shown = frames.length - 1;
let at = order.findIndex(([frame]) => frame === shown);
let playing = false;
let since; // when the entry that is shown had its turn

function show(frame) {
  frames[shown].hidden = true;
  frames[frame].hidden = false;
  shown = frame;
  const { alt, dataset } = frames[frame];
  time.value = frame + 1;
  time.setAttribute("aria-valuetext", alt);
  said.textContent = alt;
  if (!mark) return;
  mark.setAttribute("visibility", dataset.x ? "visible" : "hidden");
  mark.setAttribute("transform", `translate(${dataset.x ?? 0} 0)`);
  mark.querySelector("circle").setAttribute("cy", dataset.y ?? 0);
}

function set(now) {
  playing = now;
  button.setAttribute("aria-label", playing ? "Pause" : "Play");
}

function begin(entry) {
  at = entry;
  since = performance.now();
  set(true);
  show(order[at][0]);
  requestAnimationFrame(tick);
}

function tick(now) {
  if (!playing) return;
  while (now - since >= order[at][1]) {
    if (!loop && at === order.length - 1) return set(false);
    since += order[at][1];
    at = (at + 1) % order.length;
  }
  if (order[at][0] !== shown) show(order[at][0]);
  requestAnimationFrame(tick);
}

function scrub(frame) {
  set(false);
  at = order.findIndex(([one]) => one === frame);
  show(frame);
}

function follow(event) {
  if (!event.buttons) return;
  const box = curve.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * curve.viewBox.baseVal.width;
  const far = (frame) => Math.abs((frames[frame].dataset.x ?? Infinity) - x);
  scrub([...frames.keys()].reduce((best, frame) => (far(frame) < far(best) ? frame : best)));
}

if (frames.length > 1) {
  show(shown);
  controls.hidden = false;
  time.addEventListener("input", () => scrub(time.value - 1));
  time.addEventListener("pointerdown", () => set(false)); // where it stands, too
  time.addEventListener("keydown", ({ key }) => /^(Arrow|Page|Home|End)/.test(key) && set(false));
  button.addEventListener("click", () => (playing ? set(false) : begin((at + 1) % order.length)));
  curve?.addEventListener("pointerdown", follow);
  curve?.addEventListener("pointermove", follow);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) begin(0);
}
