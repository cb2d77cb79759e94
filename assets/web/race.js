/* The race of both arms, and the player that shows it again. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, FIT, KINDS, NAMES, colours, format, h, keepSlowMotion, roundAt, setText, toolButton, whenDressed } =
    Playground;

  const PACES = [
    [FIT, "slow motion"],
    [1 / 20, "1/20 of true speed"],
    [1 / 10, "1/10 of true speed"],
    [1 / 4, "1/4 of true speed"],
    [1, "true speed"],
  ];

  /** Both arms on one time axis: a column for each pass, a cell for each token it gave. Also the scrubber and player. */
  class Race {
    static tour = {
      title: "The race",
      words:
        "Each block is one pass, on the clock of its own arm. A pass of the target alone gives one token; a pass with guesses gives as many as were right, and one more. Slow motion shows what took a part of a second.",
      act: (store) => {
        store.seek(0);
        store.play();
      },
    };

    constructor(store) {
      this.store = store;
      this.canvas = h("canvas", {
        class: "race-canvas",
        role: "img",
        "aria-label": "Passes of both arms over time",
        onclick: (event) => this.#point(event),
      });
      this.lead = h("b", { class: "race-lead" });
      this.slow = h("b", { class: "race-slow" });
      this.slider = h("input", {
        type: "range",
        class: "race-slider",
        min: "0",
        max: "1000",
        value: "1000",
        "aria-label": "Moment shown",
        oninput: () => this.#scrub(Number(this.slider.value) / 1000),
      });
      this.moment = h("output", { class: "race-moment" });
      this.play = toolButton(
        "▶ Replay",
        "Play the run again",
        () => (store.playing ? store.pause() : store.play()),
        "play",
      );
      this.back = toolButton("‹ step", "One step back", () => store.step(-1));
      this.forward = toolButton("step ›", "One step on: a verdict inside a window, or a pass", () => store.step(1));
      this.pace = h("select", {
        class: "tool",
        "aria-label": "Speed of the replay",
        onchange: () => (store.speed = PACES[this.pace.selectedIndex][0]),
      }, ...PACES.map(([, label]) => h("option", {}, label)));
      this.auto = h("input", { type: "checkbox", onchange: () => keepSlowMotion(store, this.auto.checked) });
      const auto = h(
        "label",
        { class: "race-auto", title: "Show a run again in slow motion when it has ended" },
        this.auto,
        "after each run",
      );
      const lanes = h(
        "div",
        { class: "race-lanes", "aria-hidden": "true" },
        ...ARMS.map((arm) => h("span", { class: `arm-${arm}` }, NAMES[arm])),
      );
      const tools = h(
        "div",
        { class: "tools", role: "group", "aria-label": "Replay" },
        this.play,
        this.back,
        this.forward,
        this.pace,
        auto,
      );
      this.element = h(
        "section",
        { class: "race", "aria-label": "Race" },
        h(
          "header",
          {},
          h("h2", { title: "Every pass on its arm's own clock, a cell for each token it gave" }, "The race"),
          this.lead,
          this.slow,
          this.moment,
        ),
        h("div", { class: "race-track" }, lanes, this.canvas, h("span"), this.slider),
        tools,
      );
      this.scale = 0;
      this.auto.checked = store.slowMotion;
      store.on("state", () => this.#players());
      this.#watch();
    }

    /** How large it is, and its colours: asked for when they change, since at every drawing the answer costs a layout. */
    #watch() {
      new ResizeObserver(([{ contentRect: { width, height } }]) => {
        this.size = [width, height];
        this.#draw();
      }).observe(this.canvas);
      whenDressed(() => {
        this.colour = null;
        this.#draw();
      });
    }

    /** The controls follow what the store does. */
    #players() {
      const { store } = this;
      this.pace.selectedIndex = Math.max(0, PACES.findIndex(([pace]) => pace === store.pace));
      this.auto.checked = store.slowMotion;
      const { speed } = store;
      const slow = store.playing && speed < 0.95;
      this.slow.textContent = slow ? `slow motion, ${format.fraction(speed)} of true speed` : "";
      this.slow.hidden = !slow;
    }

    #point(event) {
      if (!this.store.live && this.store.run.duration) this.#scrub(event.offsetX / this.canvas.clientWidth);
    }

    #scrub(share) {
      this.store.pause();
      this.store.seek(share * this.store.run.duration);
    }

    /** Seconds the axis spans: grows in steps while a run is live, so that columns stay put between them. */
    #span() {
      const { run } = this.store;
      if (!this.store.live) return run.duration || 1;
      const need = run.duration * 1.02;
      if (need > this.scale) this.scale = Math.max(0.5, need * 1.35);
      return this.scale;
    }

    update() {
      const { run, time, live } = this.store;
      if (!run.lines.length) this.scale = 0;
      const duration = run.duration;
      this.slider.disabled = live || !duration;
      const value = String(time === Infinity || !duration ? 1000 : Math.round((time / duration) * 1000));
      if (this.slider.value !== value) this.slider.value = value;
      this.slider.setAttribute("aria-valuetext", format.seconds(Math.min(time, duration)));
      for (const each of [this.play, this.back, this.forward, this.pace]) each.disabled = live || !duration;
      setText(this.play, this.store.playing ? "❚❚ Pause" : "▶ Replay");
      const moment = time === Infinity
        ? `${format.seconds(duration)} in all`
        : `${format.seconds(time)} of ${format.seconds(duration)}`;
      setText(this.moment, duration ? moment : "");
      setText(this.lead, this.#leadText(duration));
      this.#draw();
    }

    #leadText(duration) {
      const { run, time, live } = this.store;
      if (run.running.length < 2 || !duration) return "";
      const [target, speculative] = ARMS.map((arm) => roundAt(run.arms[arm], time));
      if (live && (!target || !speculative || run.inTurn)) return ""; // what was not run yet is not behind
      if (!target && !speculative) return "both read the prompt";
      const ahead = (speculative?.figures.tokens ?? 0) - (target?.figures.tokens ?? 0);
      if (!live && (time === Infinity || time >= duration)) {
        if (!target || !speculative || ahead !== 0) return "";
        const gap = target.clock - speculative.clock;
        return Math.abs(gap) < 0.005
          ? "a dead heat"
          : `${gap > 0 ? "speculative" : "target only"} done ${format.seconds(Math.abs(gap))} earlier`;
      }
      return ahead === 0
        ? "level"
        : `${ahead > 0 ? "speculative" : "target only"} ahead by ${format.plural(Math.abs(ahead), "token")}`;
    }

    #draw() {
      const { canvas } = this;
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = this.size ?? [0, 0];
      if (!width) return;
      const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
      const paint = canvas.getContext("2d");
      paint.setTransform(ratio, 0, 0, ratio, 0, 0);
      paint.clearRect(0, 0, width, height);
      const colour = (this.colour ??= colours(this.element, [...KINDS, "line", "ink"]));
      const { run, time } = this.store;
      const k = Math.max(2, ...run.arms.speculative.rounds.map((round) => round.tokens.length));
      const gap = 10;
      const cell = (height - gap - 4) / (k + 1);
      const scale = width / this.#span();
      const lanes = { target: cell + 2, speculative: height - 2 };
      for (const arm of ARMS) {
        paint.fillStyle = colour.line;
        paint.fillRect(0, lanes[arm], width, 1);
        for (const round of run.arms[arm].rounds) {
          const from = round.since * scale;
          const wide = Math.max(0.75, (round.clock - round.since) * scale - 1);
          paint.globalAlpha = round.clock <= time + 1e-9 ? 1 : 0.18;
          round.tokens.forEach((token, place) => {
            paint.fillStyle = colour[token.kind];
            const top = lanes[arm] - (place + 1) * cell;
            if (token.kind === "corrected" && wide > 3) paint.fillRect(from, top + cell * 0.35, wide, cell * 0.65 - 1);
            else paint.fillRect(from, top + 1, wide, cell - 1);
          });
        }
      }
      paint.globalAlpha = 1;
      if (time !== Infinity) {
        paint.fillStyle = colour.ink;
        paint.fillRect(time * scale - 1, 0, 2, height);
      }
    }
  }

  Object.assign(Playground, { Race });
})();
