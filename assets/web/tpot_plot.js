/* Time per output token over tokens, drawn by uPlot on a canvas: a run that is live may share its processor with this
   page, and pays for each drawing. What is pure runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, NAMES, colours, download, format, h, roundAt, setText, term, whenDressed } = Playground;

  const TINTS = { target: "target", speculative: "accepted" };
  const WHOLE = [1, 10, 100, 1000, 10_000, 100_000].flatMap((power) => [power, 2 * power, 5 * power]); // tokens
  const SAVED = { width: 2200, height: 840, grown: 2 };

  /** An arm's rounds that had ended by `time`, the prefill left out: tokens so far, ms per token of the round, TPOT so
   * far in ms. A round stands at its last token. */
  const tpotOf = (arm, time) => {
    const last = roundAt(arm, time);
    const rounds = arm.rounds.slice(1, last ? last.index + 1 : 0).filter((round) => round.tokens.length);
    return [
      rounds.map((round) => round.figures.tokens),
      rounds.map((round) => (1000 * (round.clock - round.since)) / round.tokens.length),
      rounds.map((round) => 1000 * round.figures.tpot_s),
    ];
  };

  class Plot {
    /** published: {name, ms} of each pair whose latency was published, the fastest first. */
    constructor(store, published = []) {
      this.store = store;
      this.published = published;
      this.area = h("div", { class: "plot-area", role: "img", "aria-label": "Time per output token of both arms" });
      this.read = h("output", { class: "plot-read" });
      this.compared = h("input", { type: "checkbox", onchange: () => this.update() });
      const compared = h(
        "label",
        { class: "plot-published", title: "Median latencies that AWS published for Llama pairs on Trainium" },
        this.compared,
        "Trainium's medians",
      );
      compared.hidden = !published.length;
      this.element = h(
        "section",
        { class: "plot", "aria-label": "Time per output token" },
        h("header", {}, h("h2", {}, term("ms per token", "TPOT"), " as the text grows"), compared),
        h("div", { class: "plot-frame" }, this.area, this.read),
      );
      this.#watch();
    }

    /** As wide as there is room, in the page's colours. */
    #watch() {
      new ResizeObserver(([{ contentRect: { width, height } }]) => {
        if (!width) return;
        if (this.plot) this.plot.setSize({ width, height });
        else this.#begin(width, height);
      }).observe(this.area);
      whenDressed(() => {
        this.#dress();
        this.plot?.redraw(false);
      });
    }

    #begin(width, height) {
      this.#dress();
      this.plot = new uPlot(this.#options(width, height), this.#data(), this.area);
    }

    /** Colours of the page as it is now, light or dark. */
    #dress() {
      this.colour = colours(this.element, [...Object.values(TINTS), "muted", "line", "panel"]);
      this.family = getComputedStyle(this.element).fontFamily;
    }

    /** grown: how much larger than on the page letters and lines are. */
    #options(width, height, grown = 1) {
      const font = `${11 * grown}px ${this.family}`;
      const axis = { stroke: () => this.colour.muted, font, labelFont: font, labelGap: 0 };
      const marks = { stroke: () => this.colour.line, width: grown };
      return {
        width,
        height,
        padding: [8 * grown, 8 * grown, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false } },
        scales: {
          x: { time: false, range: () => [0, 1.02 * this.longest] },
          y: { range: () => [0, this.top] },
        },
        axes: [
          {
            ...axis,
            label: "tokens",
            incrs: WHOLE,
            labelSize: 13 * grown,
            size: 20 * grown,
            gap: 2 * grown,
            grid: { show: false },
            ticks: { ...marks, size: 4 * grown },
          },
          { ...axis, size: 38 * grown, gap: 4 * grown, space: 24 * grown, grid: marks, ticks: { show: false } },
        ],
        series: [{}, ...ARMS.flatMap((arm) => this.#series(arm, grown))],
        hooks: { draw: [(plot) => this.#name(plot, grown)], setCursor: [(plot) => this.#point(plot)] },
      };
    }

    /** Each round a point and the running TPOT a line; the arms differ in form, not in colour alone. */
    #series(arm, grown) {
      const tint = () => this.colour[TINTS[arm]];
      const faint = () => `color-mix(in srgb, ${tint()} 50%, transparent)`;
      const open = arm === "target";
      const points = {
        show: true,
        size: 5 * grown,
        width: grown,
        stroke: faint,
        fill: open ? () => "transparent" : faint,
      };
      return [
        { paths: () => null, points },
        { stroke: tint, width: 3 * grown, dash: open ? [9 * grown, 7 * grown] : [], points: { show: false } },
      ];
    }

    /** What had been measured by the moment shown, on one axis of tokens. */
    #data() {
      const arms = ARMS.map((arm) => tpotOf(this.store.run.arms[arm], this.store.time));
      const shown = this.compared.checked ? this.published.map(({ ms }) => ms) : [];
      // Single slow rounds would flatten the curves: the axis follows the running means and what else is switched on.
      const highest = Math.max(0, ...shown, ...arms.flatMap(([, , means]) => means));
      this.longest = Math.max(2, ...arms.flatMap(([tokens]) => tokens.at(-1) ?? 0));
      this.top = 1.4 * highest || 30;
      this.ends = arms.map(([tokens, , means]) => (tokens.length ? [tokens.at(-1), means.at(-1)] : null));
      const known = arms.some(([tokens]) => tokens.length);
      return known ? uPlot.join(arms) : [[0, this.longest], ...ARMS.flatMap(() => [[null, null], [null, null]])];
    }

    update() {
      this.plot?.setData(this.#data());
    }

    /** Each line's name at its end: a legend would take the room of the plot. The higher one stands above its line. */
    #name(plot, grown) {
      const { ctx: paint } = plot;
      const at = (x, y) => [plot.valToPos(x, "x", true), plot.valToPos(y, "y", true)];
      const ratio = uPlot.pxRatio * grown;
      const write = (text, [x, y], above) => {
        paint.textBaseline = above ? "bottom" : "top";
        const height = y + (above ? -4 : 4) * ratio;
        paint.strokeText(text, x, height);
        paint.fillText(text, x, height);
      };
      paint.save();
      paint.font = `600 ${12 * ratio}px ${this.family}`;
      paint.textAlign = "right";
      paint.strokeStyle = this.colour.panel; // around the letters, which may stand on points
      paint.lineWidth = 4 * ratio;
      const [target, speculative] = this.ends;
      const targetAbove = !target || !speculative || target[1] >= speculative[1];
      ARMS.forEach((arm, place) => {
        const end = this.ends[place];
        if (!end) return;
        paint.fillStyle = this.colour[TINTS[arm]];
        write(`${NAMES[arm].toLowerCase()} ${end[1].toFixed(1)}`, at(...end), (arm === "target") === targetAbove);
      });
      paint.textAlign = "left";
      paint.fillStyle = this.colour.muted;
      const compared = this.compared.checked ? this.published : [];
      compared.forEach(({ name, ms }, place) => { // they lie close together: the higher ones are named above
        const [end, y] = at(this.longest, ms);
        const start = plot.bbox.left + 6 * ratio;
        for (let dot = start; dot < end; dot += 5 * ratio) paint.fillRect(dot, y, 2 * ratio, 1.5 * ratio);
        write(`${name} ${ms}`, [start, y], place > 0);
      });
      paint.restore();
    }

    /** Both arms' TPOT at the number of tokens pointed at, or the last one known before it. */
    #point({ cursor, data }) {
      const place = cursor.left >= 0 ? cursor.idx : null;
      const known = (series) => data[series].slice(0, place + 1).findLast((value) => value != null);
      const figures = place === null ? [] : [known(2), known(4)];
      const words = figures.map((value) => (value === undefined ? "–" : value.toFixed(1))).join(" → ");
      const any = figures.some((value) => value !== undefined);
      setText(this.read, any ? `at ${format.plural(data[0][place], "token")}: ${words} ms` : "");
    }

    /** The plot as a picture. */
    save() {
      const { width, height, grown } = SAVED;
      const options = this.#options(width / uPlot.pxRatio, height / uPlot.pxRatio, grown / uPlot.pxRatio);
      options.hooks.draw.push(({ ctx: { canvas } }) => {
        const paint = h("canvas", { width, height }).getContext("2d");
        paint.fillStyle = this.colour.panel;
        paint.fillRect(0, 0, width, height);
        paint.drawImage(canvas, 0, 0);
        paint.canvas.toBlob((blob) => download(blob, "tpot.png", "image/png"));
      });
      new uPlot(options, this.#data(), h("div"));
    }
  }

  Object.assign(Playground, { Plot, tpotOf });
  if (typeof module !== "undefined") module.exports = Playground;
})();
