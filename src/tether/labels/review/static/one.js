// One suspect with its neighbours, and what can be decided about it.

const ACTIONS = [
  ["accept", "A", "Accept"], ["keep", "K", "Keep"], ["other", "O", "Other…"], ["skip", "S", "Skip"],
];

/** A row of buttons; those of a single suspect name its labels. */
function actionBar(act, n) {
  const named = { accept: n !== undefined && labelOf(state.data.suggested[n]),
    keep: n !== undefined && labelOf(state.data.given[n]) };
  return make("div", { class: "actions", role: "group", "aria-label": "Decision" },
    ...ACTIONS.map(([name, letter, words]) => make("button", {
      type: "button", "data-act": name, class: name, onclick: () => act(name),
      "aria-pressed": n !== undefined ? String(decisionOf(n)?.decision === name) : null,
    }, key(letter), make("span", {}, words, named[name] ? " " : null,
      named[name] ? foreign(named[name]) : null))));
}

/** Decide about the suspect in sight and go on to the next that is undecided. */
function actOnOne(name) {
  const n = current();
  if (n === undefined || n !== drawn) return; // nobody decides about what is not in sight yet
  if (name === "other") pick(n, (label) => finishOne(n, "other", label));
  else finishOne(n, name);
}

function finishOne(n, decision, label) {
  decide([n], decision, label);
  const next = nextOpen(state.at);
  if (next >= 0) go(next);
  else refresh(true);
}

let drawn = -1; // which suspect is on the screen
let turn = 0;

async function drawOne(anew) {
  const n = current();
  if (n === undefined) {
    drawn = -1;
    delete $("one").dataset.n;
    const words = "No suspect is left by these filters.";
    $("one").replaceChildren(make("p", { class: "empty" }, words));
    return;
  }
  if (n !== drawn || anew) {
    const mine = ++turn;
    let suspect = store.known.get(n);
    try {
      suspect ??= (await store.details(around(state.at)))[0];
    } catch {
      if (mine === turn) $("one").replaceChildren(make("p", { class: "empty" }, "The server does not answer."));
      return;
    }
    if (mine !== turn) return;
    drawn = n;
    showOne(n, suspect);
    $("one").dataset.n = n;
    ahead();
  } else {
    $("one").querySelector(".decision").replaceWith(decisionNode(n));
    $("one").querySelector(".actions").replaceWith(actionBar(actOnOne, n));
  }
}

/** The suspect at a place, and those that are likely to be wanted next. */
function around(place) {
  const numbers = [state.order[place]];
  for (let step = 1; step <= 30; step++) {
    const n = state.order[place + step];
    if (n !== undefined) numbers.push(n);
  }
  return numbers;
}

/** Fetch the details and the pictures of the next few. */
async function ahead() {
  try {
    const next = (await store.details(around(state.at))).slice(1, 4);
    if (state.data.kind === "image" && store instanceof ServerStore) {
      for (const suspect of next) if (suspect) new Image().src = store.picture(suspect.sample, LARGE);
    }
  } catch { /* it is tried again when they are shown */ }
}

function showOne(n, suspect) {
  const data = state.data;
  const facts = [
    ["split", suspect.split], ["score", data.score[n]?.toPrecision(3)],
    ["confidence", percent(data.confidence[n])], ["same content", suspect.duplicates.join(", ")],
  ].filter(([, value]) => value);
  $("one").replaceChildren(
    make("div", { class: "steps" },
      make("button", { type: "button", id: "before", onclick: () => go(state.at - 1), "aria-label": "Suspect before" }, "←"),
      make("span", {}, `${state.at + 1} of ${state.order.length}`),
      make("button", { type: "button", id: "after", onclick: () => go(state.at + 1), "aria-label": "Suspect after" }, "→"),
      decisionNode(n)),
    make("div", { class: "focus" },
      sampleNode(suspect, LARGE),
      make("div", { class: "about" },
        make("dl", { class: "labels" },
          make("div", {}, make("dt", {}, "given"), make("dd", {}, foreign(labelOf(data.given[n]), { class: "given" }))),
          make("div", {}, make("dt", {}, "suggested"), make("dd", {}, foreign(labelOf(data.suggested[n]), { class: "suggested" })))),
        actionBar(actOnOne, n),
        suspect.reasons.length ? make("ul", { class: "reasons" }, ...suspect.reasons.map((r) => make("li", {}, foreign(r)))) : null,
        make("dl", { class: "facts" }, ...facts.map(([name, value]) =>
          make("div", {}, make("dt", {}, name), make("dd", {}, foreign(value))))),
        nameNode(suspect.id))),
    neighboursNode("Most similar with the given label", labelOf(data.given[n]), suspect.neighbours.given),
    neighboursNode("Most similar with the suggested label", labelOf(data.suggested[n]), suspect.neighbours.suggested));
}

function decisionNode(n) {
  return make("span", { class: "decision " + statusOf(n) }, markOf(n) + " ", foreign(wordsOf(n)));
}

function neighboursNode(title, label, samples) {
  if (!samples.length) return null;
  return make("section", { class: "neighbours" },
    make("h2", {}, title + ", ", foreign(label)),
    make("ul", {}, ...samples.map((sample) =>
      make("li", {}, sampleNode(sample, SMALL), nameNode(sample.id)))));
}
