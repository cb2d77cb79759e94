/* What to try first: a card for each thing there is to see, with what to watch. A press sets the knobs and runs. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { h } = Playground;

  const LEAD = "A small model guesses ahead; the big one checks all guesses in one go.";
  const PROMISE = "Same answer, fewer passes.";

  /** cards: {kind, title, watch, settings} each. */
  const intro = (cards, choose) => {
    const card = ({ kind, title, watch, settings }, place) =>
      h(
        "button",
        {
          type: "button",
          class: "try",
          "data-card": String(place + 1),
          onclick: () => choose(settings, true),
        },
        h("span", { class: "try-kind" }, kind),
        h("b", {}, title),
        h("span", { class: "try-watch" }, watch),
      );
    return h(
      "section",
      { class: "intro", "aria-label": "Examples" },
      h("p", { class: "intro-lead" }, LEAD, " ", h("b", {}, PROMISE)),
      cards.length
        ? h("p", { class: "intro-how" }, "Press Run for the prompt above, or start with one of these:")
        : null,
      h("div", { class: "tries" }, ...cards.map(card)),
    );
  };

  Object.assign(Playground, { LEAD, PROMISE, intro });
})();
