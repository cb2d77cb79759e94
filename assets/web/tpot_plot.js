/* Time per output token over tokens. The figure's look comes from app/ui/plots.py; here it only gets its points. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { dressed, h, plotly, roundAt, term } = Playground;

  const LATER_MS = 1000; // once a run's end has been drawn
  const READ_MS = 2500; // before that, nobody who reads the page presses Run
  const PAUSE_MS = 300;
  const LONGEST_MS = 1000;
  const SHARE = 20; // of a run's time, what part the plot may take: browser and models may share their cores

  class Plot {
    constructor(store, figure, url) {
      this.store = store;
      this.figure = figure;
      this.area = h("div", { class: "plot-area", role: "img", "aria-label": "Time per output token of both arms" });
      this.published = h("input", { type: "checkbox", onchange: () => this.update(true) });
      const published = h(
        "label",
        { class: "plot-published", title: "Median latencies that AWS published for Llama pairs on Trainium" },
        this.published,
        "Trainium's medians",
      );
      this.element = h(
        "section",
        { class: "plot", "aria-label": "Time per output token" },
        h("header", {}, h("h2", {}, term("ms per token", "TPOT"), " as the text grows"), published),
        this.area,
      );
      this.element.hidden = !figure;
      this.due = 0;
      this.url = url;
      if (figure) this.#watch();
    }

    /** Plotly is large, and a run that is live would pay for it: it is fetched while the page is first
     * read, or its plot is in view and no run live, and it is drawn to only while in view. */
    #watch() {
      setTimeout(() => this.store.live || this.#begin(), READ_MS);
      new IntersectionObserver((entries) => {
        this.seen = entries.at(-1).isIntersecting;
        if (this.seen && !this.store.live) this.#begin().then(() => this.update(true));
      }, { rootMargin: "80px" }).observe(this.element);
      window.addEventListener("beforeprint", () => {
        this.seen = true;
        this.update(true);
      });
    }

    /** There is something to draw: paper shows all of the page, so the plot is made wherever it lies. */
    prepare() {
      if (this.figure) setTimeout(() => this.#begin(), LATER_MS);
    }

    /** Resolves once there is a plot to draw to. */
    #begin() {
      this.begun ??= plotly(this.url).then(() => {
        if (!window.Plotly) {
          this.element.hidden = true;
          return null;
        }
        new ResizeObserver(() => this.area.clientWidth && window.Plotly.Plots.resize(this.area)).observe(this.area);
        let dark = document.body.classList.contains("dark");
        new MutationObserver(() => {
          if (dark === document.body.classList.contains("dark")) return;
          dark = !dark;
          this.#dress();
        }).observe(document.body, { attributeFilter: ["class"] });
        return this.#dress();
      });
      return this.begun;
    }

    /** Colours of the page as it is now, light or dark. */
    #dress() {
      const [data, layout, config] = dressed(this.figure, this.element);
      layout.uirevision = "live";
      Object.assign(layout, { showlegend: false, margin: { l: 40, r: 8, t: 6, b: 30 } });
      layout.font.size = 11;
      layout.xaxis.title = { text: "tokens", standoff: 2, font: { size: 11 } };
      layout.yaxis.title = undefined;
      this.data = data;
      this.layout = layout;
      return window.Plotly.newPlot(this.area, data, layout, config).then(() => this.update(true));
    }

    update(now = false) {
      if (!this.data || !this.seen) return;
      const moment = performance.now();
      if (!now && moment < this.due) return;
      this.due = moment + PAUSE_MS;
      for (const trace of this.data) {
        const { arm, series } = trace.meta ?? {};
        if (!arm) continue;
        const last = roundAt(this.store.run.arms[arm], this.store.time);
        const rounds = this.store.run.arms[arm].rounds.slice(1, last ? last.index + 1 : 0).filter((round) =>
          round.tokens.length
        );
        trace.x = rounds.map((round) => round.figures.tokens);
        trace.y = rounds.map((round) =>
          1000 * (series === "mean" ? round.figures.tpot_s : (round.clock - round.since) / round.tokens.length)
        );
      }
      const longest = Math.max(2, ...this.data.filter((trace) => trace.meta?.arm).map((trace) => trace.x.at(-1) ?? 0));
      for (const trace of this.data) {
        if (!trace.meta?.published) continue;
        trace.x = [1, longest];
        trace.visible = this.published.checked;
      }
      // Single slow rounds would flatten the curves: the axis follows the running means and what else is switched on.
      const shown = this.data.filter((trace) => trace.meta?.series === "mean" || trace.visible === true);
      const known = shown.flatMap((trace) => trace.y);
      const top = known.length ? 1.4 * Math.max(...known) : 30;
      const xaxis = { ...this.layout.xaxis, range: [0, longest * 1.02] };
      const yaxis = { ...this.layout.yaxis, range: [0, top] };
      window.Plotly.react(this.area, this.data, {
        ...this.layout,
        datarevision: moment,
        annotations: this.#names(shown),
        xaxis,
        yaxis,
      });
      const drawn = performance.now();
      if (this.store.live) this.due = drawn + Math.min(LONGEST_MS, Math.max(PAUSE_MS, SHARE * (drawn - moment)));
    }

    /** Each line's name at its end: a legend would take the room of the plot. */
    #names(shown) {
      return shown.filter((trace) => trace.y.length).map((trace) => ({
        x: trace.x.at(-1),
        y: trace.y.at(-1),
        text: trace.meta.published
          ? `${trace.name.split(" alone")[0]} ${trace.y[0]}`
          : `${trace.meta.arm === "target" ? "target only" : "speculative"} ${trace.y.at(-1).toFixed(1)}`,
        xanchor: "right",
        yanchor: trace.meta.arm === "speculative" ? "top" : "bottom",
        showarrow: false,
        font: { size: 12, color: trace.line.color },
      }));
    }

    async save() {
      await this.#begin();
      this.seen = true;
      this.update(true);
      window.Plotly.downloadImage(this.area, { format: "png", scale: 2, width: 1100, height: 420, filename: "tpot" });
    }
  }

  Object.assign(Playground, { Plot });
})();
