// Putting it together: first drawing, filters, keys.

let store = null;

const asked = { refresh: false, moved: false };

/** Show what has changed, once all of it has; `moved`: another suspect is in sight. */
function refresh(moved = false) {
  asked.moved ||= moved;
  if (asked.refresh) return;
  asked.refresh = true;
  queueMicrotask(() => {
    const { moved } = asked;
    asked.refresh = asked.moved = false;
    redraw(moved);
  });
}

function redraw(moved) {
  const total = state.data.likely ?? state.data.id.length;
  $("progress").max = total || 1;
  $("progress").value = state.counts.done;
  const skipped = state.counts.skip ? `, ${state.counts.skip} skipped` : "";
  const words = state.data.likely
    ? `${state.counts.done} decided, ${total} probably wrong${skipped}`
    : `${state.counts.done} of ${total} decided${skipped}`;
  if ($("count").textContent !== words) $("count").textContent = words;
  $("undo").disabled = !state.history.length;
  for (const view of ["one", "grid"]) {
    $(view).hidden = state.view !== view;
    $("view-" + view).setAttribute("aria-pressed", String(state.view === view));
  }
  document.body.classList.toggle("wide", state.view === "grid");
  drawList(moved);
  if (state.view === "one") drawOne();
  else drawGrid();
}

/** Take in what the journal says; `mine`: suspects with decisions that it has not got yet. */
function learn(told, mine) {
  if (told.whole) {
    const kept = new Set(told.changes.map((change) => change.n));
    state.stacks.forEach((stack, n) => stack && !kept.has(n) && !mine.has(n) && setStack(n, []));
  }
  let changed = told.whole;
  for (const change of told.changes) {
    if (mine.has(change.n) || decisionOf(change.n)?.key === change.key) continue;
    if (!change.decision && !decisionOf(change.n)) continue;
    setStack(change.n, change.decision ? [change] : []);
    changed = true;
  }
  if (changed) refresh();
}

function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function fillPairs() {
  const data = state.data, counts = new Map();
  for (let n = 0; n < data.id.length; n++) {
    const pair = data.given[n] + ">" + data.suggested[n];
    counts.set(pair, (counts.get(pair) ?? 0) + 1);
  }
  const pairs = [...counts].sort((a, b) => b[1] - a[1]);
  $("pair").replaceChildren(make("option", { value: "" }, `all classes (${data.id.length})`),
    ...pairs.map(([pair, number]) => {
      const [given, suggested] = pair.split(">").map(Number);
      return make("option", { value: pair }, `${labelOf(given)} → ${labelOf(suggested)} (${number})`);
    }));
}

function setView(view) {
  state.view = view;
  grid.focus = view === "grid";
  refresh(true);
}

const KEYS = {
  a: () => act("accept"), k: () => act("keep"), o: () => act("other"), s: () => act("skip"),
  u: undo, g: () => setView(state.view === "one" ? "grid" : "one"), "?": () => $("keys").showModal(),
  n: () => { const next = nextOpen(state.at); if (next >= 0) move(next - state.at); },
  ArrowLeft: () => move(-1), ArrowRight: () => move(1), Home: () => move(-state.at),
  End: () => move(state.order.length), "*": () => state.view === "grid" && chooseAll(),
  "[": () => state.view === "grid" && turnPage(-1), "]": () => state.view === "grid" && turnPage(1),
};

const act = (name) => (state.view === "one" ? actOnOne(name) : actOnGrid(name));
const move = (by) => (state.view === "one" ? go(state.at + by) : stepInGrid(by));

function onKey(event) {
  if (document.querySelector("dialog[open]")) return;
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return undo();
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const tile = event.target.closest(".tile");
  let does = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (tile) {
    const step = { ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    if (step) does = () => state.order[state.at + step] !== undefined && stepInGrid(step);
  }
  const pressed = event.key === " " && event.target.closest("button");
  if (state.view === "grid" && (event.key === " " || event.key === "x") && !pressed) {
    does = () => current() !== undefined && choose(current());
  }
  if (!does || (event.repeat && !event.key.startsWith("Arrow"))) return;
  event.preventDefault();
  does();
}

async function start() {
  const inside = $("data");
  store = inside ? new StaticStore(JSON.parse(inside.textContent)) : new ServerStore();
  if (!inside) history.replaceState(null, "", location.pathname); // the token leaves the address
  const data = await store.load();
  state.data = data;
  state.stacks = new Array(data.id.length);
  for (const change of data.changes) {
    if (!change.decision) continue;
    setStack(change.n, [change]);
    state.history.push([change.n]);
  }
  $("run").replaceChildren(foreign(data.run));
  $("warnings").replaceChildren(...data.warnings.map((text) => make("li", {}, text)));
  $("warnings").hidden = !data.warnings.length;
  fillPairs();
  if (data.likely) {
    const words = `probably wrong (${data.likely})`;
    $("show").prepend(make("option", { value: "likely", selected: true }, words));
    $("show").value = "likely";
  }
  startList();
  startPicker();
  $("pair").addEventListener("change", () => applyFilters());
  $("show").addEventListener("change", () => applyFilters());
  $("view-one").addEventListener("click", () => setView("one"));
  $("view-grid").addEventListener("click", () => setView("grid"));
  $("undo").addEventListener("click", undo);
  $("help").addEventListener("click", () => $("keys").showModal());
  document.addEventListener("keydown", onKey);
  applyFilters();
  if (statusOf(current() ?? 0) !== "open") {
    const next = nextOpen(state.at);
    if (next >= 0) go(next);
  }
  store.tell();
  store.flush?.();
  document.body.dataset.ready = "";
}

start().catch((error) => showProblem("The page could not be loaded: " + error.message));
