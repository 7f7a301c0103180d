// Many suspects at once: choose some, decide about all of them.

const PER_PAGE = 24;
const grid = { chosen: new Set(), turn: 0, focus: false, tiles: new Map() };

const pageOf = (place) => Math.floor(place / PER_PAGE);
const onPage = () => state.order.slice(pageOf(state.at) * PER_PAGE, (pageOf(state.at) + 1) * PER_PAGE);

/** Decide about those that are chosen, or about the one in focus. */
function actOnGrid(name) {
  const numbers = onPage().filter((n) => grid.chosen.has(n));
  if (!numbers.length && current() !== undefined) numbers.push(current());
  if (!numbers.length || !numbers.every((n) => grid.tiles.has(n))) return;
  const finish = (label) => {
    grid.chosen.clear();
    decide(numbers, name, label);
    if (numbers.length === 1 && numbers[0] === current()) stepInGrid(1);
  };
  if (name === "other") pick(numbers[0], finish);
  else finish();
}

function stepInGrid(by) {
  grid.focus = true; // once the tiles are there
  go(state.at + by);
}

function turnPage(by) {
  const place = (pageOf(state.at) + by) * PER_PAGE;
  if (place < 0 || place >= state.order.length) return;
  grid.chosen.clear();
  stepInGrid(place - state.at);
}

function choose(n) {
  if (!grid.chosen.delete(n)) grid.chosen.add(n);
  drawGrid();
}

function chooseAll() {
  const numbers = onPage();
  const all = numbers.every((n) => grid.chosen.has(n));
  grid.chosen = new Set(all ? [] : numbers);
  drawGrid();
}

/** How many tiles stand in a row just now. */
function columns() {
  const tiles = [...grid.tiles.values()];
  const below = tiles.findIndex((tile) => tile.offsetTop > tiles[0].offsetTop);
  return below > 0 ? below : Math.max(tiles.length, 1);
}

async function drawGrid(anew) {
  const numbers = onPage();
  const mine = ++grid.turn;
  const sameTiles = grid.tiles.size === numbers.length && numbers.every((n) => grid.tiles.has(n));
  if (!sameTiles || anew) {
    let suspects;
    try {
      suspects = await store.details(numbers);
    } catch {
      $("grid").replaceChildren(make("p", { class: "empty" }, "The server does not answer."));
      return;
    }
    if (mine !== grid.turn) return;
    grid.focus ||= $("grid").contains(document.activeElement);
    buildGrid(numbers, suspects);
  }
  for (const n of numbers) brushTile(n);
  if (grid.focus) grid.tiles.get(current())?.focus();
  grid.focus = false;
  const chosen = numbers.filter((n) => grid.chosen.has(n)).length;
  const words = $("grid").querySelector("#chosen");
  if (words) words.textContent = chosen ? `${chosen} chosen` : "none chosen: the one in focus is meant";
}

function buildGrid(numbers, suspects) {
  grid.tiles = new Map(numbers.map((n, i) => [n, tileNode(n, suspects[i])]));
  const page = pageOf(state.at), pages = Math.max(1, Math.ceil(state.order.length / PER_PAGE));
  const turner = (id, by, words, sign, off) => make("button", {
    type: "button", id, onclick: () => turnPage(by), "aria-label": words, disabled: off }, sign);
  $("grid").replaceChildren(
    make("div", { class: "steps" },
      turner("page-before", -1, "Page before", "←", page === 0),
      make("span", {}, `page ${page + 1} of ${pages}`),
      turner("page-after", 1, "Page after", "→", page >= pages - 1),
      make("button", { type: "button", id: "choose-all", onclick: chooseAll }, "Choose all ", key("*")),
      make("span", { id: "chosen", "aria-live": "polite" })),
    actionBar(actOnGrid),
    numbers.length ? make("div", { class: "tiles", role: "listbox", "aria-multiselectable": "true", "aria-label": "Suspects of this page" }, ...grid.tiles.values())
      : make("p", { class: "empty" }, "No suspect is left by these filters."));
}

function tileNode(n, suspect) {
  return make("div", {
    class: "tile", role: "option", "data-n": n,
    onclick: () => { state.at = state.place[n]; choose(n); grid.tiles.get(n)?.focus(); },
    onfocus: () => { state.at = state.place[n]; },
  }, sampleNode(suspect, SMALL), pairNode(n), nameNode(suspect.id),
  make("span", { class: "decision" }));
}

function brushTile(n) {
  const tile = grid.tiles.get(n);
  if (!tile) return;
  tile.tabIndex = n === current() ? 0 : -1;
  tile.setAttribute("aria-selected", String(grid.chosen.has(n)));
  tile.classList.toggle("here", n === current());
  const words = tile.querySelector(".decision");
  words.className = "decision " + statusOf(n);
  words.replaceChildren(markOf(n) + " ", foreign(wordsOf(n)));
}
