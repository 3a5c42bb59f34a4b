// A mask, painted over the picture: white is where it may be painted anew.
function render({ model, el }) {
  const ground = new Image();
  const canvas = document.createElement("canvas"); // what is seen
  const mask = document.createElement("canvas"); // what is kept: white on black
  const view = canvas.getContext("2d");
  const paint = mask.getContext("2d");
  canvas.style.cssText = "width: 100%; max-width: 512px; cursor: crosshair; touch-action: none";
  canvas.setAttribute("aria-label", "Paint a mask");
  canvas.setAttribute("role", "img");

  const label = document.createElement("label");
  const size = Object.assign(document.createElement("input"), { type: "range", min: 2, max: 40, value: 14 });
  label.append("Brush ", size);
  const clear = Object.assign(document.createElement("button"), { type: "button", textContent: "Clear mask" });
  clear.className = "jupyter-button widget-button lm-Widget p-Widget";

  const show = () => {
    view.drawImage(ground, 0, 0, canvas.width, canvas.height);
    view.globalAlpha = 0.6;
    view.globalCompositeOperation = "screen";
    view.drawImage(mask, 0, 0);
    view.globalAlpha = 1;
    view.globalCompositeOperation = "source-over";
  };
  const empty = () => {
    paint.fillStyle = "black";
    paint.fillRect(0, 0, mask.width, mask.height);
    show();
  };
  ground.onload = () => {
    const scale = Math.max(1, Math.round(512 / ground.naturalWidth));
    if (canvas.width !== ground.naturalWidth * scale || canvas.height !== ground.naturalHeight * scale) {
      canvas.width = mask.width = ground.naturalWidth * scale;
      canvas.height = mask.height = ground.naturalHeight * scale;
      empty();
    }
    show();
  };
  const load = () => {
    if (model.get("ground")) ground.src = model.get("ground");
  };

  let last;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const stroke = (event) => {
    const [x, y] = at(event);
    paint.strokeStyle = "white";
    paint.lineCap = "round";
    paint.lineWidth = (size.value / 50) * canvas.width;
    paint.beginPath();
    paint.moveTo(...(last ?? [x, y]));
    paint.lineTo(x, y);
    paint.stroke();
    last = [x, y];
    show();
  };
  const send = (value) => {
    model.set("mask", value);
    model.save_changes();
  };
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = undefined;
    stroke(event);
  };
  canvas.onpointermove = (event) => event.buttons && stroke(event);
  canvas.onpointerup = () => send(mask.toDataURL("image/png"));
  clear.onclick = () => {
    empty();
    send("");
  };
  model.on("change:ground", load);
  load();
  el.append(canvas, document.createElement("br"), label, clear);
}

export default { render };
