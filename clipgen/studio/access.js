// Jupyter's pictures and sliders have no names for who cannot see them, and classic sliders (Colab's) not even a role.
const textOf = (root, place) => root.querySelector(place)?.textContent.trim();
const PICTURES = {
  ".clipgen-preview": (_, root) => `The picture, ${textOf(root, ".clipgen-curve small") || "as soon as there is one"}`,
  ".clipgen-card img": (picture) => textOf(picture.closest(".clipgen-card"), ".widget-html-content"),
  ".clipgen-views": () => "The cutouts, each with its score and its share of the gradient",
  ".clipgen-where": (_, root) => `Where it glows, the text is found: ${root.querySelector(".clipgen-sought input").value}`,
};

function set(element, name, value) {
  if (value != null && element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

function name(root) {
  for (const [place, text] of Object.entries(PICTURES))
    for (const picture of root.querySelectorAll(place)) set(picture, "alt", text(picture, root));
  for (const handle of root.querySelectorAll(".noUi-handle, .ui-slider-handle")) {
    const box = handle.closest(".widget-inline-hbox");
    set(handle, "aria-label", box && textOf(box, ".widget-label"));
    if (handle.matches(".ui-slider-handle")) {
      const value = box && textOf(box, ".widget-readout");
      set(handle, "role", "slider");
      set(handle, "aria-valuenow", parseFloat(value));
      set(handle, "aria-valuetext", value);
    }
  }
}

function render({ el }) {
  el.hidden = true;
  let observer, waiting;
  const begin = () => {
    const root = el.closest(".clipgen-studio");
    if (!root) {
      waiting = requestAnimationFrame(begin);
      return;
    }
    name(root);
    observer = new MutationObserver(() => name(root));
    observer.observe(root, { childList: true, characterData: true, subtree: true });
  };
  begin();
  return () => {
    cancelAnimationFrame(waiting);
    observer?.disconnect();
  };
}

export default { render };
