/* The head of the page: the switch between light and dark. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  /** Called by the component's js_on_load. */
  Playground.mountHeader = (element) =>
    element.addEventListener("click", (event) => event.target.closest(".theme") && Playground.switchDress());

  const AGAIN_MS = 1000;
  const TRIES = 30;

  /** Called by the component that is told of another pair by the server, while the page is seen. */
  Playground.followPair = (trigger, address) => {
    let stream = null;
    let loaded = null;
    const chooser = () => document.querySelector("#pair input");

    /** Show the pair that is loaded; again where the page was not yet listening, or loads a pair itself. */
    const show = (wanted, tries = TRIES) => {
      if (wanted !== loaded || chooser()?.value === wanted || !tries) return;
      if (!chooser()?.disabled) trigger("tick");
      setTimeout(() => show(wanted, tries - 1), AGAIN_MS);
    };

    // a page that is not seen holds no connection: browsers have few for each host
    const follow = () => {
      if (document.hidden) {
        stream?.close();
        stream = null;
      } else if (!stream) {
        stream = new EventSource(address);
        stream.onmessage = ({ data }) => {
          const chosen = JSON.parse(data);
          if (chosen === loaded) return; // connected again: what is being chosen here stays
          loaded = chosen;
          show(chosen);
        };
      }
    };
    document.addEventListener("visibilitychange", follow);
    follow();
  };
})();
