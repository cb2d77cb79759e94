/* The head of the page: the switch between light and dark. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  /** Called by the component's js_on_load. */
  Playground.mountHeader = (element) =>
    element.addEventListener("click", (event) => event.target.closest(".theme") && Playground.switchDress());
})();
