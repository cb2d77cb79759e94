/* The legend: a count of each kind of token, and a filter. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { KINDS, h, roundAt, setText } = Playground;

  /** What the colours and forms mean, with live counts; a press isolates one kind. */
  class Legend {
    static tour = {
      title: "What the colours say",
      words:
        "Every token says where it came from, by colour and by form. Press one here to see that kind alone; point at a token for its probabilities in both models and the coin that was flipped.",
      act: (store) => store.seek(Infinity),
    };

    constructor(store, panes) {
      this.store = store;
      this.panes = panes;
      this.counts = new Map();
      this.buttons = new Map();
      const entries = KINDS.map((kind) => {
        const count = h("b", { "data-count": kind }, "0");
        const button = h(
          "button",
          {
            type: "button",
            class: "legend-entry",
            "aria-pressed": "false",
            "data-term": kind,
            "data-kind": kind,
            onclick: () => this.store.isolate(kind),
          },
          h("span", { class: `swatch tok k-${kind}` }, kind),
          count,
        );
        this.counts.set(kind, count);
        this.buttons.set(kind, button);
        return button;
      });
      this.refused = h("input", { type: "checkbox", onchange: () => this.#showRefused() });
      this.plain = h("input", { type: "checkbox", onchange: () => this.#showPlain() });
      this.element = h(
        "section",
        { class: "legend", "aria-label": "Legend" },
        ...entries,
        h(
          "label",
          { class: "legend-refused", title: "Show refused drafts struck through in their places" },
          this.refused,
          "show refused",
        ),
        h(
          "label",
          { class: "legend-refused legend-plain", title: "The answers as plain text, without colours" },
          this.plain,
          "plain text",
        ),
      );
      this.store.on("isolate", () => this.#isolate());
    }

    #showRefused() {
      for (const pane of this.panes) pane.element.classList.toggle("show-refused", this.refused.checked);
    }

    #showPlain() {
      for (const pane of this.panes) pane.element.classList.toggle("plain", this.plain.checked);
    }

    #isolate() {
      const kind = this.store.isolated;
      for (const [name, button] of this.buttons) button.setAttribute("aria-pressed", String(name === kind));
      if ((kind === "rejected" || kind === "discarded") && !this.refused.checked) {
        this.refused.checked = true;
        this.#showRefused();
      }
      for (const pane of this.panes) {
        if (kind) pane.element.dataset.isolated = kind;
        else delete pane.element.dataset.isolated;
      }
    }

    /** Counts of the speculative arm; of the target's where it ran alone. */
    update() {
      const arm = this.store.run.running.at(-1);
      const counts = roundAt(this.store.run.arms[arm], this.store.time)?.figures.counts ?? {};
      for (const [kind, element] of this.counts) setText(element, String(counts[kind] ?? 0));
    }
  }

  Object.assign(Playground, { Legend });
})();
