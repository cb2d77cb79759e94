/* The Instruments tab: what the shown run says, the runs of this browser, and several side by side. Figures come from Python. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { RunHistory, adjust, choose, download, dressed, format, h, plotly, sent, settingsOf, takeAway, toolButton } =
    Playground;

  const NAMES = {
    speedup: "speedup",
    target_tpot_s: "TPOT, target alone",
    tpot_s: "TPOT",
    mean_acceptance_length: "mean acceptance length",
    acceptance_rate: "acceptance rate",
    draft_acceptance_rate: "draft acceptance rate",
    ttft_s: "TTFT",
    passes: "passes",
    tokens: "tokens",
    total_variation: "total variation",
    agreed: "tokens the arms agree on",
  };
  const shown = (value, unit) =>
    value === null
      ? "–"
      : unit === "s"
      ? format.span(value)
      : `${Number.isInteger(value) ? value : value.toFixed(3)}${unit}`;

  const picture = ({ title, note, figure }, url) => {
    const area = h("div", { class: "plot-area", role: "img", "aria-label": `${title}. ${note}` });
    const element = h(
      "section",
      { class: "plot", "aria-label": title },
      h("h2", {}, title),
      area,
      h("p", { class: "plot-note" }, note),
      ...takeAway(area, () => ({ title, figure })),
    );
    plotly(url).then(() => area.isConnected && window.Plotly?.react(area, ...dressed(figure, area)));
    return element;
  };

  const table = (label, heads, rows) =>
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
        h(
          "tbody",
          {},
          ...rows.map(([name, ...cells]) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, name),
              ...cells.map((cell) => h("td", {}, cell)),
            )
          ),
        ),
      ),
    );

  const named = ({ settings }) =>
    `${settings.prompt.slice(0, 60)}${
      settings.turns === "1" ? "" : ` · turn ${settings.turns}`
    } · k ${settings.k} · ${settings.acceptor} · T ${settings.temperature} · ${settings.drafter}`;

  /** Set the knobs, and show them. */
  const use = (settings, set = choose) => {
    set(settings);
    document.querySelector("#tabs [role=tab]")?.click();
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-use]");
    if (button) use(JSON.parse(button.dataset.use), adjust); // the prompt stays
  });

  /** What a run is known by, opened once or again: when it began, and how long it took. */
  const entryOf = (run) => `${run.started.created} ${run.duration}`;

  class Instruments {
    /** It listens from the beginning, and is drawn once its tab is first seen. */
    constructor(store, runs) {
      Object.assign(this, { store, runs, pinned: new Set(), url: null, server: null, judged: null });
      this.advice = h("ul", { class: "instrument-advice" });
      this.pictures = h("div", { class: "tune-figures" });
      this.fault = h("p", { class: "instrument-fault", role: "alert" });
      this.list = h("ol", { class: "instrument-runs", "aria-label": "Runs of this browser" });
      this.comparison = h("div", { class: "instrument-comparison", "aria-live": "polite" });
      const keep = () => download(this.runs.json, "runs.json", "application/json");
      const forget = () => {
        this.runs.clear();
        this.pinned.clear();
        this.#listed();
      };
      this.element = h(
        "div",
        {},
        h("section", {}, h("h2", {}, "What this run says"), this.fault, this.advice, this.pictures),
        h(
          "section",
          {},
          h("h2", {}, "Runs of this browser"),
          h(
            "p",
            { class: "fine" },
            "Kept here only. Pin two or more and read what differs; the first is what others are held against.",
          ),
          toolButton("Export", "Settings, figures and texts as JSON", keep),
          toolButton("Forget all", "Clear this list", forget),
          this.list,
          this.comparison,
        ),
      );
      this.#listed();
      store.on("state", () => this.#judge());
    }

    /** Its tab is seen: server compares, url is Plotly's. */
    mount(server, url) {
      Object.assign(this, { server, url });
      this.#draw();
      this.#compare();
    }

    /** Once for every run that has ended: figures from the server, and its place in the list. */
    async #judge() {
      const { run } = this.store;
      if (this.store.live || !run.finished || this.judgedRun === run) return;
      this.judgedRun = run;
      const answer = await sent(Playground.server.judge, run.jsonl);
      if (this.store.run !== run) return;
      this.fault.textContent = answer.error ?? "";
      if (answer.error) return;
      this.runs.add(entryOf(run), answer.card, settingsOf(run.started.request));
      this.judged = answer;
      this.#draw();
      this.#listed();
    }

    #draw() {
      if (!this.judged || !this.url) return;
      this.advice.replaceChildren(...this.judged.advice.map(({ sentence }) => h("li", {}, sentence)));
      this.pictures.replaceChildren(...this.judged.pictures.map((each) => picture(each, this.url)));
    }

    #listed() {
      this.list.replaceChildren(
        ...this.runs.entries.map(({ id, card, settings }) => {
          const pin = h("input", {
            type: "checkbox",
            checked: this.pinned.has(id),
            onchange: () => {
              if (pin.checked) this.pinned.add(id);
              else this.pinned.delete(id);
              this.#compare();
            },
          });
          const { speedup } = card.figures;
          return h(
            "li",
            {},
            h("label", {}, pin, ` ${named(card)}`),
            h("b", {}, speedup === null ? "" : ` ${speedup.toFixed(2)}×`),
            settings
              && toolButton(
                "run again with …",
                "Set the knobs as they were, to change them and run",
                () => use(settings),
              ),
          );
        }),
      );
      this.#compare();
    }

    async #compare() {
      const cards = [...this.pinned].map((id) => this.runs.entries.find((each) => each.id === id)?.card).filter(
        Boolean,
      );
      const asked = (this.asked = {});
      if (cards.length < 2 || !this.server) return this.comparison.replaceChildren();
      const answer = await this.server.side_by_side(cards).catch(() => ({
        error: "The server does not answer; reload the page.",
      }));
      if (this.asked !== asked) return;
      this.comparison.replaceChildren(
        ...(answer.error ? [h("p", { role: "alert" }, answer.error)] : this.#drawn(cards, answer)),
      );
    }

    #drawn(cards, { settings, figures, partings, pictures }) {
      const heads = cards.map((_, i) => `run ${i + 1}`);
      const change = (value) => (value ? ` (${value > 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}%)` : "");
      const texts = partings.map((parting, i) =>
        h(
          "section",
          { class: "instrument-parting" },
          h(
            "h3",
            {},
            parting.token === null
              ? `Runs 1 and ${i + 2} wrote the same text`
              : `Runs 1 and ${i + 2} part at token ${parting.token + 1}`,
          ),
          h("p", {}, parting.shared, h("ins", {}, parting.first)),
          parting.token === null ? null : h("p", {}, parting.shared, h("mark", {}, parting.other)),
        )
      );
      return [
        settings.length
          ? table("Settings that differ", ["setting", ...heads], settings.map(({ name, values }) => [name, ...values]))
          : h("p", {}, "All settings are the same."),
        table(
          "Figures",
          ["figure", ...heads],
          figures.map((
            { name, unit, values, changes },
          ) => [NAMES[name] ?? name, ...values.map((value, i) => shown(value, unit) + (i ? change(changes[i]) : ""))]),
        ),
        h("div", { class: "tune-figures" }, ...pictures.map((each) => picture(each, this.url))),
        ...texts,
      ];
    }
  }

  const instruments = new Instruments(Playground.store, new RunHistory(window.localStorage));
  Playground.mountInstruments = (element, props, server) => {
    element.replaceChildren(instruments.element);
    instruments.mount(server, props.plotly);
  };
})();
