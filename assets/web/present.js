/* For a room: sentence, speedup, race and panes in large type, no knobs. P switches it; digits run the examples. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { h } = Playground;

  const typing = (target) =>
    target.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable]");
  const wanted = () => ["1", "true"].includes(new URLSearchParams(location.search).get("present"));

  const show = (on) => {
    document.body.classList.toggle("pg-present", on);
    const query = new URLSearchParams(location.search);
    if (on) query.set("present", "1");
    else query.delete("present");
    history.replaceState(history.state, "", query.size ? `?${query}` : location.pathname);
  };

  Playground.present = (store) => {
    const hint = h(
      "p",
      { class: "pg present-hint" },
      "Keys 1 to 9: examples · Enter: run · space: replay · ← →: step · P: leave",
    );
    document.body.append(hint);
    show(wanted());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
      const on = document.body.classList.contains("pg-present");
      const act = {
        p: () => show(!on),
        Escape: on && (() => show(false)),
        Enter: on && event.target === document.body && (() => document.querySelector("#run")?.click()),
        " ": on && (() => (store.playing ? store.pause() : store.play())),
        ArrowRight: on && (() => store.step(1)),
        ArrowLeft: on && (() => store.step(-1)),
      }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      const card = on && /^[1-9]$/.test(event.key) && document.querySelector(`[data-card="${event.key}"]`);
      if (!act && !card) return;
      event.preventDefault();
      if (act) act();
      else card.click();
    });
  };
})();
