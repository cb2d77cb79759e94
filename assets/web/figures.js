/* Figures that come whole from app/ui/plots.py: drawn in the page's colours of the moment, and again when they change. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { download, h, toolButton, whenDressed } = Playground;

  let loading = null;
  /** Plotly is large: it is fetched when there is a first figure to draw. Resolves where it cannot be had, too. */
  const plotly = (url) => (loading ??= new Promise((resolve) => {
    if (window.Plotly) return resolve();
    document.head.append(h("script", { src: url, onload: resolve, onerror: resolve }));
  }));

  /** The figure with the colours named in its traces' `meta`, light or dark. */
  const dressed = (figure, element) => {
    const style = getComputedStyle(element);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const { data, layout, config } = structuredClone(figure);
    for (const trace of data) {
      const tint = colour(trace.meta?.colour ?? "muted");
      for (const part of [trace.line, trace.marker, trace.error_y]) if (part) part.color = tint;
    }
    layout.font = { ...layout.font, color: colour("muted"), family: style.fontFamily };
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis, { gridcolor: colour("line"), zerolinecolor: colour("line") });
    }
    layout.hoverlabel = { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink") } };
    return [data, layout, config];
  };

  const fileOf = (title) => title.toLowerCase().replace(/\W+/g, "-");

  /** The points of a figure as CSV: series, x, y. */
  const pointsOf = (figure) =>
    [
      "series,x,y",
      ...figure.data.flatMap(({ name, x, y }) => x.map((at, i) => `${JSON.stringify(name)},${at},${y[i] ?? ""}`)),
    ]
      .join("\n") + "\n";

  /** What leaves a drawn figure: a table, its own points where none is given, and a picture. shown: {title, figure, table} now. */
  const takeAway = (area, shown) => [
    toolButton("CSV", "The figures of this picture as a table", () => {
      const { title, figure, table } = shown();
      download(table ?? pointsOf(figure), `${fileOf(title)}.csv`, "text/csv");
    }),
    toolButton(
      "PNG",
      "This picture",
      () =>
        window.Plotly?.downloadImage(area, { format: "png", filename: fileOf(shown().title), width: 900, height: 500 }),
    ),
  ];

  /** Mounts a component whose value is a list of {title, note, figure, table}. */
  Playground.mountFigures = (element, props, watch) => {
    let areas = [];
    const draw = () => {
      const shown = props.value ?? [];
      if (areas.length !== shown.length) {
        areas = shown.map(() => h("div", { class: "plot-area", role: "img" }));
        element.replaceChildren(
          ...shown.map((each, i) =>
            h(
              "section",
              { class: "plot", "aria-label": each.title },
              h("h2", {}, each.title),
              areas[i],
              h("p", { class: "plot-note" }, each.note),
              ...takeAway(areas[i], () => props.value[i]),
            )
          ),
        );
      }
      shown.forEach((each, i) => {
        areas[i].setAttribute("aria-label", `${each.title}. ${each.note}`);
        areas[i].nextSibling.textContent = each.note;
      });
      if (!shown.length || !element.clientWidth) return;
      plotly(props.plotly).then(() =>
        window.Plotly
        && shown.forEach((each, i) =>
          areas[i].isConnected && window.Plotly.react(areas[i], ...dressed(each.figure, element))
        )
      );
    };
    watch("value", draw);
    new ResizeObserver(() => {
      draw();
      for (const area of areas) if (window.Plotly && area.data && area.clientWidth) window.Plotly.Plots.resize(area);
    }).observe(element);
    whenDressed(draw);
    draw();
  };

  Object.assign(Playground, { dressed, plotly, takeAway });
})();
