/* The headline: the run in a sentence, and what both arms measured in big numbers. It is of the whole run, whatever moment of
   it is being shown: a replay in slow motion changes no figure. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, format, h, promiseOf, setText, term } = Playground;

  const ROUNDING = 1e-6; // below it a distance is that of floating point

  class Headline {
    static tour = {
      title: "The same text in fewer passes",
      words:
        "The big model had to go through its weights once for each token on its own. With guesses to check it needed far fewer passes, and the text is still exactly its own.",
    };

    constructor(store) {
      this.store = store;
      this.figures = new Map();
      const figure = (name, className = "") => {
        const element = h("b", { class: `figure ${className}`, "data-figure": name }, "–");
        this.figures.set(name, element);
        return element;
      };
      const cell = (title, name, className, ...content) =>
        h("div", { class: `cell ${className}` }, h("h2", {}, term(title, name)), h("p", {}, ...content));
      const pair = (title, name, base, className = "") =>
        cell(
          title,
          name,
          className,
          figure(`target.${base}`, "arm-target"),
          h("span", { class: "to", role: "img", "aria-label": "against" }, "→"),
          figure(`speculative.${base}`, "arm-speculative"),
          h("span", { class: "unit", "data-unit": base }),
        );
      const single = (title, name, base) => cell(title, name, "", figure(`speculative.${base}`, "arm-speculative"));
      this.meter = h("i", {
        class: "meter",
        role: "meter",
        "aria-label": "Distance to the target",
        "aria-valuemin": "0",
        "aria-valuemax": "1",
        "aria-valuenow": "0",
      });
      this.promise = h("span", { class: "promise", hidden: true });
      this.element = h(
        "section",
        { class: "headline", "aria-label": "Figures" },
        h(
          "div",
          { class: "heroes" },
          cell("Times as fast", "speedup", "hero", figure("speedup")),
          pair("Time per output token", "TPOT", "tpot_s", "hero"),
          pair("Passes of the big model", "passes", "passes", "hero"),
          cell("Same as the target?", "total variation", "hero distance", figure("distance"), this.promise, this.meter),
        ),
        h(
          "div",
          { class: "details" },
          single("Tokens per pass", "mean acceptance length", "mean_acceptance_length"),
          single("Acceptance rate", "acceptance rate", "acceptance_rate"),
          single("Drafts kept", "draft acceptance rate", "draft_acceptance_rate"),
          pair("First token", "TTFT", "ttft_s"),
          pair("Tokens a second", "tokens/s", "tokens_per_s"),
        ),
      );
    }

    update() {
      const { arms } = this.store.run;
      const at = Object.fromEntries(ARMS.map((arm) => [arm, arms[arm].rounds.at(-1)?.figures]));
      const set = (name, text) => {
        const element = this.figures.get(name);
        if (element) setText(element, text);
      };
      // both of a pair in one unit: seconds where one of them takes a second
      const times = (base) => {
        const known = ARMS.map((arm) => at[arm]?.[base] ?? null);
        const whole = Math.max(...known.map((value) => value ?? 0)) >= 0.9995;
        ARMS.forEach((arm, place) =>
          set(`${arm}.${base}`, whole ? format.number(known[place]) : format.ms(known[place]))
        );
        this.#unit(base, whole ? "s" : "ms");
      };
      for (const base of ["tpot_s", "ttft_s"]) times(base);
      for (const arm of ARMS) {
        const figures = at[arm] ?? {};
        set(`${arm}.passes`, figures.rounds === undefined ? "–" : String(figures.rounds + 1)); // the prefill is one
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

    #unit(base, text) {
      setText(this.element.querySelector(`[data-unit="${base}"]`), text);
    }

    /** The losslessness meter: how far what was emitted is, at worst, from what the target alone would emit. */
    #distance(distance, set) {
      const { started } = this.store.run;
      const exact = distance !== null && distance < ROUNDING;
      set(
        "distance",
        distance === null ? "–" : exact ? "yes, exactly" : `no, off by ${distance.toFixed(distance < 0.0995 ? 3 : 2)}`,
      );
      this.figures.get("distance").title = distance === null
        ? ""
        : `Distance between the two distributions, the largest of any position: ${
          exact ? "0" : distance.toExponential(1)
        }`;
      this.element.classList.toggle("off-target", distance !== null && !exact);
      this.meter.style.setProperty("--share", `${100 * Math.min(1, distance ?? 0)}%`);
      this.meter.setAttribute("aria-valuenow", (distance ?? 0).toFixed(3));
      this.promise.hidden = !started || !this.store.run.running.includes("speculative");
      if (!started) return;
      const promise = promiseOf(started);
      this.promise.className = `promise ${promise.kind}`;
      setText(this.promise, promise.name);
    }
  }

  Object.assign(Playground, { Headline });
})();
