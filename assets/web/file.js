/* In an exported page, or one of a static site: the trace stands in the document. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { Store, Tour, View, define, dressPage, present, printLight, wantsSlowMotion } = Playground;

  /** Light or dark, as chosen or as the system has it. */
  Playground.dressFile = () => {
    const dark = globalThis.matchMedia("(prefers-color-scheme: dark)");
    const dress = () => dressPage() ?? document.body.classList.toggle("dark", dark.matches);
    dark.addEventListener("change", dress);
    dress();
  };

  /** definitions: of the words and figures. */
  Playground.openFile = (definitions) => {
    define(definitions);
    Playground.dressFile();
    printLight();
    document.body.classList.toggle("pg-embed", location.hash === "#embed");
    const store = new Store();
    store.slowMotion = wantsSlowMotion();
    const view = new View(store, { server: null });
    Object.assign(Playground, { store, view });
    document.getElementById("pg-playground").replaceChildren(view.element);
    Playground.mountRounds(document.getElementById("pg-rounds"), store, true);
    present(store);
    const step = Tour.asked();
    if (step >= 0) store.on("run", () => setTimeout(() => view.guide(step)));
    store.show(JSON.parse(document.getElementById("pg-trace").textContent));
  };
})();
