/* The head of the page: the switch between light and dark. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  /** Called by the component's js_on_load. */
  Playground.mountHeader = (element) =>
    element.addEventListener("click", (event) => event.target.closest(".theme") && Playground.switchDress());

  const EVERY_MS = 5000;

  /** Called by the component that notices another pair: while the page is seen and no run is on, it asks now and then. */
  Playground.followPair = (trigger, server) => {
    let known = null;
    setInterval(async () => {
      if (document.hidden || Playground.store?.live) return;
      const chosen = await server.chosen().catch(() => null); // the server went away: a run says so
      if (chosen === null) return;
      if (known !== null && chosen !== known) trigger("tick");
      known = chosen;
    }, EVERY_MS);
  };
})();
