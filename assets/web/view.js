/* A run as a person sees it: headline, message, legend, panes, race, plot and files, of one store. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, Headline, Legend, Pane, Plot, Race, Toolbar, attachCard, format, h, shelf } = Playground;

  const REFERENCE =
    "The speculative arm was run by upstream's own loop, as a reference for speed: it knows no temperature, top_p or top_k, and its text is not distributed as the target's.";

  /** options: {server, hint, figure, plotly, recordings}; without a server it reads files only. */
  class View {
    constructor(store, options) {
      this.store = store;
      this.server = options.server;
      this.keepDue = this.kept = 0;
      this.reference = h("p", { class: "reference", role: "note", hidden: true }, REFERENCE);
      this.message = h("p", { class: "message", role: "status", "data-kind": "one" }, options.hint ?? "");
      this.panes = ARMS.map((arm) => new Pane(store, arm));
      this.headline = new Headline(store);
      this.race = new Race(store);
      this.legend = new Legend(store, this.panes);
      this.plot = new Plot(store, options.figure, options.plotly);
      this.toolbar = new Toolbar(this, options.server, options.recordings ?? []);
      this.about = h("p", { class: "run-about" });
      this.advice = h("p", { class: "advice", hidden: true });
      const told = h("div", { class: "told" }, this.message, this.race.lead, this.advice);
      const panes = h("div", { class: "panes" }, ...this.panes.map((pane) => pane.element));
      this.element = h("div", { class: "pg pg-view" }, this.reference, this.headline.element, told, this.legend.element, panes, this.race.element, this.toolbar.element, this.plot.element, this.about);
      attachCard(store, panes, this.panes);
      this.store.on("run", () => this.#reset());
      this.store.on("items", () => this.#grow());
      this.store.on("time", () => this.#move());
      this.store.on("state", () => this.#state());
      new ResizeObserver(() => this.race.update()).observe(this.race.element);
      new MutationObserver(() => this.race.update()).observe(document.body, { attributeFilter: ["class"] });
      this.#state();
      // A view made late, or made again, catches up.
      if (this.store.run.lines.length) this.#grow();
    }

    #reset() {
      for (const pane of this.panes) pane.reset();
      this.say("", "");
      this.#move(true);
    }

    #grow() {
      for (const pane of this.panes) pane.grow();
      this.#figures();
      this.#announce();
      if (this.store.live && performance.now() > this.keepDue) this.#keep();
    }

    /** Keep the trace for after a refresh: now and then while it grows, the less often the longer it is. */
    #keep() {
      this.keepDue = performance.now() + 500 + 3 * this.store.run.lines.length;
      const { length } = this.store.run.lines;
      if (this.server && length) shelf.put(this.store.run.jsonl).then(() => (this.kept = length));
    }

    #move() {
      for (const pane of this.panes) pane.seek();
      this.#figures();
    }

    #figures() {
      this.headline.update();
      this.legend.update();
      this.race.update();
      this.plot.update(!this.store.live && !this.store.playing);
      this.toolbar.update();
    }

    #state() {
      document.body.classList.toggle("pg-running", this.store.live);
      this.element.classList.toggle("live", this.store.live);
      if (!this.store.live) {
        if (this.store.run.finished) this.#keep();
        this.#figures();
        this.#announce();
      }
      this.toolbar.update();
    }

    #announce() {
      const { run } = this.store;
      for (const pane of this.panes) {
        const off = run.started && !run.running.includes(pane.arm);
        pane.element.classList.toggle("off", Boolean(off));
        pane.rule(off ? null : run.started);
        pane.element.classList.toggle("writing", this.store.live && Boolean(run.started) && !pane.data.rounds.at(-1)?.finish_reason && !off);
      }
      this.reference.hidden = run.started?.engine !== "upstream";
      if (run.started) {
        const { request, target, draft, backend, device, prompt_tokens: prompt } = run.started;
        const { temperature, top_p: topP, top_k: topK, seed } = request.sampling;
        const warp = temperature ? `temperature ${temperature}, top_p ${topP}, top_k ${topK}, seed ${seed}` : "temperature 0";
        this.about.textContent = `${target.name}${draft ? ` with ${draft.name}` : ""} on ${backend}, ${device} · k = ${request.k}, ${warp}, acceptor ${request.acceptor}, ${format.plural(prompt, "prompt token")}`;
      } else this.about.textContent = "";
      this.advice.textContent = run.analysis?.advice ?? "";
      this.advice.hidden = !this.advice.textContent;
      if (run.error) this.say("error", run.error);
      else if (run.waiting) this.say("waiting", `${format.plural(run.waiting, "run")} ahead of yours on this device. Yours starts by itself.`);
      else if (run.verdict) this.say(run.verdict.kind, run.verdict.text);
      else if (this.store.live && run.diverged !== null) this.say("different", `The texts part at token ${run.diverged + 1}.`);
      else if (this.store.live && run.agreed) this.say("so-far", `The same ${format.plural(run.agreed, "token")} so far.`);
      else if (this.store.live && !run.lines.length) this.say("waiting", "Starting.");
    }

    say(kind, text) {
      if (this.message.textContent === text && this.message.dataset.kind === kind) return;
      this.message.dataset.kind = kind;
      this.message.textContent = text;
      // A count that changes ten times a second is not for reading aloud.
      this.message.setAttribute("aria-live", kind === "so-far" ? "off" : "polite");
    }

    /** Show what the server made of a trace, or why it refused it. */
    async open(promise) {
      if (this.store.live) return;
      try {
        const answer = await promise;
        if (answer.error) this.say("error", answer.error);
        else if (answer.items?.length) this.store.show(answer.items);
      } catch {
        this.say("error", "The playground's server does not answer; start it again with ./launch.sh.");
      }
    }
  }

  Object.assign(Playground, { View });
})();
