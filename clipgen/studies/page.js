// A study's page: filters and orders its rows, and opens their films, which are pages of their own.
const [filters, order, count, list, film] = ["filters", "order", "count", "rows", "film"].map((id) =>
  document.getElementById(id),
);
const rows = [...list.children].map((item, place) => ({ item, place, ...JSON.parse(item.dataset.row) }));
const frame = film.querySelector("iframe");

function arrange() {
  const wanted = [...filters.querySelectorAll("[data-name]")].filter((choice) => choice.value);
  const shown = rows.filter(({ varied }) => wanted.every(({ dataset, value }) => varied[dataset.name] === value));
  const score = ({ scores }) => scores[order.value] ?? -Infinity;
  const sorted = [...rows].sort((a, b) => (order.value && score(b) - score(a)) || a.place - b.place);
  for (const { item } of sorted) item.hidden = true;
  for (const { item } of shown) item.hidden = false;
  list.append(...sorted.map(({ item }) => item));
  count.textContent = `${shown.length} of ${rows.length}`;
}

function open(item) {
  frame.srcdoc = JSON.parse(item.querySelector("script").textContent);
  film.showModal();
}

film.addEventListener("close", () => frame.removeAttribute("srcdoc"));
film.addEventListener("click", ({ target }) => target === film && film.close()); // beside it
document.getElementById("close").addEventListener("click", () => film.close());
for (const { item } of rows) item.querySelector("button")?.addEventListener("click", () => open(item));
filters.addEventListener("change", arrange);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
arrange();
