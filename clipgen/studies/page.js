// A study's page: filters and orders its rows.
const [filters, order, count, list] = ["filters", "order", "count", "rows"].map((id) => document.getElementById(id));
const rows = [...list.children].map((item, place) => ({ item, place, ...JSON.parse(item.dataset.row) }));

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

filters.addEventListener("change", arrange);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
arrange();
