// Where decisions go and where suspects come from: the server, or the file itself.

const LARGE = 640, SMALL = 192;

function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const remember = (name, value) => {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, JSON.stringify(value));
  } catch { /* the browser keeps nothing: then only the server does */ }
};
const remembered = (name) => {
  try { return JSON.parse(localStorage.getItem(name)); } catch { return null; }
};

class Store {
  constructor() {
    this.session = newSession();
    this.sequence = 0;
    this.known = new Map(); // number -> details
  }

  item(n, decision, label) {
    const item = { n, decision, sequence: ++this.sequence, session: this.session };
    if (decision === "other") item.label = label;
    return item;
  }
}

/** The server keeps everything; what it has not got yet waits in the browser's own storage. */
class ServerStore extends Store {
  waiting = [];
  cursor = 0;
  busy = false;
  pause = 0;

  async load() {
    const answer = await fetch("/api/start");
    if (!answer.ok) throw new Error(await answer.text());
    const data = await answer.json();
    this.name = data.name; // of the list: numbers of suspects mean nothing in another one
    this.prefix = `tether-review|${data.corrections}|${data.name}|`;
    this.restore();
    this.cursor = data.cursor;
    setInterval(() => this.poll(), 3000);
    addEventListener("beforeunload", (event) => this.waiting.length && event.preventDefault());
    return data;
  }

  /** What tabs that are gone could not send. Sent twice, it counts once. */
  restore() {
    try {
      for (const name of Object.keys(localStorage).filter((n) => n.startsWith(this.prefix))) {
        this.waiting.push(...(remembered(name) ?? []));
      }
    } catch { /* no storage */ }
  }

  send(items) {
    this.waiting.push(...items);
    this.keep();
    this.flush();
  }

  keep(session = this.session) {
    const left = this.waiting.filter((item) => item.session === session);
    remember(this.prefix + session, left.length ? left : null);
  }

  async flush() {
    if (this.busy || !this.waiting.length) return this.tell();
    this.busy = true;
    this.tell();
    const items = this.waiting.slice(0, 100);
    try {
      const answer = await fetch("/api/decide", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ items, cursor: this.cursor, name: this.name }),
      });
      if (answer.ok) await this.taken(items, await answer.json());
      else if (answer.status === 409) this.outdated(items, await reason(answer));
      else if (answer.status === 400) await this.refused(items, (await answer.json()).error);
      else this.failed(answer.status === 403 ? "open the printed address anew" : await reason(answer));
    } catch {
      this.failed("the server does not answer");
    }
    this.busy = false;
    this.tell();
    if (this.waiting.length) setTimeout(() => this.flush(), this.pause);
  }

  async taken(items, told) {
    this.forget(items);
    this.pause = 0;
    this.problem = "";
    this.learn(told);
  }

  /** A request that will never do: show what holds instead of what was wished. */
  async refused(items, error) {
    this.forget(items);
    showProblem("not saved: " + error);
    this.learn(await (await fetch("/api/changes?since=-1")).json());
  }

  outdated(items, error) {
    this.forget(items);
    showProblem("not saved: " + error);
  }

  forget(items) {
    this.waiting = this.waiting.slice(items.length);
    for (const session of new Set(items.map((item) => item.session))) this.keep(session);
  }

  failed(problem) {
    this.problem = problem;
    this.pause = Math.min(3000, this.pause * 2 || 250);
  }

  learn(told) {
    this.cursor = told.cursor;
    learn(told, new Set(this.waiting.map((item) => item.n)));
  }

  async poll() {
    if (document.hidden || this.busy || this.waiting.length) return;
    try {
      const answer = await fetch("/api/changes?since=" + this.cursor);
      if (!answer.ok) return;
      const told = await answer.json();
      if (!this.busy && told.cursor >= this.cursor) this.learn(told);
    } catch { /* it will be told when something is to be saved */ }
  }

  tell() {
    const number = this.waiting.length;
    const words = number ? (this.problem ? `${number} not saved: ${this.problem}` : "saving") : "saved";
    $("saved").textContent = words;
    $("saved").className = "saved" + (number && this.problem ? " bad" : "");
  }

  picture(sample, size) {
    return `/picture/${size}/${sample}`;
  }

  async pictureProblem(sample) {
    const answer = await fetch(this.picture(sample, SMALL));
    return answer.ok ? "" : answer.text();
  }

  /** Details of some suspects; those that are not known yet come in one request. */
  async details(numbers) {
    const missing = numbers.filter((n) => !this.known.has(n));
    if (missing.length) {
      const answer = await fetch("/api/suspects?n=" + missing.slice(0, 100).join(","));
      if (!answer.ok) throw new Error(await answer.text());
      for (const each of await answer.json()) this.known.set(each.n, each);
    }
    return numbers.map((n) => this.known.get(n));
  }
}

const reason = async (answer) => {
  try { return (await answer.json()).error; } catch { return "error " + answer.status; }
};

/** A single file: decisions stay in the browser until they are downloaded. */
class StaticStore extends Store {
  constructor(data) {
    super();
    this.data = data;
    this.name = "tether-review|" + data.name;
    for (const each of data.details) this.known.set(each.n, each);
  }

  async load() {
    this.entries = remembered(this.name) ?? [];
    $("download").hidden = false;
    $("download").addEventListener("click", () => this.download());
    this.told = this.entries.length;
    addEventListener("beforeunload", (event) => {
      if (this.entries.length > this.told) event.preventDefault();
    });
    return { ...this.data, changes: this.fold(), cursor: 0 };
  }

  fold() {
    const stacks = new Map();
    for (const entry of this.entries) {
      const stack = stacks.get(entry.n) ?? [];
      stacks.delete(entry.n);
      if (entry.decision === "undo") stack.pop();
      else stack.push({ ...entry, key: entry.session + ":" + entry.sequence });
      if (stack.length) stacks.set(entry.n, stack);
    }
    return [...stacks.values()].map((stack) => stack[stack.length - 1]);
  }

  send(items) {
    const time = new Date().toISOString().replace(/\.\d+Z$/, "Z");
    for (const item of items) {
      const { decision } = item;
      const label = decision === "undo" ? "" : decisionOf(item.n).label;
      this.entries.push({ ...item, time, label });
    }
    remember(this.name, this.entries);
    this.tell();
  }

  tell() {
    const number = this.entries.length - this.told;
    $("saved").textContent = number > 0 ? "not downloaded yet" : "";
    $("saved").className = "saved" + (number > 0 ? " bad" : "");
  }

  download() {
    const data = this.data;
    const rows = this.entries.map((entry) => [
      entry.time, data.id[entry.n], this.known.get(entry.n).split, data.labels[data.given[entry.n]],
      entry.decision, entry.label, entry.sequence, entry.session,
    ]);
    const cell = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
    const lines = [data.columns, ...rows].map((row) => row.map(cell).join(",") + "\n");
    const address = URL.createObjectURL(new Blob(lines, { type: "text/csv" }));
    make("a", { href: address, download: "corrections.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    this.told = this.entries.length;
    this.tell();
  }

  picture(sample) {
    return this.data.pictures[sample] ?? "data:,";
  }

  async pictureProblem(sample) {
    return this.data.problems[sample] ?? "";
  }

  async details(numbers) {
    return numbers.map((n) => this.known.get(n));
  }
}
