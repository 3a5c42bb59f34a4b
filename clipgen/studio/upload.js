// A picture from the person's own disk. A large one is made smaller here: servers drop messages of 10 MB.
const LARGEST = 3e6; // bytes that are sent as they are
const LONGEST = 2048; // pixels of a side of what is made smaller

const read = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

async function smaller(file) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(picture.width * scale);
  canvas.height = Math.round(picture.height * scale);
  const view = canvas.getContext("2d");
  view.fillStyle = "white";
  view.fillRect(0, 0, canvas.width, canvas.height);
  view.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

function render({ model, el }) {
  const button = document.createElement("button");
  button.className = "jupyter-button widget-button lm-Widget p-Widget";
  button.type = "button";
  const icon = document.createElement("i");
  icon.className = "fa fa-upload";
  button.append(icon, model.get("label"));
  const input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*", hidden: true });
  const message = document.createElement("div");
  message.setAttribute("role", "alert");
  button.onclick = () => input.click();
  input.onchange = async () => {
    const [file] = input.files;
    input.value = ""; // so that the same file can be chosen again
    if (!file) return;
    message.textContent = "";
    try {
      model.send({ name: file.name, picture: await (file.size > LARGEST ? smaller(file) : read(file)) });
    } catch (error) {
      message.textContent = `${file.name} cannot be read (${error.message}). Save it as PNG or JPEG.`;
    }
  };
  el.append(button, input, message);
}

export default { render };
