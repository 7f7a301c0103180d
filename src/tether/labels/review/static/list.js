// The list at the side: only rows that can be seen exist.

const ROW = 52;
const list = { rows: new Map(), inner: null };

function startList() {
  list.inner = make("ol", { class: "rows" });
  $("list").append(list.inner);
  let asked = false;
  const later = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; drawList(); });
  };
  $("list").addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
}

/** Draw the rows in sight anew. */
function drawList(move = false) {
  const box = $("list");
  const total = state.order.length;
  list.inner.style.height = total * ROW + "px";
  if (!box.clientHeight) return; // hidden on a narrow screen
  if (move) {
    const top = state.at * ROW;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW > box.scrollTop + box.clientHeight) {
      box.scrollTop = top + ROW - box.clientHeight;
    }
  }
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 4);
  const last = Math.min(total, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 4);
  const rows = [];
  for (let place = first; place < last; place++) rows.push(rowNode(place, total));
  const active = document.activeElement?.closest?.("#list button")?.dataset.place;
  list.inner.replaceChildren(...rows);
  if (active !== undefined) {
    const again = list.inner.querySelector(`button[data-place="${active}"]`);
    (again ?? box).focus({ preventScroll: true });
  }
}

function rowNode(place, total) {
  const n = state.order[place];
  const button = make("button", {
    type: "button", "data-place": place, "aria-current": place === state.at ? "true" : null,
    onclick: () => { state.view = "one"; go(place); },
  },
  make("span", { class: "mark " + statusOf(n), title: wordsOf(n), "aria-label": wordsOf(n), role: "img" },
    markOf(n)),
  make("span", { class: "words" }, pairNode(n), nameNode(state.data.id[n])));
  const row = make("li", { "aria-setsize": total, "aria-posinset": place + 1 }, button);
  row.style.top = place * ROW + "px";
  return row;
}
