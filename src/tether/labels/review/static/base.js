// What all parts share: elements, the state of the page, and changes to it.

const $ = (id) => document.getElementById(id);

/** An element. Children that are texts stay texts, whatever they hold. */
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A text of unknown direction that does not turn its neighbours around. */
const foreign = (text, properties = {}) => make("bdi", { dir: "auto", ...properties }, text);

/** A name of a file; signs that cannot be seen, or that turn a line around, are spelt out. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
const spelt = (sign) => "⟨U+" + sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩";
const nameNode = (name) => foreign(name.replace(UNSEEN, spelt), { class: "name" });
const key = (name) => make("kbd", {}, name);

const state = {
  data: null, // what the server told at the start
  order: [], // numbers of the suspects that the filters let through
  place: [], // number -> place in the order, or -1
  at: 0, // place in the order
  view: "one",
  stacks: [], // number -> decisions about it, the one that holds last
  history: [], // groups of numbers that were decided together, for undoing
  counts: { done: 0, skip: 0 },
};

const labelOf = (index) => state.data.labels[index] || "(no label)";
const current = () => state.order[state.at];

/** The decision that holds, or undefined. */
function decisionOf(n) {
  const stack = state.stacks[n];
  return stack && stack[stack.length - 1];
}

function statusOf(n) {
  const decision = decisionOf(n);
  return !decision ? "open" : decision.decision === "skip" ? "skip" : "decided";
}

/** Replace what is known about one suspect, and keep the counts right. */
function setStack(n, stack) {
  count(n, -1);
  state.stacks[n] = stack.length ? stack : undefined;
  count(n, 1);
}

function count(n, by) {
  const status = statusOf(n);
  if (status === "decided") state.counts.done += by;
  if (status === "skip") state.counts.skip += by;
}

/** What was decided, in words. */
function wordsOf(n) {
  const decision = decisionOf(n);
  if (!decision) return "undecided";
  if (decision.decision === "skip") return "skipped";
  if (decision.decision === "keep") return "kept";
  return "now " + (decision.label || "(no label)");
}

const MARKS = { open: "○", skip: "–", accept: "✓", keep: "=", other: "✎" };
const markOf = (n) => MARKS[decisionOf(n)?.decision ?? "open"];

/** Decide about some suspects at once. */
function decide(numbers, decision, label) {
  if (!numbers.length) return;
  const group = numbers.map((n) => store.item(n, decision, label));
  for (const item of group) {
    const told =
      decision === "accept" ? state.data.labels[state.data.suggested[item.n]]
      : decision === "keep" ? state.data.labels[state.data.given[item.n]]
      : label ?? "";
    const made = { decision, label: told, key: item.session + ":" + item.sequence };
    setStack(item.n, [...(state.stacks[item.n] ?? []), made]);
  }
  state.history.push(numbers);
  store.send(group);
  const what = numbers.length > 1 ? numbers.length + " suspects: " : "";
  say(what + wordsOf(numbers[0]));
  refresh();
}

/** Take back the decision, or the batch, that was made last. */
function undo() {
  const group = state.history.pop();
  if (!group) return say("nothing to undo");
  const items = [];
  for (const n of group) {
    const decision = decisionOf(n);
    if (!decision) continue;
    items.push({ ...store.item(n, "undo"), of: decision.key });
    setStack(n, state.stacks[n].slice(0, -1));
  }
  store.send(items);
  const place = state.place[group[0]];
  if (place >= 0) state.at = place;
  say("undone: " + state.data.id[group[0]]);
  refresh(true);
}

function say(text) {
  $("said").textContent = text;
}

/** Filters: recomputed when they change, not when a decision is made, so that nothing jumps. */
function applyFilters() {
  const [given, suggested] = $("pair").value.split(">").map(Number);
  const status = $("show").value;
  const data = state.data;
  const before = current();
  state.order = [];
  state.place = new Array(data.id.length).fill(-1);
  for (let n = 0; n < data.id.length; n++) {
    if ($("pair").value && !(data.given[n] === given && data.suggested[n] === suggested)) continue;
    if (status === "likely" && n >= data.likely) break;
    if (!["all", "likely"].includes(status) && statusOf(n) !== status) continue;
    state.place[n] = state.order.length;
    state.order.push(n);
  }
  state.at = Math.max(0, state.place[before] ?? 0);
  refresh(true);
}

/** Go to a place in the order. */
function go(place) {
  state.at = Math.min(Math.max(place, 0), Math.max(state.order.length - 1, 0));
  refresh(true);
}

/** The first undecided suspect after a place, or before it where none is left after. */
function nextOpen(from) {
  const length = state.order.length;
  for (let step = 1; step <= length; step++) {
    const place = (from + step) % length;
    if (statusOf(state.order[place]) === "open") return place;
  }
  return -1;
}
