// Samples as a person sees them: a picture, or a text.

/** The input of a sample. A picture that does not open becomes a placeholder that says so. */
function sampleNode(sample, size, { link = false } = {}) {
  const box = make("div", { class: "sample" });
  if (state.data.kind === "text") {
    box.classList.add("text");
    for (const part of sample.text) box.append(make("p", { dir: "auto" }, part));
    return box;
  }
  const image = make("img", { alt: "image " + sample.id, decoding: "async" });
  image.addEventListener("load", () => {
    if (Math.max(image.naturalWidth, image.naturalHeight) <= 64) image.classList.add("pixels");
  });
  image.addEventListener("error", async () => {
    let why = "";
    try { why = await store.pictureProblem(sample.sample); } catch { /* the server is gone */ }
    const words = "this image cannot be shown" + (why ? ": " + why : "");
    image.replaceWith(make("div", { class: "broken", role: "img", "aria-label": words }, words));
  });
  image.src = store.picture(sample.sample, size);
  box.append(image);
  return box;
}

const percent = (value) => (value === null ? "" : (100 * value).toFixed(value > 0.995 ? 1 : 0) + " %");

/** "given → suggested", each of its own direction. */
function pairNode(n) {
  return make("span", { class: "pair" },
    foreign(labelOf(state.data.given[n]), { class: "given" }), " → ",
    foreign(labelOf(state.data.suggested[n]), { class: "suggested" }));
}
