/* The headline: what both arms measured, in big numbers. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, format, h, promiseOf, roundAt, term } = Playground;

  const ROUNDING = 1e-6; // below it a distance is that of floating point

  /** Big numbers: what the two arms measured up to the moment shown. */
  class Headline {
    constructor(store) {
      this.store = store;
      this.figures = new Map();
      const figure = (name, className = "") => {
        const element = h("b", { class: `figure ${className}`, "data-figure": name }, "–");
        this.figures.set(name, element);
        return element;
      };
      const cell = (title, name, className, ...content) => h("div", { class: `cell ${className}` }, h("h4", {}, term(title, name)), h("p", {}, ...content));
      const pair = (title, name, base, unit, className = "") =>
        cell(title, name, className, figure(`target.${base}`, "arm-target"), h("span", { class: "to", role: "img", "aria-label": "against" }, "→"), figure(`speculative.${base}`, "arm-speculative"), h("span", { class: "unit" }, unit));
      const single = (title, name, base) => cell(title, name, "", figure(`speculative.${base}`, "arm-speculative"));
      this.meter = h("i", { class: "meter", role: "meter", "aria-label": "Distance to the target", "aria-valuemin": "0", "aria-valuemax": "1", "aria-valuenow": "0" });
      this.promise = h("span", { class: "promise", hidden: true });
      this.element = h(
        "section",
        { class: "headline", "aria-label": "Figures" },
        cell("Speedup", "speedup", "hero", figure("speedup")),
        pair("Time per output token", "TPOT", "tpot_s", "ms", "hero tpot"),
        cell("Distance to the target", "total variation", "hero distance", figure("distance"), this.promise, this.meter),
        single("Tokens per pass", "mean acceptance length", "mean_acceptance_length"),
        single("Acceptance rate", "acceptance rate", "acceptance_rate"),
        single("Drafts kept", "draft acceptance rate", "draft_acceptance_rate"),
        pair("First token", "TTFT", "ttft_s", "ms"),
        pair("Tokens a second", "tokens/s", "tokens_per_s", "/s"),
      );
    }

    update() {
      const at = Object.fromEntries(ARMS.map((arm) => [arm, roundAt(this.store.run.arms[arm], this.store.time)?.figures]));
      const set = (name, text) => {
        const element = this.figures.get(name);
        if (element && element.textContent !== text) element.textContent = text;
      };
      for (const arm of ARMS) {
        const figures = at[arm] ?? {};
        set(`${arm}.tpot_s`, format.ms(figures.tpot_s));
        set(`${arm}.ttft_s`, format.ms(figures.ttft_s));
        set(`${arm}.tokens_per_s`, format.number(figures.tokens_per_s, 0));
        set(`${arm}.mean_acceptance_length`, format.number(figures.mean_acceptance_length));
        set(`${arm}.acceptance_rate`, format.percent(figures.acceptance_rate));
        set(`${arm}.draft_acceptance_rate`, format.percent(figures.draft_acceptance_rate));
      }
      const both = at.target?.tpot_s && at.speculative?.tpot_s;
      const speedup = both ? at.target.tpot_s / at.speculative.tpot_s : null;
      set("speedup", speedup === null ? "–" : `${speedup.toFixed(2)}×`);
      this.element.classList.toggle("slower", speedup !== null && speedup < 1);
      this.#distance(at.speculative?.total_variation ?? null, set);
    }

    /** The losslessness meter: how far what was emitted is, at worst, from what the target alone would emit. */
    #distance(distance, set) {
      const { started } = this.store.run;
      const exact = distance !== null && distance < ROUNDING;
      set("distance", distance === null ? "–" : exact ? "0" : distance.toFixed(distance < 0.0995 ? 3 : 2));
      this.figures.get("distance").title = distance === null ? "" : `largest of any position: ${distance.toExponential(1)}`;
      this.element.classList.toggle("off-target", distance !== null && !exact);
      this.meter.style.setProperty("--share", `${100 * Math.min(1, distance ?? 0)}%`);
      this.meter.setAttribute("aria-valuenow", (distance ?? 0).toFixed(3));
      this.promise.hidden = !started || !this.store.run.running.includes("speculative");
      if (!started) return;
      const promise = promiseOf(started);
      this.promise.className = `promise ${promise.kind}`;
      this.promise.textContent = promise.name;
    }
  }

  Object.assign(Playground, { Headline });
})();
