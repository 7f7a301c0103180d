// The dialog for another label: one, or several where the data have several.

const picker = { marked: 0, shown: [], chosen: new Set(), done: null };
const MOST_SHOWN = 60;

const severalLabels = () => state.data.task === "multi_label";
const classNames = () => state.data.labels.slice(0, state.data.classes);

/** Ask for a label; `done` gets it. */
function pick(n, done) {
  picker.done = done;
  picker.chosen = new Set();
  if (severalLabels()) {
    const label = decisionOf(n)?.label || state.data.labels[state.data.given[n]];
    const parts = label.split(state.data.separator).map((part) => part.trim());
    picker.chosen = new Set(parts.filter((part) => part));
  }
  $("picker-done").hidden = !severalLabels();
  $("picker-text").value = "";
  $("picker").showModal();
  drawPicker();
  $("picker-text").focus();
}

function drawPicker() {
  const wanted = $("picker-text").value.trim().toLowerCase();
  const names = classNames().filter((name) => name.toLowerCase().includes(wanted));
  names.sort((a, b) => rank(a, wanted) - rank(b, wanted));
  picker.shown = names.slice(0, MOST_SHOWN);
  picker.marked = Math.min(picker.marked, Math.max(picker.shown.length - 1, 0));
  $("picker-list").replaceChildren(...picker.shown.map((name, place) =>
    make("div", {
      role: "option", id: "option-" + place, "data-place": place,
      "aria-selected": String(severalLabels() ? picker.chosen.has(name) : place === picker.marked),
      class: place === picker.marked ? "marked" : null,
      onclick: () => { picker.marked = place; take(name); },
    },
    severalLabels() ? make("span", { class: "tick" }, picker.chosen.has(name) ? "☑ " : "☐ ") : null,
    foreign(name))));
  $("picker-text").setAttribute("aria-activedescendant", "option-" + picker.marked);
  const more = names.length - picker.shown.length;
  $("picker-note").textContent = !names.length ? "no label holds these signs"
    : more > 0 ? `${more} more; type to narrow down`
    : severalLabels() ? "Enter: in or out; Ctrl+Enter: done" : "";
  $("picker-list").children[picker.marked]?.scrollIntoView({ block: "nearest" });
}

/** Whole name first, then beginnings. */
const rank = (name, wanted) =>
  name.toLowerCase() === wanted ? 0 : name.toLowerCase().startsWith(wanted) ? 1 : 2;

function take(name) {
  if (!severalLabels()) return finishPicker(name);
  if (!picker.chosen.delete(name)) picker.chosen.add(name);
  drawPicker();
}

function finishPicker(label) {
  $("picker").close();
  picker.done(label);
}

const chosenLabel = () =>
  classNames().filter((name) => picker.chosen.has(name)).join(state.data.separator);

function startPicker() {
  $("picker-text").addEventListener("input", () => { picker.marked = 0; drawPicker(); });
  $("picker-done").addEventListener("click", () => finishPicker(chosenLabel()));
  $("picker-cancel").addEventListener("click", () => $("picker").close());
  $("picker").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      picker.marked = Math.min(Math.max(picker.marked + step, 0), picker.shown.length - 1);
      drawPicker();
      event.preventDefault();
    } else if (event.key === "Enter" && event.target === $("picker-text")) {
      event.preventDefault();
      if (severalLabels() && event.ctrlKey) finishPicker(chosenLabel());
      else if (picker.shown.length) take(picker.shown[picker.marked]);
    }
    event.stopPropagation();
  });
}
