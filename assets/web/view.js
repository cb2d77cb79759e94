/* A run as a person sees it, of one store: the sentence and the headline, race and plot, what was asked, panes and files. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const {
    ARMS,
    Asked,
    Headline,
    LEAD,
    Legend,
    Pane,
    PROMISE,
    Plot,
    Race,
    Toolbar,
    Tour,
    attachCard,
    format,
    h,
    intro,
    shelf,
  } = Playground;

  const REFERENCE =
    "The speculative arm was run by upstream's own loop, as a reference for speed: it knows no temperature, top_p or top_k, and its text is not distributed as the target's.";

  class View {
    /** options: {server, choose, cards, published, recordings, alone}; without a server it is of a file. */
    constructor(store, options) {
      this.store = store;
      this.server = options.server;
      this.recordings = options.recordings ?? [];
      this.keepDue = this.kept = 0;
      this.reference = h("p", { class: "reference", role: "note", hidden: true }, REFERENCE);
      this.message = h(
        "p",
        { class: "message", role: "status", "data-kind": "hint" },
        options.alone ? "Open a recorded run or a trace file: it replays here." : `${LEAD} ${PROMISE}`,
      );
      this.panes = ARMS.map((arm) => new Pane(store, arm));
      [this.panes[0].twin, this.panes[1].twin] = [this.panes[1], this.panes[0]];
      this.headline = new Headline(store);
      this.race = new Race(store);
      this.legend = new Legend(store, this.panes);
      this.plot = new Plot(store, options.published);
      this.asked = new Asked(store, options.choose);
      this.intro = options.choose ? intro(options.cards ?? [], options.choose) : null;
      this.toolbar = new Toolbar(this, options.server, options.recordings ?? [], options.linkOf);
      this.advice = h("p", { class: "advice", hidden: true });
      this.headline.element.prepend(this.message);
      const panes = h("div", { class: "panes" }, ...this.panes.map((pane) => pane.element));
      const course = h("div", { class: "course" }, this.race.element, this.plot.element);
      this.element = h(
        "div",
        { class: "pg pg-view" },
        ...(this.intro ? [this.intro] : []),
        this.reference,
        this.headline.element,
        course,
        this.asked.element,
        this.legend.element,
        panes,
        this.advice,
        this.toolbar.element,
      );
      const [, speculative] = this.panes;
      const stops = [[Headline, this.headline], [Race, this.race], [Pane, speculative], [Legend, this.legend]];
      this.stops = stops.map(([{ tour }, { element }]) => ({ ...tour, element, act: () => tour.act?.(store) }));
      attachCard(store, panes, this.panes);
      store.on("run", () => this.#reset());
      store.on("items", () => this.#grow());
      store.on("time", () => this.#move());
      store.on("state", () => this.#state());
      this.#state();
      // A view made late, or made again, catches up.
      if (store.run.lines.length) this.#grow();
    }

    /** Begin the tour at this step; there has to be a finished run to speak of. */
    guide(place = 0) {
      this.tour ??= new Tour(this.stops);
      this.tour.show(place);
    }

    /** The tour, of the run on the page or of a recorded one. */
    async begin() {
      if (this.store.live) return;
      if (!this.store.run.finished) await this.showFirst();
      if (this.store.run.finished) this.guide();
    }

    /** What to try, above the run on the page, or away again. */
    showExamples() {
      const shown = this.element.classList.toggle("examples");
      if (shown) this.intro.scrollIntoView({ block: "nearest" });
    }

    /** The first of the recorded runs, at its end. */
    async showFirst() {
      const [first] = this.recordings;
      if (first) await this.toolbar.recording(first.name, true);
    }

    #reset() {
      for (const pane of this.panes) pane.reset();
      this.toolbar.reset();
      this.element.classList.remove("examples");
      this.say("", "");
      this.#move();
    }

    #grow() {
      for (const pane of this.panes) pane.grow();
      this.headline.update();
      this.#figures();
      this.#announce();
      for (const pane of this.panes) pane.keepUp();
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
      for (const pane of this.panes) pane.keepUp();
    }

    #figures() {
      this.legend.update();
      this.race.update();
      this.plot.update();
    }

    #state() {
      const { live, playing, run } = this.store;
      document.body.classList.toggle("pg-running", live);
      this.element.classList.toggle("live", live);
      this.element.classList.toggle("idle", !live && !run.lines.length && !run.error);
      if (!live) {
        if (run.finished && this.keptRun !== run) {
          this.#keep();
          this.keptRun = run;
        }
        this.headline.update();
        this.#figures();
        this.#announce();
        // an answer is read from its beginning, and followed while it is played
        for (const pane of this.panes) {
          if (playing) pane.follow = true;
          else if (this.store.time === Infinity) pane.toTop();
        }
      }
      this.toolbar.update();
    }

    #announce() {
      const { live, run } = this.store;
      for (const pane of this.panes) {
        const off = Boolean(run.started && !run.running.includes(pane.arm));
        pane.element.classList.toggle("off", off);
        pane.rule(off ? null : run.started);
        pane.element.classList.toggle(
          "writing",
          live && Boolean(run.started) && !pane.data.rounds.at(-1)?.finish_reason && !off,
        );
      }
      this.reference.hidden = run.started?.engine !== "upstream";
      this.asked.update();
      this.advice.textContent = run.analysis?.advice ?? "";
      this.advice.hidden = !this.advice.textContent;
      if (run.error) this.say("error", run.error);
      else if (run.waiting) {
        this.say(
          "waiting",
          `${format.plural(run.waiting, "run")} ahead of yours${
            run.waitSeconds ? `, about ${Math.max(1, Math.round(run.waitSeconds))} s` : ""
          }. Yours starts by itself.`,
        );
      } else if (run.verdict) this.say(run.verdict.kind, run.verdict.text);
      else if (live) this.say(...this.#course(run));
    }

    /** What goes on in a run that is not over: kind and sentence. */
    #course(run) {
      if (!run.started) return ["waiting", "Starting."];
      const read = run.running.filter((arm) => run.arms[arm].rounds.length);
      if (!read.length || (read.length < run.running.length && !run.agreed)) {
        const next = run.running.find((arm) => !run.arms[arm].rounds.length);
        const whose = run.running.length < 2
          ? ""
          : next === "target"
          ? ": target first, then speculative"
          : ": target done, now speculative";
        return ["waiting", `Reading ${format.plural(run.started.prompt_tokens, "prompt token")}${whose}.`];
      }
      if (run.diverged !== null) return ["different", `The texts part at token ${run.diverged + 1}.`];
      return ["so-far", run.agreed ? `The same ${format.plural(run.agreed, "token")} so far.` : "Answering."];
    }

    say(kind, text) {
      if (this.message.textContent === text && this.message.dataset.kind === kind) return;
      this.message.dataset.kind = kind;
      this.message.textContent = text;
      // A count that changes ten times a second is not for reading aloud.
      this.message.setAttribute("aria-live", kind === "so-far" ? "off" : "polite");
    }

    /** Show what the server made of a trace, or why it refused it. what: its name for people; quietly: without playing it. */
    async open(promise, what = "", quietly = false) {
      if (this.store.live) return false;
      try {
        const answer = await promise;
        if (answer.items?.length) {
          this.store.show(answer.items, quietly);
          return true;
        }
        if (answer.error) this.refuse(what, answer.error);
      } catch {
        this.say("error", "The playground's server does not answer; start it again with ./launch.sh.");
      }
      return false;
    }

    /** Why something could not be shown, without a doubt about whose figures stand below. */
    refuse(what, error) {
      const name = what ? `${what}: ` : "";
      this.say("error", `${name}${error}${this.store.run.lines.length ? " Below is the earlier run." : ""}`);
    }
  }

  Object.assign(Playground, { View });
})();
