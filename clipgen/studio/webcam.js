// A selfie: the camera is on between "Start camera" and "Take picture" only.
function render({ model, el }) {
  const button = (text) => {
    const made = document.createElement("button");
    made.className = "jupyter-button widget-button lm-Widget p-Widget";
    made.type = "button";
    made.textContent = text;
    return made;
  };
  const start = button("Start camera");
  const take = button("Take picture");
  const video = document.createElement("video");
  const message = document.createElement("div");
  message.setAttribute("role", "alert");
  video.muted = video.playsInline = true;
  video.setAttribute("aria-label", "Webcam");
  video.style.cssText = "max-width: 100%; width: 256px; transform: scaleX(-1)";
  video.hidden = true;
  take.disabled = true;
  let stream;

  const stop = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = undefined;
    take.disabled = video.hidden = true;
    start.disabled = false;
  };
  start.onclick = async () => {
    start.disabled = true;
    message.textContent = "";
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
      video.srcObject = stream;
      video.hidden = false;
      await video.play();
      take.disabled = false;
    } catch (error) {
      stop();
      const why = navigator.mediaDevices ? error.message : "the page is not on https or localhost";
      message.textContent = `No camera (${why}). Allow it in the browser, or upload a picture.`;
    }
  };
  take.onclick = () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    model.set("picture", canvas.toDataURL("image/jpeg", 0.9));
    model.save_changes();
    stop();
  };
  el.append(start, take, video, message);
  return stop;
}

export default { render };
