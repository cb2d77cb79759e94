/* The Playground tab: headline, race, legend, panes, plot, replay and files. The same code serves an exported page. */
(() => {
  const Playground = window.Playground;
  const { ARMS, KINDS, NAMES, Pane, Run, attachCard, format, h, roundAt, shelf, store } = Playground;

  let definitions = {};

  /** A word with its definition on hover and on focus. */
  const term = (words, name) => h("span", { class: "term", tabindex: "0", "data-term": name }, words);

  const attachDefinitions = () => {
    const tip = h("div", { class: "pg pg-tip", role: "tooltip", id: "pg-tip", hidden: true });
    document.body.append(tip);
    const show = (event) => {
      const element = event.target.closest?.("[data-term]");
      const text = element && definitions[element.dataset.term];
      if (!text) return;
      tip.replaceChildren(h("b", {}, element.dataset.term), " ", text);
      tip.hidden = false;
      element.setAttribute("aria-describedby", "pg-tip");
      const spot = element.getBoundingClientRect();
      const left = Math.min(spot.left, document.documentElement.clientWidth - tip.offsetWidth - 12);
      tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
      const above = spot.bottom + tip.offsetHeight + 12 > window.innerHeight;
      tip.style.top = `${(above ? spot.top - tip.offsetHeight - 6 : spot.bottom + 6) + window.scrollY}px`;
    };
    const hide = (event) => {
      tip.hidden = true;
      event.target.closest?.("[data-term]")?.removeAttribute("aria-describedby");
    };
    for (const type of ["pointerover", "focusin"]) document.addEventListener(type, show);
    for (const type of ["pointerout", "focusout"]) document.addEventListener(type, hide);
    document.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));
  };

  const ROUNDING = 1e-6; // below it a distance is that of floating point

  /** Big numbers: what the two arms measured up to the moment shown. */
  class Headline {
    constructor() {
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
      const at = Object.fromEntries(ARMS.map((arm) => [arm, roundAt(store.run.arms[arm], store.time)?.figures]));
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
      const { started } = store.run;
      const exact = distance !== null && distance < ROUNDING;
      set("distance", distance === null ? "–" : exact ? "0" : distance.toFixed(distance < 0.0995 ? 3 : 2));
      this.figures.get("distance").title = distance === null ? "" : `largest of any position: ${distance.toExponential(1)}`;
      this.element.classList.toggle("off-target", distance !== null && !exact);
      this.meter.style.setProperty("--share", `${100 * Math.min(1, distance ?? 0)}%`);
      this.meter.setAttribute("aria-valuenow", (distance ?? 0).toFixed(3));
      this.promise.hidden = !started || !store.run.running.includes("speculative");
      if (!started) return;
      const promise = started.lossless ? "lossless" : "lossy";
      this.promise.className = `promise ${promise}`;
      this.promise.textContent = promise;
    }
  }

  const SPEEDS = [[0.5, "½×"], [1, "1×"], [2, "2×"]];

  /** Both arms on one time axis: a column for each pass, a cell for each token it gave. Also the scrubber and player. */
  class Race {
    constructor() {
      const button = (label, title, onclick, className = "") => h("button", { type: "button", class: `tool ${className}`, title, onclick }, label);
      this.canvas = h("canvas", { class: "race-canvas", role: "img", "aria-label": "Passes of both arms over time", onclick: (event) => this.#point(event) });
      this.lead = h("span", { class: "race-lead" });
      this.slider = h("input", { type: "range", class: "race-slider", min: "0", max: "1000", value: "1000", "aria-label": "Moment shown", oninput: () => this.#scrub(Number(this.slider.value) / 1000) });
      this.moment = h("output", { class: "race-moment" });
      this.play = button("▶ Replay", "Play the run again at its true pace", () => (store.playing ? store.pause() : store.play()), "play");
      this.back = button("‹ step", "One round back", () => store.step(-1));
      this.forward = button("step ›", "One round on", () => store.step(1));
      this.speeds = new Map(SPEEDS.map(([speed, label]) => [speed, button(label, `Replay at ${label} the true pace`, () => this.#speed(speed))]));
      const lanes = h("div", { class: "race-lanes", "aria-hidden": "true" }, ...ARMS.map((arm) => h("span", { class: `arm-${arm}` }, NAMES[arm])));
      this.element = h(
        "section",
        { class: "race", "aria-label": "Race" },
        h("header", {}, h("h4", {}, "Every pass on its arm's own clock, a cell for each token it gave"), this.moment),
        h("div", { class: "race-track" }, lanes, this.canvas, this.play, this.slider),
        h("div", { class: "tools", role: "group", "aria-label": "Replay" }, this.back, this.forward, ...this.speeds.values()),
      );
      this.scale = 0;
      this.#speed(1);
    }

    #speed(speed) {
      store.speed = speed;
      for (const [each, button] of this.speeds) button.setAttribute("aria-pressed", String(each === speed));
    }

    #point(event) {
      if (!store.live && store.run.duration) this.#scrub(event.offsetX / this.canvas.clientWidth);
    }

    #scrub(share) {
      store.pause();
      store.seek(share * store.run.duration);
    }

    /** Seconds the axis spans: grows in steps while a run is live, so that columns stay put between them. */
    #span() {
      const { run } = store;
      if (!store.live) return run.duration || 1;
      const need = run.duration * 1.02;
      if (need > this.scale) this.scale = Math.max(0.5, need * 1.35);
      return this.scale;
    }

    update() {
      const { run, time, live } = store;
      if (!run.lines.length) this.scale = 0;
      const duration = run.duration;
      this.slider.disabled = live || !duration;
      const value = String(time === Infinity || !duration ? 1000 : Math.round((time / duration) * 1000));
      if (this.slider.value !== value) this.slider.value = value;
      this.slider.setAttribute("aria-valuetext", format.seconds(Math.min(time, duration)));
      for (const each of [this.play, this.back, this.forward, ...this.speeds.values()]) each.disabled = live || !duration;
      this.play.textContent = store.playing ? "❚❚ Pause" : "▶ Replay";
      this.moment.textContent = !duration ? "" : time === Infinity ? format.seconds(duration) : `${format.seconds(time)} of ${format.seconds(duration)}`;
      this.lead.textContent = this.#leadText(duration);
      this.#draw(duration);
    }

    #leadText(duration) {
      const { run, time } = store;
      const [target, speculative] = ARMS.map((arm) => roundAt(run.arms[arm], time));
      if (!target || !speculative) return "";
      const ahead = speculative.figures.tokens - target.figures.tokens;
      if (!store.live && (time === Infinity || time >= duration)) {
        if (target.figures.tokens !== speculative.figures.tokens) return "";
        const gap = target.clock - speculative.clock;
        return Math.abs(gap) < 0.005 ? "a dead heat" : `${gap > 0 ? "speculative" : "target only"} done ${format.seconds(Math.abs(gap))} earlier`;
      }
      return ahead === 0 ? "level" : `${ahead > 0 ? "speculative" : "target only"} ahead by ${format.plural(Math.abs(ahead), "token")}`;
    }

    #draw(duration) {
      const { canvas } = this;
      const ratio = window.devicePixelRatio || 1;
      const width = canvas.clientWidth;
      const height = canvas.clientHeight;
      if (!width) return;
      if (canvas.width !== Math.round(width * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      const paint = canvas.getContext("2d");
      paint.setTransform(ratio, 0, 0, ratio, 0, 0);
      paint.clearRect(0, 0, width, height);
      const style = getComputedStyle(this.element);
      const colour = Object.fromEntries([...KINDS, "line", "ink"].map((kind) => [kind, style.getPropertyValue(`--${kind}`).trim()]));
      const { run, time } = store;
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

  /** What the colours and forms mean, with live counts; a press isolates one kind. */
  class Legend {
    constructor(panes) {
      this.panes = panes;
      this.counts = new Map();
      this.buttons = new Map();
      const entries = KINDS.map((kind) => {
        const count = h("b", { "data-count": kind }, "0");
        const button = h("button", { type: "button", class: "legend-entry", "aria-pressed": "false", "data-term": kind, "data-kind": kind, onclick: () => store.isolate(kind) }, h("span", { class: `swatch tok k-${kind}` }, kind), count);
        this.counts.set(kind, count);
        this.buttons.set(kind, button);
        return button;
      });
      this.refused = h("input", { type: "checkbox", onchange: () => this.#showRefused() });
      this.element = h("section", { class: "legend", "aria-label": "Legend" }, ...entries, h("label", { class: "legend-refused", title: "Show refused drafts struck through in their places" }, this.refused, "show refused"));
      store.on("isolate", () => this.#isolate());
    }

    #showRefused() {
      for (const pane of this.panes) pane.element.classList.toggle("show-refused", this.refused.checked);
    }

    #isolate() {
      const kind = store.isolated;
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
      const arm = store.run.running.at(-1);
      const counts = roundAt(store.run.arms[arm], store.time)?.figures.counts ?? {};
      for (const [kind, element] of this.counts) element.textContent = String(counts[kind] ?? 0);
    }
  }

  /** Time per output token over tokens. The figure's look comes from app/ui/plots.py; here it only gets its points. */
  class Plot {
    constructor(figure, url) {
      this.figure = figure;
      this.area = h("div", { class: "plot-area", role: "img", "aria-label": "Time per output token of both arms" });
      this.element = h("section", { class: "plot", "aria-label": "Time per output token" }, h("h4", {}, term("Time per output token", "TPOT"), " as the text grows"), this.area);
      this.element.hidden = !figure;
      this.due = 0;
      this.url = url;
      if (figure) this.#watch();
    }

    /** Plotly is large: it is fetched when its plot comes into view, and drawn to only while it is. */
    #watch() {
      new IntersectionObserver((entries) => {
        this.seen = entries.at(-1).isIntersecting;
        if (this.seen) this.#begin().then(() => this.update(true));
      }, { rootMargin: "80px" }).observe(this.element);
    }

    /** Resolves once there is a plot to draw to. */
    #begin() {
      this.begun ??= new Promise((resolve) => {
        if (window.Plotly) return resolve();
        const failed = () => (this.element.hidden = true);
        document.head.append(h("script", { src: this.url, onload: resolve, onerror: failed }));
      }).then(() => {
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
      const style = getComputedStyle(this.element);
      const colour = (name) => style.getPropertyValue(`--${name}`).trim();
      const { data, layout, config } = structuredClone(this.figure);
      layout.uirevision = "live";
      for (const trace of data) {
        const tint = colour(trace.meta?.colour ?? "muted");
        if (trace.line) trace.line.color = tint;
        if (trace.marker) trace.marker.color = tint;
      }
      layout.font = { ...layout.font, color: colour("muted"), family: style.fontFamily };
      for (const axis of [layout.xaxis, layout.yaxis]) Object.assign(axis, { gridcolor: colour("line"), zerolinecolor: colour("line") });
      layout.hoverlabel = { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink") } };
      this.data = data;
      this.layout = layout;
      return window.Plotly.newPlot(this.area, data, layout, config).then(() => this.update(true));
    }

    update(now = false) {
      if (!this.data || !this.seen) return;
      const moment = performance.now();
      if (!now && moment < this.due) return;
      this.due = moment + 300;
      for (const trace of this.data) {
        const { arm, series } = trace.meta ?? {};
        if (!arm) continue;
        const last = roundAt(store.run.arms[arm], store.time);
        const rounds = store.run.arms[arm].rounds.slice(1, last ? last.index + 1 : 0).filter((round) => round.tokens.length);
        trace.x = rounds.map((round) => round.figures.tokens);
        trace.y = rounds.map((round) => 1000 * (series === "mean" ? round.figures.tpot_s : (round.clock - round.since) / round.tokens.length));
      }
      const longest = Math.max(2, ...this.data.filter((trace) => trace.meta?.arm).map((trace) => trace.x.at(-1) ?? 0));
      for (const trace of this.data) if (trace.meta?.published) trace.x = [1, longest];
      // Single slow rounds would flatten the curves: the axis follows the running means and what else is switched on.
      const known = this.data.flatMap((trace, index) => (trace.meta?.series === "mean" || (trace.meta?.published && this.area.data?.[index]?.visible === true) ? trace.y : []));
      const top = known.length ? 1.5 * Math.max(...known) : 30;
      window.Plotly.react(this.area, this.data, { ...this.layout, datarevision: moment, xaxis: { ...this.layout.xaxis, range: [0, longest * 1.02] }, yaxis: { ...this.layout.yaxis, range: [0, top] } });
    }

    async save() {
      await this.#begin();
      this.seen = true;
      this.update(true);
      window.Plotly.downloadImage(this.area, { format: "png", scale: 2, width: 1100, height: 420, filename: "tpot" });
    }
  }

  const download = (text, name, type) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };

  const fileName = (ending) => {
    const created = store.run.started?.created.replace(/[^0-9]/g, "").slice(0, 14) ?? "";
    return `speculative-${created}.${ending}`;
  };

  /** Export and import. */
  class Toolbar {
    constructor(view, server, recordings) {
      this.view = view;
      this.server = server;
      const button = (label, title, onclick, className = "") => h("button", { type: "button", class: `tool ${className}`, title, onclick }, label);
      this.jsonl = button("Trace (JSONL)", "Save every event of this run", () => download(store.run.jsonl, fileName("jsonl"), "application/jsonl"));
      this.html = button("Page (HTML)", "Save this run as one page that opens anywhere", () => this.#exportPage());
      this.png = button("Plot (PNG)", "Save the plot as a picture", () => view.plot.save());
      this.needRun = [this.jsonl, this.html, this.png];
      const save = h("div", { class: "tools", role: "group", "aria-label": "Export" }, h("span", { class: "tools-name" }, "Export"), this.jsonl, server && this.html, server && this.png);
      this.element = h("section", { class: "toolbar", "aria-label": "Files" }, save);
      if (server) this.element.append(this.#open(recordings));
    }

    #open(recordings) {
      const file = h("input", { type: "file", accept: ".jsonl,.json,.txt", class: "file", "aria-label": "Open a trace file", onchange: () => this.#import(file) });
      const group = h("div", { class: "tools", role: "group", "aria-label": "Open" }, h("span", { class: "tools-name" }, "Open"), h("label", { class: "tool file-label" }, "a trace file", file));
      if (recordings.length) {
        const choice = h("select", { class: "tool", "aria-label": "Recorded runs", onchange: () => this.#recording(choice) }, h("option", { value: "" }, "a recorded run"), ...recordings.map(({ name, label }) => h("option", { value: name }, label)));
        group.append(choice);
      }
      this.last = h("button", { type: "button", class: "tool", hidden: true, onclick: () => this.#reopen() }, "your last run");
      shelf.get().then((text) => (this.last.hidden = !text || store.run.lines.length > 0));
      group.append(this.last);
      return group;
    }

    #recording(choice) {
      const name = choice.value;
      choice.value = "";
      if (name) this.view.open(this.server.recording(name));
    }

    async #reopen() {
      const text = await shelf.get();
      this.last.hidden = true;
      if (text) this.view.open(this.server.open_trace(text));
    }

    async #import(file) {
      const [chosen] = file.files;
      file.value = "";
      if (chosen) this.view.open(this.server.open_trace(await chosen.text()));
    }

    async #exportPage() {
      this.html.disabled = true;
      const answer = await this.server.page_of(store.run.jsonl);
      this.html.disabled = false;
      if (answer.error) this.view.say("error", answer.error);
      else download(answer.page, fileName("html"), "text/html");
    }

    update() {
      for (const each of this.needRun) each.disabled = store.live || !store.run.lines.length;
      if (this.last && store.run.lines.length) this.last.hidden = true;
    }
  }

  const HINT = "Press Run: the same target answers twice, alone and with a draft.";
  const HINT_WITHOUT_MODEL = "Open a recorded run or a trace file: it replays at its true pace.";

  class View {
    constructor(options) {
      this.server = options.server;
      this.keepDue = this.kept = 0;
      this.message = h("p", { class: "message", role: "status", "data-kind": "one" }, options.hint ?? "");
      this.panes = ARMS.map((arm) => new Pane(arm));
      this.headline = new Headline();
      this.race = new Race();
      this.legend = new Legend(this.panes);
      this.plot = new Plot(options.figure, options.plotly);
      this.toolbar = new Toolbar(this, options.server, options.recordings ?? []);
      this.about = h("p", { class: "run-about" });
      this.advice = h("p", { class: "advice", hidden: true });
      const told = h("div", { class: "told" }, this.message, this.race.lead, this.advice);
      const panes = h("div", { class: "panes" }, ...this.panes.map((pane) => pane.element));
      this.element = h("div", { class: "pg pg-view" }, this.headline.element, told, this.legend.element, panes, this.race.element, this.toolbar.element, this.plot.element, this.about);
      attachCard(panes, this.panes);
      store.on("run", () => this.#reset());
      store.on("items", () => this.#grow());
      store.on("time", () => this.#move());
      store.on("state", () => this.#state());
      new ResizeObserver(() => this.race.update()).observe(this.race.element);
      new MutationObserver(() => this.race.update()).observe(document.body, { attributeFilter: ["class"] });
      this.#state();
      // A view made late, or made again, catches up.
      if (store.run.lines.length) this.#grow();
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
      if (store.live && performance.now() > this.keepDue) this.#keep();
    }

    /** Keep the trace for after a refresh: now and then while it grows, the less often the longer it is. */
    #keep() {
      this.keepDue = performance.now() + 500 + 3 * store.run.lines.length;
      const { length } = store.run.lines;
      if (this.server && length) shelf.put(store.run.jsonl).then(() => (this.kept = length));
    }

    #move() {
      for (const pane of this.panes) pane.seek();
      this.#figures();
    }

    #figures() {
      this.headline.update();
      this.legend.update();
      this.race.update();
      this.plot.update(!store.live && !store.playing);
      this.toolbar.update();
    }

    #state() {
      document.body.classList.toggle("pg-running", store.live);
      this.element.classList.toggle("live", store.live);
      if (!store.live) {
        if (store.run.finished) this.#keep();
        this.#figures();
        this.#announce();
      }
      this.toolbar.update();
    }

    #announce() {
      const { run } = store;
      for (const pane of this.panes) {
        const off = run.started && !run.running.includes(pane.arm);
        pane.element.classList.toggle("off", Boolean(off));
        pane.rule(off ? null : run.started);
        pane.element.classList.toggle("writing", store.live && Boolean(run.started) && !pane.data.rounds.at(-1)?.finish_reason && !off);
      }
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
      else if (store.live && run.diverged !== null) this.say("different", `The texts part at token ${run.diverged + 1}.`);
      else if (store.live && run.agreed) this.say("so-far", `The same ${format.plural(run.agreed, "token")} so far.`);
      else if (store.live && !run.lines.length) this.say("waiting", "Starting.");
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
      if (store.live) return;
      try {
        const answer = await promise;
        if (answer.error) this.say("error", answer.error);
        else if (answer.items?.length) store.show(answer.items);
      } catch {
        this.say("error", "The playground's server does not answer; start it again with ./launch.sh.");
      }
    }
  }

  let defined = false;
  const define = (text) => {
    definitions = text;
    if (!defined) attachDefinitions();
    defined = true;
  };

  /** In the page: called by the component's js_on_load. */
  Playground.mount = (element, settings, props, watch, server) => {
    define(settings.definitions);
    const view = new View({ ...settings, server, hint: settings.alone ? HINT_WITHOUT_MODEL : HINT });
    element.replaceChildren(view.element);
    watch("value", () => store.receive(props.value, server.missed));
    if (settings.preloaded && !store.run.lines.length) view.open(server.preloaded());
    Playground.view = view;
  };

  /** Run was pressed: the knobs, with the run's id as the last of them. */
  Playground.begin = (knobs) => {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    store.begin(id);
    return [...knobs.slice(0, -1), id];
  };

  /** The run's event is over, by whatever way. */
  Playground.settle = async () => {
    while (store.asked) await store.asked;
    if (store.live && !store.run.finished && !store.run.error) store.run.error = "The connection to the playground's server was lost during the run; press Run again.";
    store.settle();
  };

  /** In an exported page: the trace stands in the document. */
  Playground.openFile = (text) => {
    define(text);
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const dress = () => document.body.classList.toggle("dark", dark.matches);
    dark.addEventListener("change", dress);
    dress();
    const view = new View({ server: null });
    document.getElementById("pg-playground").replaceChildren(view.element);
    Playground.mountRounds(document.getElementById("pg-rounds"), true);
    store.show(JSON.parse(document.getElementById("pg-trace").textContent));
  };

  Object.assign(Playground, { term, Run });
})();
