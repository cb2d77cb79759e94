/* The line above the panes: the run's own prompt and settings, live, in a replay and in an exported page. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { h, runFacts, settingsOf, toolButton } = Playground;

  class Asked {
    /** choose: sets the page's knobs; null where there are none. */
    constructor(store, choose) {
      this.store = store;
      this.prompt = h("span", { class: "asked-prompt", dir: "auto" });
      this.turn = h("span", { class: "asked-turn", hidden: true });
      this.earlier = h("p", { class: "asked-earlier", dir: "auto", tabindex: "0", hidden: true });
      this.settings = h("span", { class: "asked-settings" });
      this.models = h("span", { class: "asked-models" });
      this.take = choose
        && toolButton(
          "Use these settings",
          "Set the knobs to what this run had",
          () => choose(settingsOf(this.store.run.started.request)),
        );
      const summary = h(
        "summary",
        {},
        this.turn,
        this.prompt,
        h("span", { class: "asked-short" }, this.settings, " · ", this.models),
      );
      this.element = h("details", { class: "asked" }, summary, this.earlier, this.take);
      this.update();
    }

    update() {
      const { started, analysis } = this.store.run;
      this.element.hidden = !started;
      if (!started || (this.shown === started && this.chosen === analysis)) return;
      this.shown = started;
      this.chosen = analysis;
      const { prompt, turn, earlier, settings, models } = runFacts(started, analysis?.chosen);
      this.turn.hidden = this.earlier.hidden = turn === 1;
      this.turn.textContent = `turn ${turn}`;
      this.earlier.textContent = earlier;
      this.prompt.textContent = prompt;
      this.settings.textContent = settings;
      this.models.textContent = models;
    }
  }

  Object.assign(Playground, { Asked });
})();
